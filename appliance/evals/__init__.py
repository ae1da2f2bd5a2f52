"""Suites, data sets, templates and scorers, and the sealed worker that runs them."""
