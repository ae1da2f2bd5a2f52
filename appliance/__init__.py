"""The attester: boots a locked set of artifacts, runs evals in sealed workers, and leaves a signed result bundle."""
