"""Fakes that really sign, under roots of their own."""
