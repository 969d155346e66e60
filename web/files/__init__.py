"""Serves and reads image files over HTTP: originals, thumbnails and uploads."""
