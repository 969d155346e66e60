"""Turns embedded images and failures into rows, with values that PostgreSQL can store."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from searchdb.media.exif import is_plausible
from searchdb.records import TAKEN_AT_FROM, DecodedImage, EmbeddedImage, FailedImage, SourceItem, nfc

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""Characters that a Python str can hold and PostgreSQL's text cannot: NUL and lone surrogates."""
FIRST_FILE_TIME = datetime(1980, 1, 2, tzinfo=UTC)
"""Earlier times of files are those of clocks and archives that are not set: the zeros of Unix and of FAT."""


def image_row(embedded: EmbeddedImage, model_id: int) -> dict[str, Any]:
    """Return a row of `images`: the source's metadata takes precedence over the file's own."""
    decoded, item = embedded.decoded, embedded.decoded.item.in_nfc()
    located = item.latitude is not None and item.longitude is not None
    taken_at, taken_at_from = _taken_at(item, decoded)
    return storable(
        {
            "image": item.image,
            "rendition": item.rendition,
            "source": item.source,
            "source_id": item.source_id,
            "embedding": embedded.embedding,
            "embedding_model_id": model_id,
            "sha256": decoded.sha256,
            "width": decoded.width,
            "height": decoded.height,
            "description": item.description,
            "credit": item.credit,
            "credit_url": item.credit_url,
            "page_url": item.page_url,
            "taken_at": taken_at,
            "camera": item.camera or (decoded.camera and nfc(decoded.camera)),
            "country": item.country,
            "city": item.city,
            "latitude": item.latitude if located else decoded.latitude,
            "longitude": item.longitude if located else decoded.longitude,
            "tags": list(item.tags),
            "metadata": {**item.metadata, **({TAKEN_AT_FROM: taken_at_from} if taken_at_from else {})},
            "byte_size": decoded.byte_size,
            "modified_at": item.modified_at,
            "colour": decoded.colour,
        }
    )


def _taken_at(item: SourceItem, decoded: DecodedImage) -> tuple[datetime | None, str | None]:
    """Return when the image was taken, and what says so unless it is the source or the camera's DateTimeOriginal."""
    if item.taken_at is not None:
        return item.taken_at, None
    if decoded.taken_at is not None:
        return decoded.taken_at, None if decoded.taken_at_from == "DateTimeOriginal" else decoded.taken_at_from
    modified_at = item.modified_at
    if modified_at is not None and modified_at >= FIRST_FILE_TIME and is_plausible(modified_at):
        return modified_at, "file"
    return None, None


def failure_row(failure: FailedImage) -> dict[str, Any]:
    """Return a row of `ingest_failures`."""
    return storable(
        {
            "image": failure.image,
            "source": failure.source,
            "error": type(failure.error).__name__,
            "message": str(failure.error),
            "retryable": failure.error.retryable,
            "item": None if failure.item is None else failure.item.to_json(),
        }
    )


def storable(value: Any) -> Any:
    """Return the value with characters that PostgreSQL cannot store replaced: metadata and EXIF may hold anything."""
    if isinstance(value, str):
        return UNSTORABLE.sub("�", value)
    if isinstance(value, Mapping):
        mapping = cast(Mapping[Any, Any], value)
        return {storable(name): storable(part) for name, part in mapping.items()}
    if isinstance(value, list | tuple):
        return [storable(part) for part in cast(Sequence[Any], value)]
    return value
