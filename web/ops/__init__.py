"""Operating the server: health, limits, logs, metrics and gunicorn."""
