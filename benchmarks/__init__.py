"""Benchmarks: each module asks one question, measures both sides in one run, and answers with ratios."""
