"""The type of the fixture `new_settings`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from searchdb.config import Settings

NewSettings = Callable[[Path], AbstractContextManager[Settings]]
"""Takes a home; gives settings that name a fresh, migrated database, which is dropped when the context ends."""
