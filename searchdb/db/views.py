"""The SQL views: creates those that a collection's schema lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from searchdb.bundled import migrations_folder

VIEWS: Mapping[str, str] = {"videos": "videos_v1"}
"""The views and the files in migrations/sql that define them."""


def install_views(connection: Connection, names: Sequence[str]) -> None:
    """Create views in the first schema of the search_path."""
    for name in names:
        connection.execute(text((migrations_folder() / "sql" / f"{VIEWS[name]}.sql").read_text(encoding="utf-8")))
