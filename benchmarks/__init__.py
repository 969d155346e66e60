"""Benchmarks: each module answers one question with ratios, measured side by side in one run."""
