"""Semantic image search in SQL: CLIP embeddings in PostgreSQL with pgvector.

>>> from searchdb import SearchDB
>>> db = SearchDB()
>>> db.ingest_files("~/Pictures")
>>> for hit in db.search("a dog sitting on a bench", count=5):
...     print(hit.image, hit.similarity)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from searchdb.errors import (
    CompareError,
    ConfigError,
    DatabaseError,
    ImageError,
    ImageNotFoundError,
    ModelError,
    QueryError,
    SearchDBError,
    SourceError,
)

if TYPE_CHECKING:
    from searchdb.client import SearchDB
    from searchdb.compare.records import ModelQuery
    from searchdb.config import Settings
    from searchdb.records import Hit
    from searchdb.search.filters import Filters

    __version__: str

__all__ = [
    "CompareError",
    "ConfigError",
    "DatabaseError",
    "Filters",
    "Hit",
    "ImageError",
    "ImageNotFoundError",
    "ModelError",
    "ModelQuery",
    "QueryError",
    "SearchDB",
    "SearchDBError",
    "Settings",
    "SourceError",
    "__version__",
]

_MODULES = {
    "Filters": "searchdb.search.filters",
    "Hit": "searchdb.records",
    "ModelQuery": "searchdb.compare.records",
    "SearchDB": "searchdb.client",
    "Settings": "searchdb.config",
}
"""Names whose modules load slowly, imported on first use."""


def __getattr__(name: str) -> Any:
    """Import a name on first use."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("searchdb")
    elif name in _MODULES:
        from importlib import import_module

        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
