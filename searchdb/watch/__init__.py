"""Follows folders and keeps the collection equal to what is in them."""
