"""The HTML pages: search, results, one image, status."""
