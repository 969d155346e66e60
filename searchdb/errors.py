"""Defines every error that searchdb raises deliberately, in one tree.

SearchDBError
├── ConfigError                  a setting is wrong
├── DatabaseError                anything about PostgreSQL
│   ├── DatabaseUnavailableError     it cannot be reached
│   ├── DiskFullError                its server has no space left
│   ├── SchemaError                  its tables are missing, older or newer
│   └── EmbeddedServerError          the embedded server cannot run here
├── StorageError                 a file of ours cannot be written
│   ├── UnsafeFolderError            others can write into its folder
│   └── UploadsFullError             uploads have the size that they may have
├── DecodeInterruptedError       decoding was stopped by the process itself
├── ModelError                   anything about the model
│   ├── ModelUnavailableError        it cannot be loaded
│   ├── ModelShapeError              its vectors have too few or too many numbers
│   ├── ModelOutputError             it gives no numbers
│   ├── ModelMismatchError           it is not the collection's model
│   ├── VectorWidthError             vectors from elsewhere have another width than the collection's
│   └── UnverifiedModelError         it does not give the vectors that came from elsewhere under its name
├── SwitchError                  the collection cannot be switched to another model now
│   ├── SwitchIncompleteError        images or texts have no vector by that model yet
│   └── TooManyMissingError          it cannot embed many of the images
├── BusyError                    others have to end first
│   ├── MemoryBusyError              no memory is free for decoding now
│   └── DecoderBusyError             as many costly images as may be are being decoded
├── SourceError                  a folder or list cannot be read at all
├── MetadataError                what is written in a file about an image cannot be read
├── ExportError                  an export is invalid
├── CompareError                 models cannot be compared as requested
│   └── QueriesError                 the queries to compare them by are wrong
├── WatchError                   the system does not report changes in folders
├── QueryError                   a search is invalid
│   ├── SQLTooComplexError           SQL cannot be parsed
│   ├── OtherModelError              an image's vector is from another model than the collection's
│   └── ImageNotFoundError           no image has that id
└── ImageError                   one image failed; recorded in ingest_failures, and ingest continues
    ├── FetchError                   its bytes could not be fetched
    │   ├── FileUnreadableError
    │   ├── InvalidReferenceError
    │   ├── AddressRefusedError
    │   ├── HTTPStatusError
    │   ├── TransferError
    │   ├── FetchTimeoutError
    │   ├── TooManyRedirectsError
    │   ├── ContentChangedError          what is read is another image each time
    │   └── TooManyBytesError
    ├── DecodeError                  its bytes cannot be decoded
    │   ├── EmptyFileError
    │   ├── NotAnImageError
    │   ├── DamagedImageError
    │   ├── OnlyPreviewError             it holds a small version of the image, and no other that can be read
    │   ├── ExtraMissingError            its format is read by an extra that is not installed
    │   ├── TooManyPixelsError
    │   ├── TooMuchMemoryError
    │   ├── DecodeTooCostlyError
    │   ├── DecoderLostError             the process that decoded a costly image did not finish
    │   ├── NoVideoStreamError           it is a container of sound only
    │   └── DamagedVideoError            a video cannot be read, or only in part
    ├── InvalidVectorError           the vector that a file has for it cannot be stored
    ├── NoVectorError                the model gives no numbers for it
    ├── RepeatedReferenceError       a file of vectors has another row for it
    └── WorkerLostError              the workers that processed it died

Messages name the thing, the limit and the way out.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, Literal


class SearchDBError(Exception):
    """Root of all errors that searchdb raises deliberately."""


class ConfigError(SearchDBError):
    """A setting is missing or wrong."""


# --- PostgreSQL -----------------------------------------------------------------------------------


class DatabaseError(SearchDBError):
    """PostgreSQL reported an error. `sqlstate` is its five-character code, if there is one."""

    sqlstate: str | None = None


class DatabaseUnavailableError(DatabaseError):
    """The server cannot be reached or rejects the connection. `url` has its password masked."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"cannot reach the database {url}: {reason}. Check DATABASE_URL, or unset it to use the embedded server"
        )
        self.url = url
        self.reason = reason


class DiskFullError(DatabaseError):
    """The server has no space left for what it was asked to write. `reason` is its message."""

    sqlstate = "53100"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the disk of the database is full: {reason}. Free some space on the database's machine, then try again"
        )
        self.reason = reason


class SchemaError(DatabaseError):
    """The database's schema does not fit this version of searchdb."""


class EmbeddedServerError(DatabaseError):
    """The embedded PostgreSQL cannot run with this folder, user or platform."""


class StorageError(SearchDBError):
    """A file of ours, such as an uploaded image, cannot be written. `full`: for lack of space."""

    def __init__(self, path: str, reason: str, *, full: bool) -> None:
        super().__init__(f"cannot write {path}: {reason}")
        self.full = full


class UnsafeFolderError(StorageError):
    """Another user can write into a folder of ours, or replace it."""

    def __init__(self, message: str) -> None:
        SearchDBError.__init__(self, message)
        self.full = False


class UploadsFullError(StorageError):
    """One more image would make the uploads larger than SEARCHDB_MAX_UPLOADS_BYTES. Sizes are in bytes."""

    def __init__(self, used: int, limit: int) -> None:
        SearchDBError.__init__(
            self,
            f"the uploaded images take {used:,} bytes, and this one would not fit within {limit:,} "
            "(SEARCHDB_MAX_UPLOADS_BYTES): delete some, or raise the limit",
        )
        self.full = True
        self.used = used
        self.limit = limit


# --- CLIP -----------------------------------------------------------------------------------------


class ModelError(SearchDBError):
    """The embedding model cannot be used."""


class ModelUnavailableError(ModelError):
    """The model cannot be loaded. `as_argument`: it was named by an argument, not by SEARCHDB_MODEL."""

    def __init__(self, name: str, reason: str, *, as_argument: bool = False) -> None:
        way_out = (
            "Give a hub name, a folder in Hugging Face layout, or `demo`"
            if as_argument
            else "Set SEARCHDB_MODEL to a folder in Hugging Face layout, or to 'demo' for the small model that comes "
            "with searchdb"
        )
        super().__init__(f"cannot load the model {name!r}: {reason}. {way_out}")
        self.name = name
        self.reason = reason


class ModelShapeError(ModelError):
    """The model's vectors have too few or too many numbers to be stored and indexed."""

    def __init__(self, name: str, dimension: int, *, least: int, most: int) -> None:
        super().__init__(
            f"the model {name!r} gives vectors of {dimension:,} numbers: searchdb stores {least} to {most:,}. "
            "Choose another model; `searchdb model list` recommends some"
        )
        self.name = name
        self.dimension = dimension
        self.least = least
        self.most = most


class ModelOutputError(ModelError):
    """The model gives vectors that are no numbers, for images or texts that it should understand."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            f"the model {name!r} gives no numbers (NaN) for {what}: its weights are damaged, so copy them again; or "
            "they do not bear half precision, so set SEARCHDB_DTYPE=float32"
        )


class ModelMismatchError(ModelError):
    """The collection was embedded with another model than the one in use.

    `stored` and `given` are the names of the collection's model and of the one in use; `stored_weights` and
    `given_weights` the first hexadecimal digits of their SHA-256; `stored_dimension` and `given_dimension` how many
    numbers their vectors have, None for a model that is known by its name alone. `stored_is_demo`: the first is the
    demo's model. `switched`: the collection was switched from the second to the first, so that the same can be done
    with the first.
    """

    def __init__(
        self,
        *,
        stored: str,
        stored_weights: str,
        stored_dimension: int,
        given: str,
        given_weights: str,
        given_dimension: int | None,
        stored_is_demo: bool = False,
        switched: bool = False,
    ) -> None:
        widths = ("", "")
        if given_dimension is not None and stored_dimension != given_dimension:
            widths = (f", {stored_dimension:,} numbers", f", {given_dimension:,} numbers")
        demo = "; `searchdb demo --remove` removes the demo" if stored_is_demo else ""
        super().__init__(
            f"the stored images were embedded with {stored} (weights {stored_weights}{widths[0]}), but the model in "
            f"use is {given} (weights {given_weights}{widths[1]}): their vectors cannot be compared. "
            f"`searchdb model switch {shlex.quote(given)}` changes the collection's model{demo}; or set SEARCHDB_MODEL "
            "to the stored one, or use another database"
        )
        self.stored = stored
        self.stored_weights = stored_weights
        self.stored_dimension = stored_dimension
        self.given = given
        self.given_weights = given_weights
        self.given_dimension = given_dimension
        self.stored_is_demo = stored_is_demo
        self.switched = switched


class SwitchError(SearchDBError):
    """The collection cannot be switched to another model now."""


class SwitchIncompleteError(SwitchError):
    """Images, or stored texts, have no vector by the model that the collection is being switched to, and no failure."""

    def __init__(self, *, images: int, texts: int) -> None:
        super().__init__(
            f"{images:,} images and {texts:,} texts have no vector by the new model yet: continue the switch with "
            "`searchdb model switch`"
        )
        self.images = images
        self.texts = texts


class UnverifiedModelError(ModelError):
    """The model gives other vectors than those that came from elsewhere under its name.

    `cosine` is the median cosine of both for some of the images.
    """

    def __init__(self, name: str, cosine: float, least: float) -> None:
        super().__init__(
            f"the model {name} gives other vectors than those that were ingested under this name: their median cosine "
            f"is {cosine:.3f}, and {least:.2f} is the least. They come from another model, or from images that were "
            "prepared in another way: search with --like only, or embed the images again with `searchdb model switch`"
        )
        self.cosine = cosine


class VectorWidthError(ModelError):
    """The vectors in a file have `found` numbers, and those of the collection, or of the files before, `expected`."""

    def __init__(self, name: str, found: int, expected: int) -> None:
        super().__init__(
            f"the vectors in {name} have {found:,} numbers, but those of this collection or of the named model have "
            f"{expected:,}, so they come from another model: give vectors of the collection's model, change its model "
            "first with `searchdb model switch NAME`, or use another database"
        )
        self.found = found
        self.expected = expected


class TooManyMissingError(SwitchError):
    """So many images could not be embedded with the new model that a disk may be missing. `unembedded` has them."""

    def __init__(self, unembedded: Sequence[Any], total: int) -> None:
        super().__init__(
            f"{len(unembedded):,} of {total:,} images could not be embedded with the new model, which would leave the "
            "search: mount what is missing and run the command again, or add --accept-missing"
        )
        self.unembedded = unembedded


# --- Memory ---------------------------------------------------------------------------------------


# --- Requests -------------------------------------------------------------------------------------


class BusyError(SearchDBError):
    """Something is used by others for longer than the caller may wait: it can be tried again soon."""


class MemoryBusyError(BusyError):
    """Other images hold so much of SEARCHDB_DECODE_MEMORY that this one had to wait too long."""

    def __init__(self) -> None:
        super().__init__("other images hold the memory for decoding (SEARCHDB_DECODE_MEMORY): try again in a moment")


class DecoderBusyError(BusyError):
    """Other costly images are being decoded, each by a process of its own."""

    def __init__(self) -> None:
        super().__init__("other images that take long are being decoded: try again in a moment")


class SourceError(SearchDBError):
    """A folder or a list of images cannot be read at all."""


class MetadataError(SearchDBError):
    """A sidecar file, or a block of metadata in an image, is too large, damaged or unreadable. The image is usable."""


class ExportError(SearchDBError):
    """Images cannot be exported as requested.

    `field` is the parameter of `SearchDB.export` that is wrong; None if the error is not about a single one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class CompareError(SearchDBError):
    """Models cannot be compared as requested.

    `field` is the parameter of `SearchDB.compare_models` that is wrong; None if the error is not about a single one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class QueriesError(CompareError):
    """Queries to compare models by cannot be used. `lines` are the numbers of the wrong lines, if it is about lines."""

    def __init__(self, message: str, *, lines: tuple[int, ...] = ()) -> None:
        super().__init__(message, field="queries")
        self.lines = lines


class WatchError(SearchDBError):
    """The operating system does not report the changes in so many folders. `reason` is its message."""

    def __init__(self, folders: int, reason: str) -> None:
        super().__init__(
            f"the system does not report changes in these {folders:,} folders: {reason}. On Linux, raise "
            "fs.inotify.max_user_watches, or fs.inotify.max_user_instances for `Too many open files`"
        )
        self.reason = reason


class QueryError(SearchDBError):
    """A search cannot be run as requested.

    `field` is the parameter of `SearchDB.search` that is wrong; None if the error is not about a single one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class SQLTooComplexError(QueryError):
    """SQL is too long, or nested too deeply, to be parsed; the message says which, and the limit."""


class OtherModelError(QueryError):
    """The vector of an image is from another model than the collection's, such as the one before a switch.

    `given` and `expected` are the numbers of the vector and of the collection's.
    """

    def __init__(self, given: int, expected: int) -> None:
        widths = "" if given == expected else f" ({given:,} numbers instead of {expected:,})"
        super().__init__(
            f"the vector is from another model than the collection's{widths}: search by the image again",
            field="vector",
        )
        self.given = given
        self.expected = expected


class ImageNotFoundError(QueryError):
    """No stored image has this id."""

    def __init__(self, image_id: int) -> None:
        super().__init__(f"there is no image with id {image_id}")
        self.image_id = image_id


# --- One image ------------------------------------------------------------------------------------


class ImageError(SearchDBError):
    """One image failed.

    `retryable` says whether the same reference may succeed later without any change to it.
    """

    retryable = False


class FetchError(ImageError):
    """The image's bytes could not be fetched."""


class FileUnreadableError(FetchError):
    """The file does not exist, is not a regular file, or may not be read."""


class InvalidReferenceError(FetchError):
    """The reference, or its metadata in the list, is malformed."""


class AddressRefusedError(FetchError):
    """The host resolves to an address that searchdb does not connect to."""


class HTTPStatusError(FetchError):
    """The server answered with a status other than 200. `retry_after_s` is its Retry-After header, in seconds."""

    def __init__(self, status: int, reason: str, retry_after_s: float | None = None) -> None:
        wait = "" if retry_after_s is None else f" and asks for a pause of {retry_after_s:,.0f} seconds"
        super().__init__(f"the server answered {status} {reason}".rstrip() + wait)
        self.status = status
        self.retry_after_s = retry_after_s
        self.retryable = status in (408, 425, 429) or status >= 500


class TransferError(FetchError):
    """The connection failed or ended before the image was complete."""

    retryable = True


class FetchTimeoutError(FetchError):
    """The server took longer than allowed."""

    retryable = True


class TooManyRedirectsError(FetchError):
    """The server redirected more often than allowed."""


class ContentChangedError(FetchError):
    """The reference leads to other bytes each time that it is read: two models would not embed the same image."""

    def __init__(self) -> None:
        super().__init__(
            "what is read is another image each time, so that the models cannot embed the same one: store a copy of it"
        )


class TooManyBytesError(FetchError):
    """The image is larger than SEARCHDB_MAX_IMAGE_BYTES, or the `kind` video than SEARCHDB_MAX_VIDEO_BYTES.

    `size` is in bytes, if known.
    """

    def __init__(self, limit: int, size: int | None = None, *, kind: str = "image") -> None:
        shown = f"{size:,} bytes" if size is not None else "larger"
        super().__init__(f"the {kind} is {shown}, the limit is {limit:,} bytes (SEARCHDB_MAX_{kind.upper()}_BYTES)")
        self.limit = limit
        self.size = size


class DecodeError(ImageError):
    """The bytes cannot be decoded to an image."""


class EmptyFileError(DecodeError):
    """There are no bytes at all."""

    def __init__(self) -> None:
        super().__init__("the file is empty")


class NotAnImageError(DecodeError):
    """The content is not in an image format that searchdb reads."""


class DamagedImageError(DecodeError):
    """The image format was recognised, but the data is truncated or corrupt."""


class OnlyPreviewError(DecodeError):
    """The file has a reduced version of its image, of `width` x `height` pixels, and no other that can be read."""

    def __init__(self, kind: str, width: int, height: int, *, reason: str) -> None:
        super().__init__(
            f"the {kind} holds only a preview of {width:,} x {height:,} pixels that can be read: {reason}; "
            "save the image as JPEG or TIFF with the program that made it"
        )
        self.width = width
        self.height = height


class ExtraMissingError(DecodeError):
    """The format is read by an optional dependency, the `extra` of searchdb, that is not installed."""

    def __init__(self, kind: str, extra: str) -> None:
        super().__init__(f"reading {kind} needs the extra {extra}: pip install 'searchdb[{extra}]', then ingest again")
        self.extra = extra


class TooManyPixelsError(DecodeError):
    """The image has more pixels than SEARCHDB_MAX_IMAGE_PIXELS."""

    def __init__(self, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"the image is {width:,} x {height:,} = {width * height:,} pixels, "
            f"the limit is {limit:,} (SEARCHDB_MAX_IMAGE_PIXELS)"
        )
        self.width = width
        self.height = height
        self.limit = limit


class TooMuchMemoryError(DecodeError):
    """Decoding the image takes more than SEARCHDB_DECODE_MEMORY. `size` and `limit` are in bytes."""

    def __init__(self, kind: str, width: int, height: int, *, size: int, limit: int) -> None:
        super().__init__(
            f"decoding {kind} of {width:,} x {height:,} pixels takes {size:,} bytes of memory, "
            f"the limit is {limit:,} (SEARCHDB_DECODE_MEMORY): raise it, or make the image smaller"
        )
        self.size = size
        self.limit = limit


class DecodeTooCostlyError(DecodeError):
    """Decoding an image or a video would take, or took, more processor time or memory than an honest one needs."""

    def __init__(self, reason: str, *, kind: Literal["image", "video"] = "image") -> None:
        super().__init__(f"{reason}; open the {kind} in another program and save a copy of it")


class DecoderLostError(DecodeError):
    """The process for a costly image could not be started, was killed, or got no processor: the image may be fine."""

    retryable = True


class NoVideoStreamError(DecodeError):
    """The container holds sound or other data, but no video."""


class DamagedVideoError(DecodeError):
    """The video is truncated or corrupt. Frames that could be read are stored."""


class InvalidVectorError(ImageError):
    """The vector that a file has for the image is zero, not finite, of another width than the others, or missing."""


class NoVectorError(ImageError):
    """The model gives no numbers for the image."""

    def __init__(self) -> None:
        super().__init__("the model gives no numbers (NaN) for this image")


class RepeatedReferenceError(ImageError):
    """An earlier row of the same files has a vector for the image."""


class DecodeInterruptedError(SearchDBError):
    """Decoding was stopped because the run ends; the image is not to blame."""

    def __init__(self) -> None:
        super().__init__("decoding was stopped")


class WorkerLostError(ImageError):
    """Every worker that processed the image died or failed with an unexpected error."""

    def __init__(self, attempts: int) -> None:
        super().__init__(
            f"{attempts} workers died or failed while they processed this image, the last one with no other image: "
            "see their logs. `searchdb failures retry --error WorkerLostError` tries it again"
        )
        self.attempts = attempts
