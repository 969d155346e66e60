"""What pages and the API show of a frame: its time in the video, the video's length, and the media type of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from searchdb.records import StoredImage
from searchdb.search.moments import MAX_SECONDS
from searchdb.video.recognition import demuxer_of

_TYPES = {
    "mov": "video/mp4",
    "matroska": "video/x-matroska",
    "avi": "video/x-msvideo",
    "mpeg": "video/mpeg",
    "mpegvideo": "video/mpeg",
    "mpegts": "video/mp2t",
}
"""Media types of the containers that are read. Browsers run nothing in any of them."""
_RELATED_TYPES = (
    ("video/quicktime", re.compile(rb"(?s)....ftypqt  |....(moov|mdat|wide|pnot)")),
    ("video/3gpp", re.compile(rb"(?s)....ftyp3g[p2]")),
    ("video/webm", re.compile(rb"(?s)\x1aE\xdf\xa3.{0,64}?\x42\x82.webm")),
)
"""Media types of variants, by how a file begins."""


def video_type_of(head: bytes) -> str | None:
    """Return the media type of a video that begins with these bytes, None if it is in no container that is read."""
    container = demuxer_of(head)
    if container is None:
        return None
    return next((name for name, beginning in _RELATED_TYPES if beginning.match(head)), _TYPES.get(container))


def is_frame(image: StoredImage) -> bool:
    """Whether a stored image is a frame of a video."""
    return image.video is not None


def time_of(image: StoredImage) -> float:
    """Return the seconds from the start of the video to a frame."""
    return _seconds(image.video_time) or 0.0


def duration_of(image: StoredImage) -> float | None:
    """Return the length of a frame's video in seconds, None if it is unknown."""
    return _seconds(image.metadata.get("duration")) if is_frame(image) else None


def codec_of(image: StoredImage) -> str | None:
    """Return the name of the video's codec, such as hevc."""
    codec = image.metadata.get("codec") if is_frame(image) else None
    return codec if isinstance(codec, str) else None


def public_metadata(metadata: Mapping[str, Any], video: str) -> dict[str, Any]:
    """Return a frame's metadata with the video's public name in place of its path or URL."""
    return {**metadata, "video": video} if "video" in metadata else dict(metadata)


def _seconds(value: object) -> float | None:
    """Return a length of time, which SQL may have written; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        return None
    return float(value)
