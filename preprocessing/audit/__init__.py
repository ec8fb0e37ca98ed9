"""Leakage audit of splits."""
