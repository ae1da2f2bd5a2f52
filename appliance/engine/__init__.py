"""The pinned llama.cpp engine: its recipe, its source, its reproducible build."""
