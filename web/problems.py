"""What went wrong with a request to the API, as RFC 9457 has it: `application/problem+json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus

from flask import Response, request
from pydantic import BaseModel, Field
from werkzeug.exceptions import HTTPException

from searchdb.errors import (
    AddressRefusedError,
    EmptyFileError,
    ImageError,
    NotAnImageError,
    TooManyBytesError,
    TooManyPixelsError,
)

MIMETYPE = "application/problem+json"


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Its name, or its place, such as `tags.0`.")
    message: str


class Problem(BaseModel):
    """What went wrong."""

    type: str = Field(default="about:blank", description="`about:blank`: the status says which kind it is.")
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What happened, and what to do.")
    errors: list[FieldError] = Field(default=[], description="The fields that are wrong, where it is about fields.")


class InvalidFieldsError(HTTPException):
    """Fields of a request that are wrong."""

    code = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(" ".join(f"{error.field}: {error.message}." for error in errors[:3]))
        self.errors = errors


class ImageRefusedError(Exception):
    """A picture in a request that cannot be used, and the field that it was in."""

    def __init__(self, field: str, error: ImageError) -> None:
        super().__init__(str(error))
        self.field = field
        self.error = error


@contextmanager
def about(field: str) -> Iterator[None]:
    """Say of whatever is wrong with a picture which field it was in."""
    try:
        yield
    except ImageError as exc:
        raise ImageRefusedError(field, exc) from exc


def below_api() -> bool:
    """Whether the request is one of a program, which reads JSON, and not of a person, who reads pages."""
    return request.path.startswith("/api/")


def problem(status: int, detail: str, errors: Sequence[FieldError] = ()) -> Response:
    """Return the response that says what went wrong."""
    phrase = HTTPStatus(status).phrase
    said = Problem(title=phrase, status=status, detail=detail, errors=list(errors))
    return Response(said.model_dump_json(), status, mimetype=MIMETYPE)


def status_of(error: ImageError) -> HTTPStatus:
    """Return the status that says best what is wrong with a picture that somebody sent or named."""
    if isinstance(error, NotAnImageError | EmptyFileError):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    if isinstance(error, TooManyBytesError | TooManyPixelsError):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return HTTPStatus.UNPROCESSABLE_ENTITY


def message_of(error: ImageError) -> str:
    """Return what to tell whoever sent or named a picture; of our network nothing."""
    if isinstance(error, AddressRefusedError):
        return "the URL leads to no public address, and pictures are fetched from public ones only"
    return str(error)
