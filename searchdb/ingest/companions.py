"""Reads the files that belong to an image, and tells whether they have changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import replace
from typing import Any

from searchdb.errors import FileUnreadableError, MetadataError
from searchdb.media.written.combination import combine
from searchdb.media.written.companion import read_companion
from searchdb.records import Companion, CompanionKind, SourceItem, WrittenMetadata

PARTS: tuple[CompanionKind, ...] = ("raw", "live")
"""Companions that would be images of their own, if they were alone. Their paths are in `metadata`, by kind."""
COMPANION_ERROR = "companion_error"
"""Key in `metadata` of why a companion's metadata is missing."""

logger = logging.getLogger(__name__)


def companion_state(item: SourceItem) -> str | None:
    """Return a digest of the names, sizes and times of an item's companions; None if there are none.

    Names count without the image's own, so that renaming an image with its companions changes nothing.
    """
    if not item.companions:
        return None
    stem = os.path.basename(item.image).rpartition(".")[0]  # noqa: PTH119
    described = sorted(
        [os.path.basename(each.path).removeprefix(stem), each.byte_size, str(each.modified_at)]  # noqa: PTH119
        for each in item.companions
    )
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def part_paths(item: SourceItem) -> dict[str, Any]:
    """Return what an image's `metadata` has of its parts: the path of the first of each kind."""
    paths: dict[str, Any] = {}
    for each in item.companions:
        if each.kind in PARTS:
            paths.setdefault(each.kind, each.path)
    return paths


def raw_beside(item: SourceItem) -> SourceItem | None:
    """Return the RAW file that belongs to an image as an item of its own, with the same sidecars; None without one."""
    raw = next((each for each in item.companions if each.kind == "raw"), None)
    if raw is None:
        return None
    name = os.path.basename(raw.path)  # noqa: PTH119
    return replace(
        item,
        image=raw.path,
        source_id=item.source_id and os.path.join(os.path.dirname(item.source_id), name),  # noqa: PTH118, PTH120
        companions=tuple(each for each in item.companions if each.kind not in PARTS),
        byte_size=raw.byte_size,
        modified_at=raw.modified_at,
    )


def read_companions(item: SourceItem, of_file: WrittenMetadata) -> tuple[SourceItem, WrittenMetadata]:
    """Return the item with what its `metadata` has of companions, and all that they and the file say about the image.

    XMP sidecars take precedence over the file, and the file over Google Takeout's JSON. A damaged companion is left
    out: the log and `metadata` say why. One that could not be read is no companion of the item that is returned, so
    that it is read when the item is ingested again.
    """
    if not item.companions:
        return item, of_file
    found: dict[CompanionKind, list[WrittenMetadata]] = {"xmp": [], "takeout": []}
    problems: list[str] = []
    kept: list[Companion] = []
    for each in item.companions:
        try:
            if each.kind in found:
                found[each.kind].append(read_companion(each))
        except MetadataError as exc:
            logger.warning("a file beside %s is ignored: %s", item.image, exc)
            problems.append(str(exc).replace(each.path, os.path.basename(each.path)))  # noqa: PTH119
            if isinstance(exc.__cause__, FileUnreadableError):
                continue
        kept.append(each)
    beside = part_paths(item) | ({COMPANION_ERROR: "; ".join(problems)} if problems else {})
    read = replace(item, companions=tuple(kept), metadata={**item.metadata, **beside})
    return read, combine(*found["xmp"], of_file, *found["takeout"])
