"""Compares two embedding models on a sample of a collection, before the collection is switched to one of them."""
