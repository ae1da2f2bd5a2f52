"""Bridges to the harnesses of others, which ask a pinned model in a sealed worker as if it were any model."""
