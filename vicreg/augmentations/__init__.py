"""Augmentations of image batches."""
