"""Images: a recipe and a lock of exact packages in, the same bytes out, on any machine and at any time."""
