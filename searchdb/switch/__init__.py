"""Changes a collection from one model to another while it is searched."""
