"""Formats as a whole."""
