"""Offline lookup of countries by their borders."""
