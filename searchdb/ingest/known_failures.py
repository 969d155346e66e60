"""Decides whether a reference that failed before would fail again, as far as its error and the settings tell."""

from __future__ import annotations

import re
from dataclasses import dataclass

from searchdb.config import DEFAULT_MAX_VIDEO_BYTES, Settings
from searchdb.errors import (
    AddressRefusedError,
    DecoderLostError,
    ExtraMissingError,
    FileUnreadableError,
    NotAnImageError,
    TooManyBytesError,
    TooManyPixelsError,
    TooMuchMemoryError,
)
from searchdb.media.formats import READABLE, is_extra_installed

_SIZE = re.compile(r"the (?:image|video) is ([\d,]+) bytes, the limit is")
_PIXELS = re.compile(r"= ([\d,]+) pixels, the limit is")
_MEMORY = re.compile(r"takes ([\d,]+) bytes of memory, the limit is")
_EXTRA = re.compile(r"needs the extra (\w+):")
_LIMIT = re.compile(r"the limit is ([\d,]+)")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The settings that decide which images are refused."""

    allow_private_addresses: bool
    max_bytes: int
    max_pixels: int
    decode_memory: int
    max_video_bytes: int = DEFAULT_MAX_VIDEO_BYTES

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the limits in the settings."""
        return cls(
            allow_private_addresses=settings.allow_private_addresses,
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            decode_memory=settings.decode_memory,
            max_video_bytes=settings.max_video_bytes,
        )

    def lift(self, error: str, message: str) -> bool:
        """Whether they no longer refuse what a stored failure, given by class and message, was refused for.

        The message has the size of the image, if it was known, and the limit at the time. Permissions and disks leave
        no trace in a file's size and time, so one that could not be read is always tried again, and so is one
        whose decoder the system ended.
        """
        if error in (FileUnreadableError.__name__, DecoderLostError.__name__):
            return True
        if error == AddressRefusedError.__name__:
            return self.allow_private_addresses
        if error == TooManyBytesError.__name__:
            size, limit = _number(_SIZE, message), _number(_LIMIT, message)
            now = self.max_video_bytes if message.startswith("the video") else self.max_bytes
            return size <= now if size is not None else limit is not None and limit < now
        if error == TooManyPixelsError.__name__:
            pixels = _number(_PIXELS, message)
            return pixels is not None and pixels <= self.max_pixels
        if error == TooMuchMemoryError.__name__:
            size = _number(_MEMORY, message)
            return size is not None and size <= self.decode_memory
        if error == ExtraMissingError.__name__:
            extra = _EXTRA.search(message)
            return extra is not None and is_extra_installed(extra[1])
        if error == NotAnImageError.__name__:  # by a version that read other formats
            return "; searchdb reads " in message and not message.endswith(READABLE)
        return False


def _number(pattern: re.Pattern[str], message: str) -> int | None:
    found = pattern.search(message)
    return None if found is None else int(found[1].replace(",", ""))
