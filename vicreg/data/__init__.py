"""Data sets, samplers and subsets."""
