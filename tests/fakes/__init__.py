"""Fake hardware that really signs, with synthetic roots."""
