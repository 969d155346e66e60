"""Image files over HTTP: originals, thumbnails and uploads."""
