"""Parses query strings, JSON bodies and forms strictly into request models, and checks the API token."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache, wraps
from typing import Any, TypeVar, get_type_hints

from flask import Response, g, request
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json
from werkzeug.datastructures import FileStorage, MultiDict, WWWAuthenticate
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    NotFound,
    RequestEntityTooLarge,
    Unauthorized,
    UnsupportedMediaType,
)

from searchdb.media.memory import Hold

from ..backend import backend
from ..files.uploads import hold_file
from ..problems import FieldError, InvalidFieldsError
from .requests import Nothing, Request

JSON, FORM = "application/json", "multipart/form-data"
JSON_COPIES = 3
"""Copies of a body in memory at the same time: the body and its strings, then of one image its string and its bytes."""
MAX_JSON_VALUES = 200_000
"""Values in a JSON body, counted by the marks before them, which texts may hold, too: 64 of the longest have 128,000
characters. All values are read before the first is checked: 65 MB of `{"a":1},` take 5 GB and half a minute."""
_BODY = "searchdb_body"
"""Name in `flask.g` of the request's JSON body as a model."""
_LONGEST_MESSAGE = 300
"""Characters: pydantic quotes invalid values, which can be long."""

M = TypeVar("M", bound=Request)
View = TypeVar("View", bound=Callable[..., Response])


# --- Views ----------------------------------------------------------------------------------------


def checked(view: View) -> View:
    """Pass a view its `path` and `query` arguments, parsed into the models that it is annotated with.

    flask-openapi3 documents them from the same annotations. Its own parsing is not used: it builds the JSON schema for
    every request, accepts unknown names, and takes the first of several values.
    """
    hints = get_type_hints(view)

    @wraps(view)
    def with_models(**arguments: Any) -> Response:
        models: dict[str, Request] = {}
        if "path" in hints:
            try:
                models["path"] = hints["path"].model_validate(arguments)
            except ValidationError:
                raise NotFound from None
        query = read(hints.get("query", Nothing), request.args, numbered=False)
        if "query" in hints:
            models["query"] = query
        return view(**models)

    with_models.__delay_validate_request__ = True  # type: ignore[attr-defined]  # turns off flask-openapi3's parsing
    return with_models  # type: ignore[return-value]  # it takes Flask's arguments and returns the view's response


def authorised(view: View) -> View:
    """Run a view only for requests with SEARCHDB_API_TOKEN; the body of other requests is not read.

    Raises:
        Forbidden: the server has no token.
        Unauthorized: the token is missing or wrong.
    """

    @wraps(view)
    def guarded(**arguments: Any) -> Response:
        token = backend().settings.api_token
        if token is None:
            raise Forbidden("Writing is disabled. Set SEARCHDB_API_TOKEN on the server to enable it.")
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        # WSGI decodes headers as Latin-1, whatever their encoding.
        valid = hmac.compare_digest(credentials.strip().encode("latin-1", "replace"), token.get_secret_value().encode())
        if scheme.lower() != "bearer" or not valid:
            raise Unauthorized(
                "This request needs the header `Authorization: Bearer` with the server's SEARCHDB_API_TOKEN.",
                www_authenticate=WWWAuthenticate("bearer"),
            )
        return view(**arguments)

    return guarded  # type: ignore[return-value]


# --- Values ---------------------------------------------------------------------------------------


def read(model: type[M], arguments: MultiDict[str, str], *, numbered: bool = True) -> M:
    """Return a query string or a form as a model.

    Errors name a value of an array by its number, as in `tags.0`; without `numbered` only where there are several.

    Raises:
        InvalidFieldsError: a field is invalid, repeated or unknown.
    """
    values: dict[str, Any] = {}
    single = set[str]() if numbered else {name for name, given in arguments.lists() if len(given) == 1}
    for name, given in arguments.lists():
        kind = _kinds(model).get(name)
        if kind != "array" and len(given) > 1:
            raise invalid(name, f"is given {len(given)} times, but only one value is allowed")
        values[name] = given if kind == "array" else given[0]
        if kind == "object":
            values[name] = _object(name, given[0])
    with _fields_of(single):
        return model.model_validate(values)


def read_json(model: type[M], hold: Hold | None = None) -> M:
    """Return the JSON body as a model.

    `hold` takes the memory for the body and its values, and is released by the caller when they are no longer needed.

    Raises:
        BadRequest: the body is not JSON.
        RequestEntityTooLarge: it has too many bytes or values.
        InvalidFieldsError: a field is invalid or unknown.
        MemoryBusyError: other requests hold too many bytes.
    """
    known: M | None = g.get(_BODY)
    if known is not None:  # the view runs again: see web._Application
        return known
    with hold_file() if hold is None else nullcontext(hold) as held:
        held.take(JSON_COPIES * (request.content_length or request.max_content_length or 0))
        body = request.get_data(cache=False)
        if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_JSON_VALUES:
            raise RequestEntityTooLarge(f"The request body may have up to {MAX_JSON_VALUES:,} values.")
        with _fields_of():
            parsed = model.model_validate_json(body, strict=True)
    if hold is None:
        setattr(g, _BODY, parsed)
    return parsed


def read_form(model: type[M], files: str, *, most: int = 1) -> tuple[M, list[FileStorage]]:
    """Return the form in the body as a model, and the 1 to `most` files in its field `files`.

    Raises:
        InvalidFieldsError: a field is invalid or unknown, or the number of files is wrong.
    """
    unknown = next((name for name in request.files if name != files), None)
    if unknown is not None:
        raise invalid(unknown, "there is no such field")
    if files in request.form:
        raise invalid(files, "is not a file: send it with a file name")
    uploads = request.files.getlist(files)
    if not 1 <= len(uploads) <= most:
        allowed = "one file is" if most == 1 else f"1 to {most} files are"
        raise invalid(files, f"has {len(uploads)} files, but {allowed} allowed")
    return read(model, request.form), uploads


def body_type() -> str:
    """Return the media type of the body, JSON or FORM.

    Raises:
        UnsupportedMediaType: it is neither.
    """
    if request.mimetype not in (JSON, FORM):
        raise UnsupportedMediaType(f"The Content-Type of the request body must be {JSON} or {FORM}.")
    return request.mimetype


def _object(name: str, text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        raise invalid(name, "is not a JSON object") from None


@cache
def _kinds(model: type[Request]) -> Mapping[str, str | None]:
    """Return the JSON type of each property, null aside; None for a property with several types."""
    properties = model.model_json_schema()["properties"] if model.model_fields else {}
    return {name: _kind(part) for name, part in properties.items()}


def _kind(schema: Mapping[str, Any]) -> str | None:
    choices = [choice for choice in schema.get("anyOf", (schema,)) if choice != {"type": "null"}]
    return choices[0].get("type") if len(choices) == 1 else None


@contextmanager
def _fields_of(single: Collection[str] = ()) -> Iterator[None]:
    """Turn a ValidationError into the API's errors; of the fields `single`, which have one value, none is numbered."""
    try:
        yield
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise BadRequest(f"The request body is not JSON: {errors[0]['msg'].partition(': ')[2]}.") from None
        raise InvalidFieldsError([_field_error(error, single) for error in errors]) from None


def _field_error(error: ErrorDetails, single: Collection[str]) -> FieldError:
    at = error["loc"][:1] if set(error["loc"][:1]) & set(single) else error["loc"]
    message = "there is no such field" if error["type"] == "extra_forbidden" else error["msg"]
    message = message.removeprefix("Value error, ")[:_LONGEST_MESSAGE]
    return FieldError(field=".".join(map(str, at)) or "body", message=f"{message[:1].lower()}{message[1:]}")


def invalid(field: str, message: str) -> InvalidFieldsError:
    """Return the error for one invalid field."""
    return InvalidFieldsError([FieldError(field=field, message=message)])
