"""Recognises videos by their content, and names the demuxer that reads them."""

from __future__ import annotations

import re

from searchdb.errors import NotAnImageError
from searchdb.media.formats import HEIF_WITHOUT_HEVC, format_of

CONTAINERS = "MP4, QuickTime, Matroska, WebM, AVI, MPEG and MPEG-TS"
"""The containers that are read. Each further demuxer is more code that hostile files reach."""

_IMAGES = (b"hei|hev|mif1|msf1|avi[fs]|jxl |jp2 |crx ", *HEIF_WITHOUT_HEVC.values())
"""Brands of images that are in the container of QuickTime and MP4: HEIC, AVIF, JPEG XL, Canon's CR3 and others."""

_SIGNATURES = (
    ("mov", re.compile(rb"(?s)....ftyp(?!%b)|....(moov|mdat|wide|pnot)" % b"|".join(_IMAGES))),
    ("matroska", re.compile(rb"\x1aE\xdf\xa3")),
    ("avi", re.compile(rb"(?s)RIFF....AVI[ X\x19]")),
    ("mpeg", re.compile(rb"\0\0\x01\xba")),
    ("mpegvideo", re.compile(rb"\0\0\x01\xb3")),
    ("mpegts", re.compile(rb"(?s)G.{187}G.{187}G|.{4}G.{191}G.{191}G")),
)


def demuxer_of(head: bytes) -> str | None:
    """Return FFmpeg's name of the demuxer for a video that begins with these SNIFFED_BYTES; None if it is no video.

    Playlists (HLS, DASH) are none: their demuxers would open other files.
    """
    name = next((name for name, signature in _SIGNATURES if signature.match(head)), None)
    if name is None:
        return None
    try:
        format_of(head)  # an image that is in a container of videos, too
    except NotAnImageError:
        return name
    return None


def is_video(head: bytes) -> bool:
    """Whether a file that begins with these SNIFFED_BYTES is a video."""
    return demuxer_of(head) is not None
