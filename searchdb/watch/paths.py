"""Compares paths of folders and files as text."""

from __future__ import annotations

import os


def is_in(path: str, folder: str) -> bool:
    """Whether a path is that of the folder, or of something in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
