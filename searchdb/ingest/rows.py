"""Turns embedded images and failures into rows, with values that PostgreSQL can store."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np

from searchdb.ingest.companions import companion_state
from searchdb.media.written.times import is_plausible
from searchdb.records import TAKEN_AT_FROM, EmbeddedImage, FailedImage, SourceItem, WrittenMetadata, nfc

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""Characters that a Python str can hold and PostgreSQL's text cannot: NUL and lone surrogates."""
FIRST_FILE_TIME = datetime(1980, 1, 2, tzinfo=UTC)
"""Earlier times of files are those of clocks and archives that are not set: the zeros of Unix and of FAT."""
MAX_INDEXED_CHARACTERS = 300
"""Longest camera, country, city or tag: PostgreSQL's indexes on them refuse texts of more than 2,704 bytes."""
MAX_WORDS_BYTES = 100_000
"""Longest description, and all tags of an image together: PostgreSQL refuses an entry of over 1 MB in the full-text
index, in which words take more space than in the text, and those with hyphens count several times."""


_ALWAYS_STORABLE = frozenset({int, bool, bytes, datetime, np.ndarray})


def image_row(embedded: EmbeddedImage, model_id: int) -> dict[str, Any]:
    """Return a row of `images`: the source's metadata takes precedence over the file's own."""
    decoded, item = embedded.decoded, embedded.decoded.item
    row = {
        "image": item.image,
        "rendition": item.rendition,
        "source": nfc(item.source),
        "source_id": item.source_id,
        "embedding": embedded.embedding,
        "embedding_model_id": model_id,
        "sha256": decoded.sha256,
        "width": decoded.width,
        "height": decoded.height,
        "byte_size": decoded.byte_size,
        "modified_at": item.modified_at,
        "colour": decoded.colour,
    }
    return storable_row(row) | metadata_row(item, decoded.written)


def metadata_row(item: SourceItem, written: WrittenMetadata) -> dict[str, Any]:
    """Return the columns of `images` that come from the source, from what is written in the file, and beside it."""
    item = with_written(item, written).in_nfc()
    return storable_row(
        {
            "description": item.description and _cut(item.description, MAX_WORDS_BYTES),
            "credit": item.credit,
            "credit_url": item.credit_url,
            "page_url": item.page_url,
            "taken_at": item.taken_at,
            "camera": item.camera and item.camera[:MAX_INDEXED_CHARACTERS],
            "country": item.country and item.country[:MAX_INDEXED_CHARACTERS],
            "city": item.city and item.city[:MAX_INDEXED_CHARACTERS],
            "latitude": item.latitude,
            "longitude": item.longitude,
            "tags": _indexed_tags(item.tags),
            "rating": item.rating,
            "folder": item.folder,
            "metadata": item.metadata,
            "companion_state": companion_state(item),
        }
    )


def with_written(item: SourceItem, written: WrittenMetadata) -> SourceItem:
    """Return the item with what its file and companions say where its source says nothing.

    A title without a description becomes the description. Keywords are added to the tags. If nothing else tells when
    the image was taken, it is the file's time.
    """
    located = item.latitude is not None and item.longitude is not None
    taken_at, taken_at_from = _taken_at(item, written)
    description = item.description or written.description or written.title
    more = {
        "title": None if written.title == description else written.title,
        "copyright": written.copyright,
        "label": written.label,
    }
    said = {name: value for name, value in more.items() if value is not None}
    return replace(
        item,
        description=description,
        credit=item.credit or written.creator,
        taken_at=taken_at,
        camera=item.camera or written.camera,
        country=item.country or written.country,
        city=item.city or written.city,
        latitude=item.latitude if located else written.latitude,
        longitude=item.longitude if located else written.longitude,
        tags=(*item.tags, *written.keywords),
        metadata={**said, **item.metadata, **({TAKEN_AT_FROM: taken_at_from} if taken_at_from else {})},
        rating=written.rating if item.rating is None else item.rating,
    )


def _taken_at(item: SourceItem, written: WrittenMetadata) -> tuple[datetime | None, str | None]:
    """Return when the image was taken, and what says so unless it is the source or the camera's DateTimeOriginal."""
    if item.taken_at is not None:
        return item.taken_at, None
    if written.taken_at is not None:
        return written.taken_at, None if written.taken_at_from == "DateTimeOriginal" else written.taken_at_from
    modified_at = item.modified_at
    if modified_at is not None and modified_at >= FIRST_FILE_TIME and is_plausible(modified_at):
        return modified_at, "file"
    return None, None


def _indexed_tags(tags: Sequence[str]) -> list[str]:
    """Return the tags, in the length and number that the indexes on them hold."""
    left = MAX_WORDS_BYTES
    kept: list[str] = []
    for tag in dict.fromkeys(tag[:MAX_INDEXED_CHARACTERS] for tag in tags):
        left -= len(tag.encode("utf-8", "surrogatepass")) + 1
        if left < 0:
            break
        kept.append(tag)
    return kept


def _cut(text: str, size: int) -> str:
    """Return the text cut to `size` bytes of UTF-8."""
    encoded = text.encode("utf-8", "surrogatepass")
    return text if len(encoded) <= size else encoded[:size].decode("utf-8", "ignore")


def failure_row(failure: FailedImage) -> dict[str, Any]:
    """Return a row of `ingest_failures`."""
    return storable_row(
        {
            "image": failure.image,
            "source": failure.source,
            "error": type(failure.error).__name__,
            "message": str(failure.error),
            "retryable": failure.error.retryable,
            "item": None if failure.item is None else failure.item.to_json(),
        }
    )


def storable_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table whose values are all storable."""
    return {
        name: value if value is None or type(value) in _ALWAYS_STORABLE else storable(value)
        for name, value in row.items()
    }


def storable(value: Any) -> Any:
    """Return the value with what PostgreSQL cannot store replaced: metadata and EXIF may hold anything."""
    if value is None or type(value) in _ALWAYS_STORABLE:  # most values: the checks below take a microsecond each
        return value
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        return UNSTORABLE.sub("�", value)
    if isinstance(value, Mapping):
        mapping = cast(Mapping[Any, Any], value)
        return {storable(name): storable(part) for name, part in mapping.items()}
    if isinstance(value, list | tuple):
        return [storable(part) for part in cast(Sequence[Any], value)]
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no NaN and no infinity
        return None
    return value
