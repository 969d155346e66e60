"""Searches the collection: ranking, filters, relevance, and the cache of query embeddings."""
