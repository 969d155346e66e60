"""Writes the collection: the queue, the pipeline from reference to row, and the worker."""
