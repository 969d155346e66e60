"""The demo: an album of drawn postcards, and a small CLIP trained on such postcards."""
