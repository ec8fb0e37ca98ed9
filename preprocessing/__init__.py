"""Owns every on-disk format of the data."""
