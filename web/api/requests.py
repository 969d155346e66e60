"""Models of the API's requests, checked and described by pydantic."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from searchdb.records import LARGEST_ID, MAX_REFERENCE_BYTES, clean_url
from searchdb.search.filter_table import (
    MAX_STARS,
    MAX_VALUE_CHARACTERS,
    MAX_VALUES,
    PUBLIC_FILTERS,
    FilterRow,
    Kind,
)
from searchdb.search.query import MAX_EXAMPLES, MAX_QUERY_CHARACTERS
from searchdb.search.searcher import MAX_HITS

from ..vector_param import LONGEST

DEFAULT_COUNT = 10
MAX_EXCLUDED_IDS = 250
"""Ids of images to leave out: as many as fit into a URL, each with up to 19 digits."""
MAX_RANDOM = 100
"""Random images in one answer."""
MAX_TEXTS = 64
"""Texts embedded by one request: half a second of a processor's time."""
MAX_IMAGES = 16
"""Images embedded by one request, one after the other, so that one visitor holds one image in memory at a time."""
MAX_TEXT_CHARACTERS = 10_000
"""Longest description."""
MAX_NAME_CHARACTERS = 300
"""Longest name of a place, a camera, a person: PostgreSQL's indexes on them refuse texts of more than 2,704 bytes."""
MAX_TAGS = 100
MAX_METADATA_CHARACTERS = 65_536
"""Of all the metadata as JSON: enough to describe an image, too little to store one."""
YEARS = (1000, 9000)
"""Years in which images may have been taken; their dates can be converted to any time zone."""


class Request(BaseModel):
    """A request; unknown fields are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=False)

    described_with_null: ClassVar[bool] = True
    """Whether null can be written, which means not given: in JSON it can, in URLs and forms it cannot."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler.resolve_ref_schema(handler(schema))
        return described if cls.described_with_null else without_null(described)


def without_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Return an object's JSON schema whose optional properties cannot be null."""
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
        raise ValueError("holds a value that JSON cannot express, such as NaN or infinity") from None
    if size > MAX_METADATA_CHARACTERS:
        raise ValueError(f"is {size:,} characters of JSON, the limit is {MAX_METADATA_CHARACTERS:,}")
    return value


Text = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)]
Value = Annotated[str, Field(min_length=1, max_length=MAX_VALUE_CHARACTERS)]
Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]
Examples = Annotated[list[Id], Field(max_length=MAX_EXAMPLES)]
Values = Annotated[list[Value], Field(max_length=MAX_VALUES)]
Tag = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]
Url = Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE_BYTES), AfterValidator(clean_url)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


class SearchBasics(Request):
    """A search, but for its filters."""

    q: Text | None = Field(
        None, description="What the images show, in words.", json_schema_extra=_example("a boat at sunset")
    )
    like: Examples | None = Field(
        None, description="Ids of stored images that hits are similar to; several count by their mean."
    )
    unlike: Examples | None = Field(None, description="Ids of stored images that hits are not similar to.")
    exclude: Text | None = Field(None, alias="not", description="What the images do not show, in words.")
    text_weight: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="What `q` counts beside the images, which count the rest: 0.5 is the middle and the default. "
        "Needs `q` and an image.",
    )
    threshold: Annotated[float, Field(ge=-1, le=1)] = Field(0.0, description="Lowest cosine similarity of a hit.")
    min_relevance: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Lowest relevance of a hit; needs `q`.")
    count: Annotated[int, Field(ge=1, le=MAX_HITS)] = Field(DEFAULT_COUNT, description="Hits in the answer, at most.")
    offset: Annotated[int, Field(ge=0, lt=MAX_HITS)] = Field(
        0, description=f"Hits to skip; a search goes no deeper than {MAX_HITS:,} hits."
    )
    one_per_video: bool = Field(
        False,
        description="Whether a video is one hit, its best frame with the number of its `moments`; otherwise each frame "
        "is a hit.",
    )


def _filter_type(row: FilterRow) -> Any:
    """Return the type of a filter's parameter."""
    types: dict[Kind, Any] = {
        Kind.NAMES: Values,
        Kind.MOMENT: Annotated[str, Field(max_length=40)],
        Kind.CHOICE: Literal[row.choices],
        Kind.WHOLE: Annotated[int, Field(ge=1, le=row.maximum)],
        Kind.DECIMAL: Annotated[float, Field(gt=0, le=row.maximum)],
        Kind.POINT: Annotated[str, Field(max_length=80)],
        Kind.WORDS: Value,
        Kind.IDS: Annotated[list[Id], Field(max_length=MAX_EXCLUDED_IDS)],
    }
    return types[row.kind] | None


def _filter_field(row: FilterRow) -> Any:
    extra = None if row.example is None else _example(row.example)
    return Field(None, description=f"{row.help[0].upper()}{row.help[1:]}.", json_schema_extra=extra)


if TYPE_CHECKING:

    class Narrowing(SearchBasics):
        """A search with its filters, whose fields the filter table makes."""

else:
    Narrowing = create_model(
        "Narrowing",
        __base__=SearchBasics,
        __module__=__name__,
        __doc__="A text, stored images, what to exclude, filters, and which of the hits to return.",
        **{row.name: (_filter_type(row), _filter_field(row)) for row in PUBLIC_FILTERS},
    )


class SearchParameters(Narrowing):
    """A search with its filters, and which of the hits to return."""

    described_with_null = False

    vector: Annotated[str, Field(max_length=LONGEST)] | None = Field(
        None, description="An image, as the `vector` in the answer to `POST /api/search`."
    )


class ImageAt(Request):
    """An image to fetch; private addresses are refused."""

    url: Url = Field(
        description="URL of the image, on a public host.",
        json_schema_extra=_example("https://images.example/boat.jpg"),
    )


class SearchBody(Narrowing, ImageAt):
    """The URL of an image to search by, and the parameters of a search."""


class Metadata(Request):
    """Metadata of an image to add; EXIF fills the gaps."""

    description: Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)] | None = Field(
        None, description="What it shows.", json_schema_extra=_example("A boat at sunset")
    )
    tags: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]], Field(max_length=MAX_TAGS)
    ] = Field([], description="Its tags.")
    credit: Name | None = Field(None, description="Name of its author.")
    credit_url: Url | None = Field(None, description="A page about the author.")
    page_url: Url | None = Field(None, description="The page it is from.")
    taken_at: Moment | None = Field(
        None,
        description="When it was taken; UTC without an offset.",
        json_schema_extra=_example("2024-05-31T18:30:00+02:00"),
    )
    camera: Name | None = Field(None, description="Camera it was taken with.")
    country: Name | None = Field(None, description="Where it was taken.")
    city: Name | None = Field(None, description="Where it was taken.")
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = Field(
        None, description="Degrees, north positive; with `longitude`."
    )
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = Field(
        None, description="Degrees, east positive; with `latitude`."
    )
    rating: Annotated[int, Field(ge=-1, le=MAX_STARS)] | None = Field(
        None, description="1 to 5 stars, 0 for none, -1 for rejected."
    )
    source_id: Name | None = Field(None, description="Its id at its source.")
    metadata: Annotated[dict[str, Any], AfterValidator(_bounded)] = Field(
        {},
        description="Other metadata, as a JSON object.",
        json_schema_extra=_example({"album": "Holidays"}),
    )

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude belong together: give both or neither")
        return self


class AddBody(Metadata, ImageAt):
    """The URL of an image to add, and its metadata."""


class EmbeddingsBody(Request):
    """What to embed: either texts or images."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)] | None = Field(
        None,
        description="Texts; the model reads about the first 60 words of each.",
        json_schema_extra=_example(["a boat at sunset"]),
    )
    images: Annotated[list[str], Field(min_length=1, max_length=MAX_IMAGES)] | None = Field(
        None, description="Image files in base64."
    )


class RandomParameters(Request):
    """How many images."""

    described_with_null = False

    count: Annotated[int, Field(ge=1, le=MAX_RANDOM)] = Field(
        DEFAULT_COUNT, description="Images in the answer, at most."
    )


class Nothing(Request):
    """No parameters."""


class ImagePath(Request):
    """Which image."""

    image_id: Annotated[int, Field(ge=0, le=LARGEST_ID)] = Field(description="Its id.")
