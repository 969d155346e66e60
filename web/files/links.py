"""Builds the public names and URLs of stored images, for the pages and the API."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath
from urllib.parse import urlsplit, urlunsplit

from flask import url_for

from searchdb.records import LARGEST_ID, StoredImage, mask_credentials

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

    def page(self, image: StoredImage) -> str:
        """Return the URL of the image's HTML page."""
        return _with_id(self._page, image)

    def file(self, image: StoredImage) -> str:
        """Return the URL of the image itself: its own, or for a file the URL that serves it."""
        return _without_password(image.image) if is_url(image) else _with_id(self._file, image)

    def thumbnail(self, image: StoredImage) -> str:
        """Return the URL of the image's thumbnail, with a version so that browsers can cache it."""
        version = "" if is_url(image) else f"?v={thumbnail_version(image.sha256)}"
        return _with_id(self._thumbnail, image) + version


def is_url(image: StoredImage) -> bool:
    """Whether a stored image is at a URL and not in a file."""
    return image.image.startswith(("http://", "https://"))


def name_of(image: StoredImage) -> str:
    """Return an image's public name: its file name without the folder, or its URL without the password."""
    name = mask_credentials(image.image) if is_url(image) else PurePath(image.image).name
    return printable(name) or "image"


def host_of(image: StoredImage) -> str | None:
    """Return the host of a URL image, None for a file."""
    try:
        return urlsplit(image.image).hostname if is_url(image) else None
    except ValueError:  # ingest stores no malformed URL, but SQL can
        return None


def thumbnail_version(sha256: bytes) -> str:
    """Return the version of a file's thumbnail: it changes with the file's content."""
    return sha256.hex()[:8]


def printable(text: str) -> str:
    """Return the text with control characters and runs of whitespace replaced by single spaces."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).split())


def _with_id(pattern: str, image: StoredImage) -> str:
    return pattern.replace(_ID_PLACEHOLDER, str(image.id))


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # ingest stores no malformed URL, but SQL can
        return ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
