"""Error responses of the API in the format of RFC 9457, `application/problem+json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus

from flask import Response, request
from pydantic import BaseModel, Field
from werkzeug.exceptions import HTTPException

from searchdb.errors import (
    AddressRefusedError,
    DecodeTooCostlyError,
    EmptyFileError,
    ExtraMissingError,
    ImageError,
    NotAnImageError,
    TooManyBytesError,
    TooManyPixelsError,
    TooMuchMemoryError,
    TransferError,
)

MIMETYPE = "application/problem+json"


UNREACHABLE = AddressRefusedError | TransferError
"""Errors whose reason tells which names and services there are in our network."""


class FieldError(BaseModel):
    """An error in one field."""

    field: str = Field(description="Name or path of the field, such as `tags.0`.")
    message: str


class Problem(BaseModel):
    """An error response."""

    type: str = Field(default="about:blank", description="Always `about:blank`: the status is the type.")
    title: str = Field(description="Name of the status.")
    status: int
    detail: str = Field(description="What happened, and what to do.")
    errors: list[FieldError] = Field(default=[], description="The invalid fields, if fields caused the error.")


class InvalidFieldsError(HTTPException):
    """Invalid fields in a request."""

    code = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(" ".join(f"{error.field}: {error.message}." for error in errors[:3]))
        self.errors = errors


class ImageRefusedError(Exception):
    """An image in a request that cannot be used, and the field it was in."""

    def __init__(self, field: str, error: ImageError) -> None:
        super().__init__(str(error))
        self.field = field
        self.error = error


@contextmanager
def image_field(field: str) -> Iterator[None]:
    """Attach the field's name to an ImageError."""
    try:
        yield
    except ImageError as exc:
        raise ImageRefusedError(field, exc) from exc


def below_api() -> bool:
    """Whether the request is to the API, which answers in JSON, rather than to the pages."""
    return request.path.startswith("/api/")


def problem(status: int, detail: str, errors: Sequence[FieldError] = ()) -> Response:
    """Return an error response."""
    phrase = HTTPStatus(status).phrase
    body = Problem(title=phrase, status=status, detail=detail, errors=list(errors))
    return Response(body.model_dump_json(), status, mimetype=MIMETYPE)


def status_of(error: ImageError) -> HTTPStatus:
    """Return the HTTP status for an error in an uploaded or linked image."""
    if isinstance(error, NotAnImageError | EmptyFileError | ExtraMissingError):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    if isinstance(error, TooManyBytesError | TooManyPixelsError | TooMuchMemoryError | DecodeTooCostlyError):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return HTTPStatus.UNPROCESSABLE_ENTITY


def message_of(error: ImageError) -> str:
    """Return the message for the client; it reveals nothing about our network.

    It is the same for a name that does not exist, one of a private address and a server that refuses connections:
    otherwise visitors could list the names and services of the network that this server is in. The log has the reason.
    """
    if isinstance(error, UNREACHABLE):
        return "no image could be fetched: the URL does not lead to a public address, or its server does not deliver"
    return str(error)
