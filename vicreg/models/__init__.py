"""Backbones, the VICReg network and classification heads."""
