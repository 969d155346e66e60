"""Frozen records that pass between the stages of ingest and that searches return."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from searchdb.errors import ImageError

MAX_REFERENCE_BYTES = 2048
"""Longest path or URL: PostgreSQL's b-tree, which makes `images.image` unique, rejects keys over 2,704 bytes."""

LARGEST_ID = 2**63 - 1
"""The largest bigint: no image can have a higher id, and PostgreSQL raises an error for a larger number."""

DEMO_MODEL = "demo"
"""Name of the small model that comes with searchdb."""

DEFAULT_DIMENSION = 512
"""Numbers of a vector in a fresh database; a model with another number changes the column when it becomes current."""
MIN_DIMENSION, MAX_DIMENSION = 64, 2000
"""Fewest and most numbers of a vector: pgvector indexes no more, and fewer tell images apart badly."""

TAKEN_AT_FROM = "taken_at_from"
"""Key in `metadata` of what `taken_at` comes from, if neither from the source nor from EXIF's DateTimeOriginal."""

SEARCHED_TEXTS = ("source", "description", "credit", "camera", "country", "city", "folder")
"""Fields of an image that people search and filter by, apart from its tags: they are stored in NFC."""

# The second half is for a password with a raw slash: it makes the URL malformed, and messages must still mask it.
_CREDENTIALS = re.compile(r"//(?:[^/?#\s]*@|[^/?#\s:\[\]]*:(?!\d*(?:[/?#\s]|$))\S*@)")
_UP_TO_LAST_AT = re.compile(r"(?<!\S)\S*@")
_INVALID_IN_URLS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def nfc(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), in which metadata, filters and queries are compared.

    macOS decomposes the names of folders (NFD), and keyboards compose what people type.
    """
    return unicodedata.normalize("NFC", text)


def is_url(reference: str) -> bool:
    """Whether the reference of an image or video is a URL rather than a path."""
    return reference.startswith(("http://", "https://"))


def mask_credentials(text: str) -> str:
    """Return the text with `user:password@` in each URL replaced by `***@`, for messages and logs."""
    # Up to the last @ of each word: behind it there is nothing to mask, but the search would take time.
    return _UP_TO_LAST_AT.sub(lambda found: _CREDENTIALS.sub("//***@", found[0]), text)


def clean_url(text: str) -> str:
    """Return a URL as it is stored: without surrounding whitespace or fragment, its scheme in lower case.

    Raises:
        ValueError: it is not an http or https URL with a host, or is longer than MAX_REFERENCE_BYTES.
    """
    url = text.strip().partition("#")[0]
    if _INVALID_IN_URLS.search(url):
        raise ValueError("holds a space or a control character; encode it, as in %20")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("does not begin with http:// or https://")
    url = f"{scheme.lower()}://{rest}"
    if len(url.encode()) > MAX_REFERENCE_BYTES:
        raise ValueError(f"is longer than {MAX_REFERENCE_BYTES:,} bytes")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # its message may quote the password
        raise ValueError("has a malformed host or port") from None
    if not host:
        raise ValueError("has no host")
    return url


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """The model that vectors come from, identified by its weights; the name is for display.

    `dimension` is the number of numbers of a vector.
    """

    name: str
    weights_sha256: bytes
    dimension: int

    @property
    def short_weights(self) -> str:
        """The first hexadecimal digits of the weights' SHA-256, which tell models apart."""
        return self.weights_sha256.hex()[:12]

    def __str__(self) -> str:
        return f"{self.name} (weights {self.short_weights})"


CompanionKind = Literal["xmp", "takeout", "raw", "live"]
"""What a file beside an image is: an XMP sidecar, Google Takeout's JSON, the RAW file that the image was made of, or
the video of a Live Photo."""


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A file that belongs to an image beside it and is no image of its own.

    Its size and time tell whether it has changed.
    """

    path: str
    kind: CompanionKind
    byte_size: int
    modified_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `from_json` reverses it."""
        return asdict(self) | {"modified_at": _iso(self.modified_at)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Companion:
        """Make a Companion from what `to_json` returned."""
        time = values["modified_at"]
        arguments: dict[str, Any] = {**values, "modified_at": time and datetime.fromisoformat(time)}
        return cls(**arguments)


@dataclass(frozen=True, kw_only=True)
class WrittenMetadata:
    """What an image file or one of its companions says about the image; None or empty where it says nothing.

    `taken_at_from` names the field that `taken_at` comes from, such as DateTimeOriginal. `rating` is 1 to 5, 0 for none
    and -1 for rejected.
    """

    title: str | None = None
    description: str | None = None
    keywords: Sequence[str] = ()
    rating: int | None = None
    label: str | None = None
    creator: str | None = None
    copyright: str | None = None
    taken_at: datetime | None = None
    taken_at_from: str | None = None
    camera: str | None = None
    country: str | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `from_json` reverses it."""
        return asdict(self) | {"keywords": list(self.keywords), "taken_at": _iso(self.taken_at)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WrittenMetadata:
        """Make a WrittenMetadata from what `to_json` returned."""
        time = values["taken_at"]
        arguments: dict[str, Any] = {
            **values,
            "keywords": tuple(values["keywords"]),
            "taken_at": time and datetime.fromisoformat(time),
        }
        return cls(**arguments)


@dataclass(frozen=True, kw_only=True)
class SourceItem:
    """One image or video to ingest, as its source describes it, before it is fetched.

    `image` is the absolute path or the URL, unique in the collection; `rendition` is the URL of a smaller version that
    is fetched instead. `byte_size` and `modified_at` are set for files only; they tell an unchanged file without
    reading it, as those of the `companions` do. `every_s` is the seconds between two frames of a video, 0 for its key
    frames, None for the default.
    """

    image: str
    source: str
    rendition: str | None = None
    source_id: str | None = None
    description: str | None = None
    credit: str | None = None
    credit_url: str | None = None
    page_url: str | None = None
    taken_at: datetime | None = None
    camera: str | None = None
    country: str | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rating: int | None = None
    folder: str | None = None
    companions: Sequence[Companion] = ()
    every_s: float | None = None
    byte_size: int | None = None
    modified_at: datetime | None = None

    @property
    def is_url(self) -> bool:
        """Whether `image` is a URL rather than a path."""
        return is_url(self.image)

    def in_nfc(self) -> SourceItem:
        """Return the item with the texts that people search by in NFC; paths, URLs, ids and `metadata` are kept."""
        given = {name: value for name in SEARCHED_TEXTS if (value := getattr(self, name)) is not None}
        texts = {name: nfc(value) for name, value in given.items()}
        tags = tuple(dict.fromkeys(map(nfc, self.tags)))
        if texts == given and tags == self.tags:  # nearly always; a copy takes 15 us
            return self
        return replace(self, **texts, tags=tags)

    def to_json(self) -> dict[str, Any]:
        """Return the non-empty fields as JSON values; `from_json` reverses it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("taken_at", "modified_at"):
            values[name] = _iso(values[name])
        values |= {"tags": list(self.tags), "metadata": dict(self.metadata)}
        values["companions"] = [each.to_json() for each in self.companions]
        return {name: value for name, value in values.items() if value not in (None, [], {})}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SourceItem:
        """Make a SourceItem from what `to_json` returned."""
        dates = {name: datetime.fromisoformat(values[name]) for name in ("taken_at", "modified_at") if name in values}
        companions = tuple(Companion.from_json(each) for each in values.get("companions", ()))
        arguments: dict[str, Any] = {**values, **dates, "companions": companions}
        return cls(**arguments)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


@dataclass(frozen=True, kw_only=True)
class RejectedItem:
    """A reference from which its source could not make a SourceItem, and the reason."""

    image: str
    source: str
    error: ImageError


@dataclass(frozen=True, kw_only=True)
class FetchedImage:
    """The encoded bytes of one image."""

    item: SourceItem
    data: bytes


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """One upright RGB image with the metadata of its file.

    `width` and `height` are those of the upright image in pixels, before any resizing of `pixels`; `colour` is its
    mean colour, like `#8a7f66`. `written` is what the file says about the image. While the collection is switched to
    another model, `second_pixels` is the image as that model takes it.
    """

    item: SourceItem
    pixels: Image.Image
    sha256: bytes
    byte_size: int
    width: int
    height: int
    colour: str | None = None
    written: WrittenMetadata = field(default_factory=WrittenMetadata)
    second_pixels: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class RefreshedImage:
    """A stored image whose file is unchanged, and what the changed files beside it and the file say about it."""

    item: SourceItem
    written: WrittenMetadata


@dataclass(frozen=True, kw_only=True)
class EmbeddedImage:
    """One image with its embedding: float32 unit vector of shape (dimension,).

    `others` are its vectors by models that are not the current one, by the model's id.
    """

    decoded: DecodedImage
    embedding: np.ndarray
    others: Mapping[int, np.ndarray] = field(default_factory=dict[int, "np.ndarray"])


@dataclass(frozen=True, kw_only=True)
class GivenVector:
    """One image whose vector another program made: float32 unit vector of shape (n,).

    What nothing tells is None. `written` is what the image's file says about it, where that is on this machine and
    `reads_file` is true. `video` and `video_time` are those of a frame.
    """

    item: SourceItem
    embedding: np.ndarray
    sha256: bytes | None = None
    byte_size: int | None = None
    width: int | None = None
    height: int | None = None
    colour: str | None = None
    video: str | None = None
    video_time: float | None = None
    reads_file: bool = False
    written: WrittenMetadata = field(default_factory=WrittenMetadata)


@dataclass(frozen=True, kw_only=True)
class FailedImage:
    """One reference that failed in this run; `item` is None if the reference itself was malformed."""

    image: str
    source: str
    error: ImageError
    item: SourceItem | None = None

    @classmethod
    def of(cls, item: SourceItem, error: ImageError) -> FailedImage:
        """Return the failure of an item."""
        return cls(image=item.image, source=item.source, error=error, item=item)


@dataclass(frozen=True, kw_only=True)
class MovedImage:
    """A stored image whose file has a new path: its id and old path, the file as it is now, and the tags it gets."""

    id: int
    image: str
    item: SourceItem
    tags: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ChunkOutcome:
    """The outcome of each reference of a chunk.

    `unchanged` were already stored when they were processed; `copied` are those of `embedded` whose vector was copied
    from another reference with the same bytes, among them the `moved` ones, whose image only gets their path.
    `refreshed` are stored images of which only companions have changed.
    """

    job_id: int
    embedded: Sequence[EmbeddedImage]
    failed: Sequence[FailedImage]
    unchanged: Sequence[str]
    copied: frozenset[str]
    moved: Sequence[MovedImage] = ()
    refreshed: Sequence[RefreshedImage] = ()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One reference that could not be ingested: a row of `ingest_failures`."""

    image: str
    source: str
    error: str
    message: str
    attempts: int
    retryable: bool
    first_failed_at: datetime
    last_failed_at: datetime
    item: Mapping[str, Any] | None = None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Failure:
        """Make a Failure from a row of `ingest_failures`."""
        return cls(**{f.name: row[f.name] for f in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One stored image with its metadata: a row of `images` without the vector.

    Of an image that came in as a vector, `width`, `height`, `sha256` and `byte_size` may be unknown.
    """

    id: int
    image: str
    rendition: str | None
    source: str
    source_id: str | None
    description: str | None
    tags: Sequence[str]
    width: int | None
    height: int | None
    credit: str | None
    credit_url: str | None
    page_url: str | None
    taken_at: datetime | None
    camera: str | None
    country: str | None
    city: str | None
    latitude: float | None
    longitude: float | None
    metadata: Mapping[str, Any]
    sha256: bytes | None
    byte_size: int | None
    colour: str | None
    ingested_at: datetime
    rating: int | None
    folder: str | None
    video: str | None
    video_time: float | None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any], **more: Any) -> Self:
        """Make a StoredImage from a row that has at least these columns, or a subclass's instance with `more` fields.

        A date of taking that Python cannot hold, such as infinity, is unknown.
        """
        stored = {f.name: row[f.name] for f in fields(StoredImage)}
        if not isinstance(stored["taken_at"], datetime):
            stored["taken_at"] = None
        return cls(**stored, **more)


@dataclass(frozen=True, kw_only=True)
class Hit(StoredImage):
    """One search result: a stored image and its cosine similarity to the query, -1 to 1.

    `relevance` is how likely it is that the image shows the query's text, 0 to 1 (see
    `searchdb.search.relevance_scale.Relevance`); None for a query without text, and in a collection with too few images
    to compare with. `parts` are the similarities to each part of a query that has several: `text`, `image`, `like`,
    `not`, `unlike`. `moments` is the number of stored frames of the hit's video, where its best frame alone is a hit;
    None for an image, and where every frame is a hit of its own.
    """

    similarity: float
    relevance: float | None = None
    parts: Mapping[str, float] | None = None
    moments: int | None = None
