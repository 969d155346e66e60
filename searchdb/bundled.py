"""Finds `web` and `migrations`: inside the package in a wheel, beside it in the repository."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent


def migrations_folder() -> Path:
    """Return the folder with Alembic's scripts."""
    inside = PACKAGE / "migrations"
    return inside if inside.is_dir() else PACKAGE.parent / "migrations"


def import_web() -> ModuleType:
    """Import and return the web package that belongs to this searchdb: `searchdb.web`, or the repository's `web`."""
    if (PACKAGE / "web").is_dir():
        return import_module("searchdb.web")
    # First on the path: another `web`, installed or in the working directory, must not be taken for ours. Gunicorn puts
    # the working directory first later, when the package is already imported.
    sys.path.insert(0, str(PACKAGE.parent))
    return import_module("web")
