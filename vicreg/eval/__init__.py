"""Evaluation of backbones."""
