"""What requests to the API may say, checked and described by pydantic."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from searchdb.records import LARGEST_ID, MAX_REFERENCE_BYTES, clean_url
from searchdb.search.filters import MAX_PIXELS, MAX_RADIUS_KM, MAX_VALUE_CHARACTERS, MAX_VALUES
from searchdb.search.searcher import MAX_HITS, MAX_QUERY_CHARACTERS

DEFAULT_COUNT = 10
MAX_EXCLUDED_IDS = 1000
"""Ids of pictures that are no hits: as many as a URL can hold."""
MAX_RANDOM = 100
"""Pictures by chance in one answer."""
MAX_TEXTS = 64
"""Texts embedded by one request: half a second of a processor's time."""
MAX_PICTURES = 16
"""Pictures embedded by one request, one after the other, so that one visitor holds one picture in memory at a time."""
MAX_TEXT_CHARACTERS = 10_000
"""Longest description."""
MAX_NAME_CHARACTERS = 300
"""Longest name of a place, a camera, a person: PostgreSQL's indexes on them refuse texts of more than 2,704 bytes."""
MAX_TAGS = 100
MAX_METADATA_CHARACTERS = 65_536
"""Of all the metadata as JSON: what describes a picture, not what replaces it."""
YEARS = (1000, 9000)
"""In which pictures may have been taken: within what dates can be converted to any time zone."""


class Request(BaseModel):
    """What a request gives; nothing that is not named here."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=False)

    described_with_null: ClassVar[bool] = True
    """Whether null, which counts as not given, can be written at all: in JSON it can, in URLs and forms it cannot."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler.resolve_ref_schema(handler(schema))
        return described if cls.described_with_null else without_null(described)


def without_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Return an object's JSON schema without null as a value of its properties, in place of what may be left out."""
    properties = {}
    for name, part in schema.get("properties", {}).items():
        choices = [choice for choice in part.get("anyOf", ()) if choice != {"type": "null"}]
        kept = {key: value for key, value in part.items() if key != "anyOf" and (key, value) != ("default", None)}
        properties[name] = kept | choices[0] if choices else kept
    return schema | {"properties": properties}


def _example(value: Any) -> dict[str, Any]:
    return {"example": value}


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value.strip() if isinstance(value, str) else "")
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a date and time, such as 2024-05-31T18:30:00+02:00") from None
    if not YEARS[0] <= moment.year <= YEARS[1]:
        raise ValueError(f"is not in the years {YEARS[0]} to {YEARS[1]}")
    return moment


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (ValueError, RecursionError):
        raise ValueError("holds what JSON has no word for, such as NaN or a number without end") from None
    if size > MAX_METADATA_CHARACTERS:
        raise ValueError(f"is {size:,} characters of JSON, the limit is {MAX_METADATA_CHARACTERS:,}")
    return value


Text = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)]
Value = Annotated[str, Field(min_length=1, max_length=MAX_VALUE_CHARACTERS)]
Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]
Values = Annotated[list[Value], Field(max_length=MAX_VALUES)]
Tag = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]
Url = Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE_BYTES), AfterValidator(clean_url)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


class Narrowing(Request):
    """What is looked for beside a picture, what hits must be like, and which of them to return."""

    q: Text | None = Field(
        None, description="What the pictures shall show, in words.", json_schema_extra=_example("a boat at sunset")
    )
    like: Id | None = Field(None, description="Id of a stored picture that hits shall be like.")
    exclude: Text | None = Field(None, alias="not", description="What the pictures shall not show, in words.")
    threshold: Annotated[float, Field(ge=-1, le=1)] = Field(0.0, description="Least cosine similarity of a hit.")
    min_relevance: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Least relevance of a hit; needs `q`, which relevance is about."
    )
    count: Annotated[int, Field(ge=1, le=MAX_HITS)] = Field(DEFAULT_COUNT, description="Most hits in the answer.")
    offset: Annotated[int, Field(ge=0, lt=MAX_HITS)] = Field(
        0, description=f"Hits to leave out before them; a search goes no deeper than {MAX_HITS:,} hits."
    )
    source: Values | None = Field(None, description="Where it was ingested from: any of these.")
    country: Values | None = Field(None, description="Country: any of these, in upper or lower case.")
    city: Values | None = Field(None, description="City: any of these, in upper or lower case.")
    camera: Values | None = Field(None, description="Camera: any of these, in upper or lower case.")
    tag: Values | None = Field(None, description="Tags, all of which it has.")
    any_tag: Values | None = Field(None, description="Tags, at least one of which it has.")
    taken_after: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="Day or moment from which on it was taken; UTC unless it says otherwise.",
        json_schema_extra=_example("2024-05-31"),
    )
    taken_before: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="Day or moment before which it was taken; UTC unless it says otherwise.",
        json_schema_extra=_example("2024-06-01T12:00:00+02:00"),
    )
    orientation: Literal["landscape", "portrait", "square"] | None = Field(
        None, description="Wider than high, higher than wide, or neither."
    )
    min_size: Annotated[int, Field(ge=1, le=MAX_PIXELS)] | None = Field(
        None, description="Least pixels of its shorter side."
    )
    near: Annotated[str, Field(max_length=80)] | None = Field(
        None,
        description="Latitude and longitude in degrees, around which it was taken; needs `radius_km`.",
        json_schema_extra=_example("48.14,11.58"),
    )
    radius_km: Annotated[float, Field(gt=0, le=MAX_RADIUS_KM)] | None = Field(
        None, description="Kilometres around `near`, as the crow flies."
    )
    words: Value | None = Field(
        None,
        description='Full text that description and tags contain: words, "a phrase", or, -without.',
        json_schema_extra=_example('harbour "old town" -fog'),
    )
    exclude_id: Annotated[list[Id], Field(max_length=MAX_EXCLUDED_IDS)] | None = Field(
        None, description="Ids of pictures that are no hits."
    )


class SearchParameters(Narrowing):
    """What to look for, what hits must be like, and which of them to return."""

    described_with_null = False

    vector: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="A picture, as `vector` of the answer to `POST /api/search` says it."
    )


class PictureAt(Request):
    """A picture that is to be fetched; private addresses are refused."""

    url: Url = Field(
        description="Where the picture is, on a public host.",
        json_schema_extra=_example("https://pictures.example/boat.jpg"),
    )


class SearchBody(Narrowing, PictureAt):
    """A picture to search by, where it is, and the parameters of a search."""


class Metadata(Request):
    """What is said of a picture that is added; what its EXIF says fills the gaps."""

    description: Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)] | None = Field(
        None, description="What it shows.", json_schema_extra=_example("A boat at sunset")
    )
    tags: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]], Field(max_length=MAX_TAGS)
    ] = Field([], description="Words that it is filed under.")
    credit: Name | None = Field(None, description="Whose picture it is.")
    credit_url: Url | None = Field(None, description="A page about them.")
    page_url: Url | None = Field(None, description="The page that it is from.")
    taken_at: Moment | None = Field(
        None,
        description="When it was taken; UTC unless it says otherwise.",
        json_schema_extra=_example("2024-05-31T18:30:00+02:00"),
    )
    camera: Name | None = Field(None, description="What it was taken with.")
    country: Name | None = Field(None, description="Where it was taken.")
    city: Name | None = Field(None, description="Where it was taken.")
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = Field(
        None, description="Degrees, north positive; with `longitude`."
    )
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = Field(
        None, description="Degrees, east positive; with `latitude`."
    )
    source_id: Name | None = Field(None, description="Its id where it comes from.")
    metadata: Annotated[dict[str, Any], AfterValidator(_bounded)] = Field(
        {},
        description="Whatever else is known of it, as a JSON object.",
        json_schema_extra=_example({"album": "Holidays"}),
    )

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude belong together: give both or neither")
        return self


class AddBody(Metadata, PictureAt):
    """A picture to add, where it is, and what is said of it."""


class EmbeddingsBody(Request):
    """What to embed: either texts or pictures."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)] | None = Field(
        None,
        description="Texts; of long ones the model reads about the first 60 words.",
        json_schema_extra=_example(["a boat at sunset"]),
    )
    images: Annotated[list[str], Field(min_length=1, max_length=MAX_PICTURES)] | None = Field(
        None, description="Picture files in base64."
    )


class RandomParameters(Request):
    """How many pictures."""

    described_with_null = False

    count: Annotated[int, Field(ge=1, le=MAX_RANDOM)] = Field(DEFAULT_COUNT, description="Most pictures in the answer.")


class Nothing(Request):
    """No parameters."""


class ImagePath(Request):
    """Which picture."""

    image_id: Annotated[int, Field(ge=0, le=LARGEST_ID)] = Field(description="Its id.")
