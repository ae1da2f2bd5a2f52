"""Gets evidence from the hardware that this machine runs on; `attest` is what judges it, elsewhere and later."""
