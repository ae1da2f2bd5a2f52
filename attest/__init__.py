"""Formats and the offline verifier. No network, no device, no environment; clock, roots and nonce are parameters."""

__version__ = "0.1.0"
