"""Preparation of fMoW."""
