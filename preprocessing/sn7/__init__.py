"""Preparation of SpaceNet-7 mosaics."""
