"""Image bytes: fetching, decoding and embedding."""
