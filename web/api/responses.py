"""Response models of the API: stored images and hits as JSON, without this server's paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import BaseModel, Field

from searchdb.ingest.adder import SOURCE as ADDED
from searchdb.ingest.companions import PARTS
from searchdb.records import MAX_DIMENSION, MIN_DIMENSION, Hit, StoredImage

from ..errors import without_paths
from ..files.frames import duration_of, is_frame, public_metadata, time_of
from ..files.links import Links, is_url, name_of


class Image(BaseModel):
    """A stored image and its metadata."""

    id: int = Field(description="Id of the image.")
    name: str = Field(description="File name without its folder, or URL.")
    kind: Literal["image", "frame"] = Field(description="An image, or one frame of a video.")
    url: str = Field(
        description="URL of the image: its own, or for a file one on this server. That of a frame is its video's, with "
        "the time at which to start, such as `#t=12.5`."
    )
    thumbnail_url: str = Field(description="URL of the thumbnail.")
    page: str = Field(description="URL of its HTML page.")
    source: str = Field(description="Where it was ingested from.")
    source_id: str | None = Field(description="Its id in that source.")
    description: str | None
    tags: list[str]
    width: int | None = Field(description="Pixels, upright; null if unknown.")
    height: int | None = Field(description="Pixels, upright; null if unknown.")
    credit: str | None = Field(description="Author or rights holder.")
    credit_url: str | None
    page_url: str | None = Field(description="The page where the image was published.")
    taken_at: datetime | None
    camera: str | None
    country: str | None
    city: str | None
    latitude: float | None = Field(description="Degrees, north positive.")
    longitude: float | None = Field(description="Degrees, east positive.")
    rating: int | None = Field(description="1 to 5 stars, 0 for none, -1 for rejected; null where nothing is known.")
    folder: str | None = Field(
        description="The folder of its file, from the name of the folder that was ingested; null for a URL."
    )
    metadata: dict[str, Any] = Field(description="Other metadata.")
    sha256: str | None = Field(
        description="SHA-256 of the file in hexadecimal digits; null if unknown, as of a vector from elsewhere.",
        pattern="^[0-9a-f]{64}$",
    )
    byte_size: int | None = Field(description="Size of the file in bytes; null if unknown.")
    ingested_at: datetime
    video: str | None = Field(description="Of a frame: its video's file name without the folder, or URL; else null.")
    video_time: float | None = Field(description="Of a frame: seconds from the start of the video; else null.")
    duration: float | None = Field(description="Of a frame: the video's length in seconds, null if unknown; else null.")


class FoundImage(Image):
    """A stored image that a search found."""

    similarity: float = Field(description="Cosine similarity to the query, -1 to 1.")
    relevance: float | None = Field(
        description="How likely it is that the image shows the text, 0 to 1; null without a text."
    )
    parts: dict[str, float] | None = Field(
        description="Similarity to each part of a combined query: text, image, like, not, unlike; else null."
    )
    moments: int | None = Field(
        description="With `one_per_video`, of a frame: the number of the video's stored frames; else null."
    )


class SearchAnswer(BaseModel):
    """One page of hits, best first."""

    hits: list[FoundImage]
    count: int = Field(description="Number of hits in this response.")
    offset: int = Field(description="Number of hits before these.")
    next: str | None = Field(description="URL of the next hits; null after the last.")
    vector: str | None = Field(
        description="The vector of the image that was searched by, as `GET /api/search` takes it; null without one."
    )


class RandomAnswer(BaseModel):
    """Random images."""

    images: list[Image]


class ModelAnswer(BaseModel):
    """The model of the collection."""

    model: str = Field(description="Name of the model.")
    dimension: int = Field(description="How many numbers the stored vectors have.")


class EmbeddingsAnswer(BaseModel):
    """Unit vectors, in the order of the inputs."""

    model: str = Field(description="Name of the model; vectors of different models cannot be compared.")
    dimension: int = Field(description="How many numbers each vector has.")
    embeddings: list[Annotated[list[float], Field(min_length=MIN_DIMENSION, max_length=MAX_DIMENSION)]] = Field(
        description="As many numbers each as the model gives."
    )


_COPIED_FIELDS = tuple(
    {f.name for f in fields(StoredImage)}
    & Image.model_fields.keys() - {"source_id", "tags", "metadata", "sha256", "video", "video_time"}
)
_PATHS = PARTS
"""Keys of metadata whose values are paths, besides `video`, which frames have."""


def image_response(image: StoredImage) -> Image:
    """Return a stored image as the API shows it."""
    return Image(**_public(image, Links()))


def hit_response(hit: Hit, links: Links) -> FoundImage:
    """Return a hit as the API shows it."""
    return FoundImage(
        **_public(hit, links),
        similarity=hit.similarity,
        relevance=hit.relevance,
        parts=None if hit.parts is None else dict(hit.parts),
        moments=hit.moments,
    )


def json_response(model: BaseModel, status: int = 200) -> Response:
    """Return the response that holds a model's JSON."""
    return Response(model.model_dump_json(exclude_none=False), status, mimetype="application/json")


def _public(image: StoredImage, links: Links) -> dict[str, Any]:
    """Return the values of `Image`; a file's path, and paths in its metadata, are reduced to the file name."""
    name, source_id, metadata = name_of(image), image.source_id, image.metadata
    video = name if is_frame(image) else None
    if video is not None:
        metadata = public_metadata(metadata, video)
    if image.source == ADDED:
        name = str(metadata.get("name") or name)
    elif not is_url(image):
        source_id = source_id and PurePath(source_id).name
        # A path with a space cannot be told from text around it, but these keys hold nothing else.
        paths = {key: PurePath(metadata[key]).name for key in _PATHS if isinstance(metadata.get(key), str)}
        metadata = _without_paths({**metadata, **paths})
    return {name: getattr(image, name) for name in _COPIED_FIELDS} | {
        "name": name,
        "kind": "image" if video is None else "frame",
        "video": video,
        "video_time": None if video is None else time_of(image),
        "duration": duration_of(image),
        "url": links.file(image),
        "thumbnail_url": links.thumbnail(image),
        "page": links.page(image),
        "source_id": source_id,
        "tags": list(image.tags),
        "metadata": dict(metadata),
        "sha256": None if image.sha256 is None else image.sha256.hex(),
    }


def _without_paths(value: Any) -> Any:
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, Mapping):
        return {without_paths(name): _without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    return value
