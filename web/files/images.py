"""Serves the pictures themselves, by id: files from where their row says they are, URLs by a redirect to their host."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

from flask import Blueprint, Response, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import wrap_file

from searchdb.errors import FileUnreadableError, InvalidReferenceError, NotAnImageError, TooManyBytesError
from searchdb.media.decode import SNIFFED_BYTES, decode, format_of
from searchdb.records import FetchedImage, SourceItem, StoredImage, clean_url

from ..backend import backend
from .thumbnails import LONGEST_SIDE, make_thumbnail
from .uploads import decoding

blueprint = Blueprint("images", __name__)

NOT_SHOWN_BY_BROWSERS = frozenset({"image/tiff"})
"""What we serve but most browsers cannot show: pages show its thumbnail instead."""

MIMETYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}
"""Of raster formats only: an SVG or HTML file would be a page of ours, with all that a page may do."""


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """A picture's file, open at its first byte, with the type that its content has."""

    file: BinaryIO
    mimetype: str
    status: os.stat_result


def is_url(image: StoredImage) -> bool:
    """Whether a stored picture is at a URL rather than in a file."""
    return image.image.startswith(("http://", "https://"))


def open_picture(image: StoredImage) -> PictureFile:
    """Open the file of a stored picture, which may have changed in every way since it was stored.

    Raises:
        FileUnreadableError: it is gone, may not be read, or is no longer a regular file.
        NotAnImageError: its content is in none of the formats that are served.
    """
    if not Path(image.image).is_absolute():
        raise FileUnreadableError("This picture was not stored as a file.")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(image.image, "rb", opener=_opener))
            status = os.fstat(file.fileno())
            # Not by file.read: servers that send by descriptor would begin after what it has buffered.
            head = os.pread(file.fileno(), SNIFFED_BYTES, 0) if stat.S_ISREG(status.st_mode) else None
        except OSError as exc:
            raise FileUnreadableError("The file of this picture is gone, or may no longer be read.") from exc
        if head is None:
            raise FileUnreadableError("What is in the place of this picture's file is not a file any more.")
        try:
            mimetype = MIMETYPES[format_of(head)]
        except NotAnImageError as exc:
            raise NotAnImageError("The file of this picture does not hold a picture any more.") from exc
        stack.pop_all()
        return PictureFile(file=file, mimetype=mimetype, status=status)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe must not wait for somebody to write into it


@blueprint.get("/images/<id:image_id>/file")
def file(image_id: int) -> ResponseReturnValue:
    """Serve the picture as it is."""
    image = backend().get(image_id)
    if is_url(image):
        return _to_its_host(image.image)
    picture = open_picture(image)
    response = Response(wrap_file(request.environ, picture.file), mimetype=picture.mimetype, direct_passthrough=True)
    response.call_on_close(picture.file.close)
    response.content_length = picture.status.st_size
    response.last_modified = datetime.fromtimestamp(picture.status.st_mtime, UTC)
    response.set_etag(f"{picture.status.st_mtime_ns:x}-{picture.status.st_size:x}-{picture.status.st_ino:x}")
    response.headers["Cache-Control"] = "private, no-cache"
    try:
        return response.make_conditional(request.environ, accept_ranges=True, complete_length=picture.status.st_size)
    except RequestedRangeNotSatisfiable:
        picture.file.close()
        raise


@blueprint.get("/images/<id:image_id>/thumbnail")
def thumbnail(image_id: int) -> ResponseReturnValue:
    """Serve the picture in small, as WebP; with `?v=` and its checksum's first 8 digits it may be kept for ever."""
    image = backend().get(image_id)
    if is_url(image):
        return _to_its_host(image.rendition or image.image)
    sha256, data = _thumbnail_of(image)
    response = Response(data, mimetype="image/webp")
    response.set_etag(sha256.hex())
    asked_by_content = request.args.get("v") == sha256.hex()[:8]
    response.headers["Cache-Control"] = (
        "private, max-age=31536000, immutable" if asked_by_content else "private, no-cache"
    )
    return response.make_conditional(request.environ)


def _thumbnail_of(image: StoredImage) -> tuple[bytes, bytes]:
    """Return checksum and thumbnail of what was stored; of what its file holds now if it has changed since."""
    cache = backend().thumbnails
    data = cache.get(image.sha256)
    if data is not None:
        return image.sha256, data
    settings = backend().settings
    with decoding:
        picture = open_picture(image)
        with picture.file:
            if picture.status.st_size > settings.max_image_bytes:
                raise TooManyBytesError(settings.max_image_bytes, picture.status.st_size)
            try:
                content = picture.file.read(settings.max_image_bytes)
            except OSError as exc:
                raise FileUnreadableError("The file of this picture can no longer be read.") from exc
        item = SourceItem(image=image.image, source=image.source)
        fetched = FetchedImage(item=item, data=content)
        decoded = decode(fetched, max_pixels=settings.max_image_pixels, needed=LONGEST_SIDE)
        data = make_thumbnail(decoded.pixels)
    if decoded.sha256 == image.sha256:
        cache.put(image.sha256, data)
    return decoded.sha256, data


def _to_its_host(url: str) -> ResponseReturnValue:
    try:
        parts = urlsplit(clean_url(url))
    except ValueError as exc:
        raise InvalidReferenceError(f"The URL of this picture {exc}.") from exc
    # Browsers load no picture from a URL with a password in it, and nobody else should learn it.
    response = redirect(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response
