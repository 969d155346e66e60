"""The families of embedding models: what their files say, how their images are scaled, and how they are loaded."""
