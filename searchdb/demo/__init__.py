"""The demo: an album of drawn postcards, and the small CLIP that was trained on such postcards."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
"""The weights of the small CLIP in Hugging Face layout; `SEARCHDB_MODEL=demo` means this folder."""
