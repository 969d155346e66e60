"""The Unsplash Lite dataset: its files, columns, tables and photos."""
