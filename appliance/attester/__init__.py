"""Attesters: what a machine's hardware says of a run, one module a platform."""
