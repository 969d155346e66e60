"""Builds the public names and URLs of stored images, for the pages and the API."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import PurePath
from urllib.parse import urlsplit, urlunsplit

from flask import url_for

from searchdb.clock import time_fragment
from searchdb.records import LARGEST_ID, StoredImage, mask_credentials

from .frames import is_frame, time_of

_ID_PLACEHOLDER = str(LARGEST_ID)
"""Stands for the id in a URL pattern; a valid id, so that the route accepts it."""


class Links:
    """Builds the URLs of images on this server, within one request.

    Flask builds one URL of each kind as a pattern, in which the id is then replaced: building every URL of a page with
    `url_for` takes longer than the rest of the page.
    """

    def __init__(self) -> None:
        self._page = url_for("pages.image", image_id=LARGEST_ID)
        self._file = url_for("images.file", image_id=LARGEST_ID)
        self._thumbnail = url_for("images.thumbnail", image_id=LARGEST_ID)
        self._preview = url_for("images.preview", image_id=LARGEST_ID)

    def page(self, image: StoredImage) -> str:
        """Return the URL of the image's HTML page."""
        return _with_id(self._page, image.id)

    def file(self, image: StoredImage) -> str:
        """Return the URL of the image itself: its own, or for a file the URL that serves it.

        That of a frame is its video's, with the time at which to start.
        """
        url = _without_password(image.video or image.image) if is_url(image) else _with_id(self._file, image.id)
        return url + time_fragment(time_of(image)) if is_frame(image) else url

    def thumbnail(self, image: StoredImage) -> str:
        """Return the URL of the image's thumbnail, with a version so that browsers can cache it."""
        if is_frame(image):
            return self.frame_thumbnail(image.id, image.sha256, time_of(image))
        return _with_id(self._thumbnail, image.id) + ("" if is_url(image) else _version(image))

    def preview(self, image: StoredImage) -> str:
        """Return the URL of the large version of an image file that browsers do not show."""
        return _with_id(self._preview, image.id) + _version(image)

    def frame_thumbnail(self, image_id: int, sha256: bytes | None, seconds: float) -> str:
        """Return the URL of the thumbnail of a frame, given by its id, its video's checksum and its time."""
        return f"{_with_id(self._thumbnail, image_id)}?v={frame_version(sha256, seconds)}"


def is_url(image: StoredImage) -> bool:
    """Whether a stored image, or the video that it is a frame of, is at a URL and not in a file."""
    return (image.video or image.image).startswith(("http://", "https://"))


def name_of(image: StoredImage) -> str:
    """Return an image's public name: its file name without the folder, or its URL without the password.

    That of a frame is its video's.
    """
    reference = image.video or image.image
    name = mask_credentials(reference) if is_url(image) else PurePath(reference).name
    return printable(name) or ("video" if is_frame(image) else "image")


def host_of(image: StoredImage) -> str | None:
    """Return the host of a URL image, None for a file."""
    try:
        return urlsplit(image.video or image.image).hostname if is_url(image) else None
    except ValueError:  # ingest stores no malformed URL, but SQL can
        return None


def _version(image: StoredImage) -> str:
    """Return the version in the URL of a file's thumbnail; without one, browsers ask for it each time."""
    return "" if image.sha256 is None else f"?v={thumbnail_version(image.sha256)}"


def thumbnail_version(sha256: bytes) -> str:
    """Return the version of a file's thumbnail: it changes with the file's content."""
    return sha256.hex()[:8]


def frame_version(sha256: bytes | None, seconds: float) -> str:
    """Return the version of a frame's thumbnail: it changes with the video's content and with the frame's time."""
    return thumbnail_version(hashlib.sha256((sha256 or b"") + repr(seconds).encode()).digest())


def printable(text: str) -> str:
    """Return the text with control characters and runs of whitespace replaced by single spaces."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).split())


def _with_id(pattern: str, image_id: int) -> str:
    return pattern.replace(_ID_PLACEHOLDER, str(image_id))


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # ingest stores no malformed URL, but SQL can
        return ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
