"""Logging, files, command lines and plots."""
