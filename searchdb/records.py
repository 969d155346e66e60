"""The frozen records that travel between the stages of ingest and come out of a search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from searchdb.errors import ImageError

MAX_REFERENCE_BYTES = 2048
"""Longest path or URL kept: PostgreSQL's b-tree, which makes `images.image` unique, refuses keys past 2,704 bytes."""

LARGEST_ID = 2**63 - 1
"""The largest bigint: no picture can have a higher id, and PostgreSQL refuses to compare with one."""

EMBEDDING_DIMENSION = 512
"""Numbers in one embedding; the width of `images.embedding`."""

# The second half is for a password with a raw slash: it makes the URL malformed, and the message must not tell it.
_CREDENTIALS = re.compile(r"//(?:[^/?#\s]*@|[^/?#\s:\[\]]*:(?!\d*(?:[/?#\s]|$))\S*@)")
_NEVER_IN_URLS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def mask_credentials(text: str) -> str:
    """Return the text with `user:password@` in every URL of it replaced by `***@`, for messages and logs."""
    return _CREDENTIALS.sub("//***@", text)


def clean_url(text: str) -> str:
    """Return a URL as the collection keeps it: no surrounding whitespace, no fragment, its scheme in lower case.

    Raises:
        ValueError: it is no http or https URL with a host, or is longer than MAX_REFERENCE_BYTES.
    """
    url = text.strip().partition("#")[0]
    if _NEVER_IN_URLS.search(url):
        raise ValueError("holds a space or a control character; write it as %20 or the like")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("does not begin with http:// or https://")
    url = f"{scheme.lower()}://{rest}"
    if len(url.encode()) > MAX_REFERENCE_BYTES:
        raise ValueError(f"is longer than {MAX_REFERENCE_BYTES:,} bytes")
    try:
        parts = urlsplit(url)
        named, _ = parts.hostname, parts.port
    except ValueError:  # its text may quote the password
        raise ValueError("has a malformed host or port") from None
    if not named:
        raise ValueError("names no host")
    return url


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model vectors come from: its weights decide, its name is for people."""

    name: str
    weights_sha256: bytes

    def __str__(self) -> str:
        return f"{self.name} (weights {self.weights_sha256.hex()[:12]})"


@dataclass(frozen=True, kw_only=True)
class SourceItem:
    """One picture to ingest, as its source describes it, before anything was fetched.

    `image` is the absolute path or the URL, unique in the collection; `rendition` is the URL of a smaller version of
    it, to be fetched in its place. `byte_size` and `modified_at` are known for files only; with them an unchanged file
    is recognised without being read.
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
    metadata: Mapping[str, Any] = field(default_factory=dict)
    byte_size: int | None = None
    modified_at: datetime | None = None

    @property
    def is_url(self) -> bool:
        """Whether `image` is a URL rather than a path."""
        return self.image.startswith(("http://", "https://"))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes: what is set, as JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("taken_at", "modified_at"):
            values[name] = values[name] and values[name].isoformat()
        values |= {"tags": list(self.tags), "metadata": dict(self.metadata)}
        return {name: value for name, value in values.items() if value not in (None, [], {})}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SourceItem:
        """Make a SourceItem from what `to_json` returned."""
        dates = {name: datetime.fromisoformat(values[name]) for name in ("taken_at", "modified_at") if name in values}
        return cls(**{**values, **dates})


@dataclass(frozen=True, kw_only=True)
class RejectedItem:
    """A reference that its source could not turn into a SourceItem, with the reason."""

    image: str
    source: str
    error: ImageError


@dataclass(frozen=True, kw_only=True)
class FetchedImage:
    """The encoded bytes of one picture."""

    item: SourceItem
    data: bytes


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """One picture, upright, in RGB, with what its file says of itself.

    `width` and `height` are the upright picture's, in pixels, before any resizing of `pixels`; `colour` is its mean,
    like `#8a7f66`.
    """

    item: SourceItem
    pixels: Image.Image
    sha256: bytes
    byte_size: int
    width: int
    height: int
    taken_at: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    colour: str | None = None


@dataclass(frozen=True, kw_only=True)
class EmbeddedImage:
    """One picture with its embedding: float32 unit vector of shape (512,)."""

    decoded: DecodedImage
    embedding: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FailedImage:
    """One reference that failed in this run; `item` is None where the reference itself was malformed."""

    image: str
    source: str
    error: ImageError
    item: SourceItem | None = None


@dataclass(frozen=True, kw_only=True)
class ChunkOutcome:
    """What became of a chunk's references.

    `unchanged` were stored already when their turn came; `copied`, among those embedded, took the vector of the same
    bytes under another reference.
    """

    job_id: int
    embedded: Sequence[EmbeddedImage]
    failed: Sequence[FailedImage]
    unchanged: Sequence[str]
    copied: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One reference that could not be ingested, as `ingest_failures` keeps it."""

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
    """One stored picture with its metadata, as a row of `images` holds it (without the vector)."""

    id: int
    image: str
    rendition: str | None
    source: str
    source_id: str | None
    description: str | None
    tags: Sequence[str]
    width: int
    height: int
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
    sha256: bytes
    byte_size: int
    colour: str | None
    ingested_at: datetime

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """Make a StoredImage from a row that has at least these columns."""
        return cls(**{f.name: row[f.name] for f in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Hit(StoredImage):
    """One search result: a stored picture and its cosine similarity to the query, -1 to 1.

    `relevance` is the similarity to the query's text on a scale from 0 to 1 that means the same for every text (see
    `searchdb.search.relevance.Relevance`); None where no text was asked for, since nothing is known of pictures that
    nobody described, and in a collection of hardly any pictures. `parts` are the similarities to each part of a query
    that has several: `text`, `image`, `like`, `not`.
    """

    similarity: float
    relevance: float | None = None
    parts: Mapping[str, float] | None = None
