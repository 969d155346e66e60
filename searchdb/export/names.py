"""Names the files of an exported folder after their images, ranked, unique, and safe on every file system."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from searchdb.clock import decimal_seconds
from searchdb.records import is_url, nfc

MIN_DIGITS = 3
"""Digits of a number: `001`, more if there are more images."""
MAX_STEM_BYTES = 150
"""Longest name without number and extension, in UTF-8: file systems allow 255 bytes, encrypted ones 143 characters."""
MAX_EXTENSION_CHARACTERS = 10

_EXTENSIONS = {"JPEG": ".jpg", "TIFF": ".tif"}
"""Extensions of formats that are not their name."""
# What is not printable, and what Windows and macOS refuse in names: exported folders end up on USB sticks and shares.
_UNSAFE = re.compile(r'[/\\<>:"|?*]')
_EXTENSION = re.compile(rf"\.[A-Za-z0-9]{{1,{MAX_EXTENSION_CHARACTERS}}}\Z")


def file_name(number: int, total: int, image: str, *, extension: str | None = None, time: float | None = None) -> str:
    """Return a name such as `001 harbour.jpg`, or `002 clip 12.5s.webp` for a frame.

    Args:
        number: of the image, from 1 on; it makes the name unique.
        total: number of images, which says how many digits there are.
        image: path or URL of the image or video.
        extension: of the file, with its dot; by default that of `image`, if it has one.
        time: seconds from the start of the video.
    """
    last = _last_part(image)
    found = _EXTENSION.search(last, 1)  # a name that begins with a dot is no extension
    stem = _safe(last[: found.start()] if found else last)
    if extension is None:
        extension = found[0] if found else ""
    moment = "" if time is None else f" {decimal_seconds(time)}s"
    digits = max(MIN_DIGITS, len(str(total)))
    return f"{number:0{digits}} {_shortened(stem)}{moment}".rstrip(" .") + extension


def extension_of(form: str) -> str:
    """Return the extension of files of one of our formats, such as `.jpg` for JPEG."""
    return _EXTENSIONS.get(form, f".{form.lower()}")


def _last_part(image: str) -> str:
    if is_url(image):
        try:
            parts = urlsplit(image)
        except ValueError:
            return ""
        return unquote(PurePosixPath(parts.path).name) or parts.hostname or ""
    return PurePosixPath(image).name


def _safe(text: str) -> str:
    """Return a text without separators, control, format and surrogate characters, and dots and blanks at its ends."""
    kept = (c if unicodedata.category(c)[0] != "C" and c.isprintable() else "_" for c in nfc(text))
    return _UNSAFE.sub("_", "".join(kept)).strip(" .")


def _shortened(stem: str) -> str:
    return stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore").strip(" .") or "image"
