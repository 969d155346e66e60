"""Serves images, thumbnails and previews by id: files from disk, URL images by a redirect to their host."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit, urlunsplit

from flask import Blueprint, Response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestedRangeNotSatisfiable, ServiceUnavailable
from werkzeug.wsgi import wrap_file

from searchdb.errors import (
    BusyError,
    FileUnreadableError,
    InvalidReferenceError,
    NotAnImageError,
    TooManyBytesError,
    TooMuchMemoryError,
)
from searchdb.media.formats import SNIFFED_BYTES, format_of
from searchdb.media.thumbnails import LONGEST_SIDE, make_thumbnail
from searchdb.records import FetchedImage, SourceItem, StoredImage, clean_url
from searchdb.search.moments import frame_preview

from ..backend import backend
from .frames import is_frame, time_of, video_type_of
from .links import frame_version, is_url, thumbnail_version
from .thumbnails import PREVIEW_SIDE
from .uploads import decode_for_visitor, hold_file

blueprint = Blueprint("images", __name__)

NOT_SHOWN_BY_BROWSERS = frozenset({"image/tiff", "image/heic", "image/jxl", "image/x-dcraw"})
"""Formats that are served, but that most browsers cannot show: pages show the preview instead."""

MIMETYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
    "JPEG XL": "image/jxl",
    "RAW": "image/x-dcraw",  # what desktops call all of them; a RAW that is built like a TIFF may be served as that
}
"""Media types of the served formats: raster only, as an SVG or HTML file would run with this site's permissions."""


_NAMES = {mimetype: name for name, mimetype in MIMETYPES.items()}
_RAW_SUFFIX = re.compile(r"(?i)\.(dng|cr[23w]|nef|nrw|arw|sr[2fw]|raf|orf|rw[2l]|pef|iiq|3fr|fff|x3f|gpr)$")
"""By which a RAW is called by its own name, if it is one of these."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An open image file at position 0, with the media type of its content."""

    file: BinaryIO
    mimetype: str
    status: os.stat_result


class FilePart:
    """A range of an open file as a file of its own, with what servers need to send it."""

    def __init__(self, *, file: BinaryIO, start: int, length: int) -> None:
        self._file = file
        self._start = start
        self._length = length
        self.close = file.close
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position, or all that are left."""
        left = max(self._length - self.tell(), 0)
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, the position or the end of the range; return the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._length}[whence]
        return self._file.seek(self._start + base + offset) - self._start

    def tell(self) -> int:
        """Return the position, counted from the start of the range."""
        return self._file.tell() - self._start


def open_image_file(image: StoredImage) -> ImageFile:
    """Open the file of a stored image, or of a frame's video, which may have changed since it was stored.

    Raises:
        FileUnreadableError: the file is missing or unreadable, or is no longer a regular file.
        NotAnImageError: the content is in none of the served formats.
    """
    what, path = ("image", image.image) if image.video is None else ("video", image.video)
    if not Path(path).is_absolute():
        raise FileUnreadableError(f"This {what} was not stored as a file.")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb", opener=_opener))
            status = os.fstat(file.fileno())
            # Not file.read: servers that send by descriptor would start after the buffered bytes.
            head = os.pread(file.fileno(), SNIFFED_BYTES, 0) if stat.S_ISREG(status.st_mode) else None
        except OSError as exc:
            raise FileUnreadableError(f"The file of this {what} is gone or can no longer be read.") from exc
        if head is None:
            raise FileUnreadableError(f"The path of this {what} no longer leads to a regular file.")
        mimetype = _type_of(head) if image.video is None else video_type_of(head)
        if mimetype is None:
            article = "an image" if image.video is None else "a video"
            raise NotAnImageError(f"The file of this {what} no longer contains {article}.")
        stack.pop_all()
        return ImageFile(file=file, mimetype=mimetype, status=status)


def format_shown(mimetype: str, name: str) -> str:
    """Return how to call the format of an image that browsers do not show, such as HEIC; a RAW by its file's suffix."""
    found = _NAMES[mimetype]
    if found in ("RAW", "TIFF") and (suffix := _RAW_SUFFIX.search(name)):
        return suffix[1].upper()
    return found


def _type_of(head: bytes) -> str | None:
    try:
        return MIMETYPES[format_of(head)]
    except NotAnImageError:
        return None


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe must not wait for a writer


@blueprint.get("/images/<id:image_id>/file")
def file(image_id: int) -> ResponseReturnValue:
    """Serve the original image, or a frame's whole video."""
    image = backend().get(image_id)
    if is_url(image):
        return _redirect_to_host(image.video or image.image)
    image_file = open_image_file(image)
    response = Response(
        wrap_file(request.environ, image_file.file), mimetype=image_file.mimetype, direct_passthrough=True
    )
    response.call_on_close(image_file.file.close)
    response.content_length = image_file.status.st_size
    response.last_modified = datetime.fromtimestamp(image_file.status.st_mtime, UTC)
    response.set_etag(f"{image_file.status.st_mtime_ns:x}-{image_file.status.st_size:x}-{image_file.status.st_ino:x}")
    response.headers["Cache-Control"] = "private, no-cache"
    try:
        response.make_conditional(request.environ, accept_ranges=True, complete_length=image_file.status.st_size)
    except RequestedRangeNotSatisfiable:
        image_file.file.close()
        raise
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        # Werkzeug would read the range in this thread, at the speed of the client; a server sends a file by itself.
        start, length = response.content_range.start, response.content_length
        part = FilePart(file=image_file.file, start=start or 0, length=length or 0)
        response.response = wrap_file(request.environ, cast(BinaryIO, part))
    return response


@blueprint.get("/images/<id:image_id>/thumbnail")
def thumbnail(image_id: int) -> ResponseReturnValue:
    """Serve the thumbnail as WebP; `?v=` with the checksum's first 8 digits makes it cacheable forever.

    While too many others are being made, or if it takes too much memory, redirect to the original image instead, if
    browsers show it. That of a frame was made with it: no video is decoded for a visitor.
    """
    image = backend().get(image_id)
    if is_frame(image):
        with backend().database().reading() as connection:
            preview = frame_preview(connection, image_id)
        if preview is None:
            raise FileUnreadableError("There is no preview of this frame.")
        digest = hashlib.sha256(preview).digest()
        return _thumbnail_response(preview, digest, frame_version(image.sha256, time_of(image)))
    if is_url(image):
        return _redirect_to_host(image.rendition or image.image)
    try:
        sha256, data = _thumbnail_of(image)
    except (ServiceUnavailable, BusyError, TooMuchMemoryError):
        # A page of new images, through a proxy that sends all its requests at once: larger files, but no gaps.
        with (original := open_image_file(image)).file:
            if original.mimetype in NOT_SHOWN_BY_BROWSERS:
                raise
        return redirect(url_for(".file", image_id=image_id)), {"Cache-Control": "no-store"}
    return _thumbnail_response(data, sha256, thumbnail_version(sha256))


@blueprint.get("/images/<id:image_id>/preview")
def preview(image_id: int) -> ResponseReturnValue:
    """Serve a large version, as WebP, of an image that browsers do not show; of any other redirect to the original.

    `?v=` works as for thumbnails. While too many others are being made, or if it takes too much memory, redirect to the
    thumbnail instead, if there is one.
    """
    image = backend().get(image_id)
    if is_frame(image):
        return redirect(url_for(".thumbnail", image_id=image_id))
    if is_url(image):
        return _redirect_to_host(image.image)
    with (original := open_image_file(image)).file:
        if original.mimetype not in NOT_SHOWN_BY_BROWSERS:
            return redirect(url_for(".file", image_id=image_id))
    try:
        sha256, data = _thumbnail_of(image, PREVIEW_SIDE)
    except (ServiceUnavailable, BusyError, TooMuchMemoryError):
        if image.sha256 is None or backend().thumbnails.get(image.sha256) is None:
            raise
        return redirect(url_for(".thumbnail", image_id=image_id)), {"Cache-Control": "no-store"}
    return _thumbnail_response(data, sha256, thumbnail_version(sha256))


def _thumbnail_response(data: bytes, digest: bytes, version: str) -> ResponseReturnValue:
    response = Response(data, mimetype="image/webp")
    response.set_etag(digest.hex())
    is_versioned = request.args.get("v") == version
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable" if is_versioned else "private, no-cache"
    return response.make_conditional(request.environ)


def _thumbnail_of(image: StoredImage, side: int = LONGEST_SIDE) -> tuple[bytes, bytes]:
    """Return the checksum and thumbnail of a stored image, or of its file's current content if that has changed.

    `side` is the length of its longest side at most: that of a thumbnail or of a preview.
    """
    cache = backend().thumbnails
    if image.sha256 is not None and (data := cache.get(image.sha256, side)) is not None:
        return image.sha256, data
    longest = backend().settings.max_image_bytes
    with backend().slots.thumbnails:
        if image.sha256 is not None and (data := cache.get(image.sha256, side)) is not None:  # made meanwhile
            return image.sha256, data
        image_file = open_image_file(image)
        with image_file.file, hold_file() as hold:
            if image_file.status.st_size > longest:
                raise TooManyBytesError(longest, image_file.status.st_size)
            hold.take(image_file.status.st_size)
            try:
                content = image_file.file.read(image_file.status.st_size)
            except OSError as exc:
                raise FileUnreadableError("The file of this image can no longer be read.") from exc
            fetched = FetchedImage(item=SourceItem(image=image.image, source=image.source), data=content)
            decoded = decode_for_visitor(fetched, needed=_needed(image, side))
        data = make_thumbnail(decoded.pixels, side)
    if decoded.sha256 == image.sha256:
        cache.put(decoded.sha256, data, side)
    return decoded.sha256, data


def _needed(image: StoredImage, side: int) -> int:
    """Return the length of the shorter side from which a thumbnail or a preview is made."""
    if side == LONGEST_SIDE or image.width is None or image.height is None:
        return side  # it is small: more pixels than needed make it sharper
    shorter, longer = sorted((max(image.width, 1), max(image.height, 1)))
    return max(-(-side * shorter // longer), LONGEST_SIDE)


def _redirect_to_host(url: str) -> ResponseReturnValue:
    try:
        parts = urlsplit(clean_url(url))
    except ValueError as exc:
        raise InvalidReferenceError(f"The URL of this image {exc}.") from exc
    # Browsers do not load images from URLs with a password, and visitors must not see it.
    response = redirect(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response
