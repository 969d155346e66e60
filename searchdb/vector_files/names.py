"""Finds the columns of vectors and of references by their usual names, or says which columns there are."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from searchdb.errors import SourceError
from searchdb.records import is_url
from searchdb.sources import printable

VECTOR_NAMES = (
    "embedding", "embeddings", "vector", "vectors", "emb", "embs", "img_emb", "image_emb", "image_embedding",
    "image_embeddings", "image_embeds", "image_vector", "image_vectors", "image_features", "clip_embedding",
    "clip_embeddings", "features", "feature",
)  # fmt: skip
"""Usual names of columns of vectors, in pgvector tables, clip-retrieval, datasets and notebooks; likely ones first."""
REFERENCE_NAMES = (
    "image", "images", "image_path", "image_paths", "path", "paths", "file", "files", "file_path", "file_paths",
    "filepath", "filename", "filenames", "file_name", "file_names", "url", "urls", "image_url", "image_urls",
    "photo_image_url", "uri", "name", "names", "key", "keys", "id", "ids", "photo_id", "image_id", "uid",
)  # fmt: skip
"""Usual names of columns of paths and URLs, and, behind them, of ids."""
_SAMPLE = 100
"""Values of a column that are looked at."""
_SHOWN_COLUMNS = 30
"""Names that a message has at most."""


def vector_column(usable: Collection[str], columns: Mapping[str, str], wanted: str | None, name: str) -> str:
    """Return the column of vectors: the `wanted` one, or the first of VECTOR_NAMES, or the only usable one.

    Args:
        usable: the columns that may hold vectors.
        columns: all columns, with what a message says about each.
        wanted: the name that a person gave.
        name: the file's, for messages.

    Raises:
        SourceError: there is none, or several could be meant, or the wanted one holds something else.
    """
    if wanted is not None:
        if wanted in usable:
            return wanted
        what = f"holds {columns[wanted]}, not vectors" if wanted in columns else "does not exist"
        raise SourceError(f"{name}: the column {printable(wanted)!r} {what}. {_listed(columns)}")
    by_name = {each.lower(): each for each in usable}
    found = next((by_name[each] for each in VECTOR_NAMES if each in by_name), None)
    if found is None and len(usable) == 1:
        [found] = usable
    if found is None:
        why = "several columns hold vectors" if usable else "no column holds vectors"
        raise SourceError(f"{name}: {why}; name the right one with --vector. {_listed(columns)}")
    return found


def reference_column(
    columns: Mapping[str, Sequence[Any]], wanted: str | None, base: str | None, name: str
) -> str | None:
    """Return the column of references: the `wanted` one, or the best by name and by what its first values look like.

    Paths of files that exist here come first, then URLs, then other absolute paths, then what comes first in
    REFERENCE_NAMES. Without a usual name a column is taken whose values are all URLs or absolute paths; None if there
    is none.

    Raises:
        SourceError: the wanted one does not exist.
    """
    if wanted is not None:
        if wanted not in columns:
            raise SourceError(f"{name} has no column {printable(wanted)!r}. {_listed(dict.fromkeys(columns, ''))}")
        return wanted
    by_name = {each.lower(): each for each in columns}
    usual = [by_name[each] for each in REFERENCE_NAMES if each in by_name]
    ranks = {each: _rank(columns[each], base) for each in (*usual, *(each for each in columns if each not in usual))}
    best = max(ranks, key=lambda each: ranks[each], default=None)  # the first of those with the same rank
    if best is not None and (ranks[best] > 0 or best in usual):
        return best
    return None


def path_of(value: Any) -> Any:
    """Return the path of an image as the library datasets stores it, `{"path": ...}`; other values as they are."""
    return cast("dict[str, Any]", value).get("path") if isinstance(value, dict) else value


def _rank(values: Sequence[Any], base: str | None) -> int:
    """Return 3 for files that exist here, 2 for URLs, 1 for absolute paths, 0 for anything else."""
    texts = [path_of(value) for value in values[:_SAMPLE]]
    texts = [text for text in texts if isinstance(text, str) and text]
    if not texts:
        return 0
    if all(is_url(text.lower()) for text in texts):
        return 2
    if len(texts[0]) < os.pathconf("/", "PC_PATH_MAX") and "\0" not in texts[0]:
        with suppress(UnicodeEncodeError):  # of ~ and lone surrogates
            path = os.path.join(base or "/nowhere", os.path.expanduser(texts[0]))  # noqa: PTH111, PTH118
            if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder above may not be entered
                return 3
    return 1 if all(text.startswith(("/", "~")) for text in texts) else 0


def _listed(columns: Mapping[str, str]) -> str:
    shown = [f"{printable(each)} ({what})" if what else printable(each) for each, what in columns.items()]
    more = f" and {len(shown) - _SHOWN_COLUMNS:,} more" if len(shown) > _SHOWN_COLUMNS else ""
    return f"It has {', '.join(shown[:_SHOWN_COLUMNS])}{more}" if shown else "It has no columns"
