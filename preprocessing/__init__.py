"""Preparation and audit of data sets."""
