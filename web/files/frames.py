"""What pages and the API show of a frame: its time in the video, the video's length, and the media type of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from searchdb.records import StoredImage
from searchdb.search.moments import MAX_SECONDS

_QUICKTIME_ATOMS = rb"(moov|mdat|wide|free|skip|pnot)"
_VIDEO_TYPES = (
    ("video/quicktime", re.compile(rb"....ftypqt  |...." + _QUICKTIME_ATOMS, re.DOTALL)),
    ("video/3gpp", re.compile(rb"....ftyp3g[p2]", re.DOTALL)),
    ("video/mp4", re.compile(rb"....ftyp", re.DOTALL)),
    ("video/webm", re.compile(rb"\x1aE\xdf\xa3.{0,64}?\x42\x82.webm", re.DOTALL)),
    ("video/x-matroska", re.compile(rb"\x1aE\xdf\xa3", re.DOTALL)),
    ("video/x-msvideo", re.compile(rb"RIFF....AVI ", re.DOTALL)),
    ("video/ogg", re.compile(rb"OggS")),
    ("video/mpeg", re.compile(rb"\0\0\x01[\xb3\xba]")),
    ("video/mp2t", re.compile(rb"\x47.{187}\x47", re.DOTALL)),
)
"""Media types of the containers, by how a file begins. Browsers run nothing in any of them."""


def video_type_of(head: bytes) -> str | None:
    """Return the media type of a video that begins with these bytes, None if it is in no known container."""
    return next((name for name, beginning in _VIDEO_TYPES if beginning.match(head)), None)


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


def at_time(seconds: float) -> str:
    """Return the fragment with which a player starts at this second, such as `#t=12.5`."""
    return "#t=" + f"{seconds:.3f}".rstrip("0").rstrip(".")


def public_metadata(metadata: Mapping[str, Any], video: str) -> dict[str, Any]:
    """Return a frame's metadata with the video's public name in place of its path or URL."""
    return {**metadata, "video": video} if "video" in metadata else dict(metadata)


def _seconds(value: object) -> float | None:
    """Return a length of time, which SQL may have written; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        return None
    return float(value)
