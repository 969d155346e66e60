"""The vector index: building, tuning, measuring recall, and reporting its state."""
