"""Measurements: `python -m tests.bench`. One JSON object a measure to build/bench.jsonl, a table to the terminal."""
