"""Find pictures by meaning, in SQL: CLIP embeddings in PostgreSQL with pgvector.

>>> from searchdb import SearchDB
>>> db = SearchDB()
>>> db.ingest_files("~/Pictures")
>>> for hit in db.search("a dog sitting on a bench", count=5):
...     print(hit.image, hit.similarity)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from searchdb.errors import SearchDBError

if TYPE_CHECKING:
    from searchdb.client import SearchDB
    from searchdb.config import Settings

__all__ = ["SearchDB", "SearchDBError", "Settings"]


def __getattr__(name: str) -> Any:
    """Import the heavier names only when they are asked for."""
    if name == "SearchDB":
        from searchdb.client import SearchDB

        return SearchDB
    if name == "Settings":
        from searchdb.config import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
