"""The demo: an album of drawn postcards, and the small CLIP that was trained on such postcards."""
