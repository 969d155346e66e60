"""Reads requests: query strings, JSON and forms into their models, strictly, and after the token was looked at."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar, get_type_hints

from flask import Response, request
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json
from werkzeug.datastructures import FileStorage, MultiDict, WWWAuthenticate
from werkzeug.exceptions import BadRequest, Forbidden, NotFound, Unauthorized, UnsupportedMediaType

from ..backend import backend
from ..problems import FieldError, InvalidFieldsError
from .requests import Nothing, Request

JSON, FORM = "application/json", "multipart/form-data"
_LONGEST_MESSAGE = 300
"""Characters: pydantic quotes what it was given."""

M = TypeVar("M", bound=Request)
View = TypeVar("View", bound=Callable[..., Response])


# --- Views ----------------------------------------------------------------------------------------


def checked(view: View) -> View:
    """Give a view its `path` and its `query`, of the models that it is annotated with.

    flask-openapi3 describes them from the same annotations. It could read them, too, but makes the JSON schema anew for
    every request, passes on what is not named in it, and takes the first of values that are given twice.
    """
    hints = get_type_hints(view)

    @wraps(view)
    def reading(**arguments: Any) -> Response:
        given: dict[str, Request] = {}
        if "path" in hints:
            try:
                given["path"] = hints["path"].model_validate(arguments)
            except ValidationError:
                raise NotFound from None
        query = read(hints.get("query", Nothing), request.args)
        if "query" in hints:
            given["query"] = query
        return view(**given)

    reading.__delay_validate_request__ = True  # type: ignore[attr-defined]  # flask-openapi3's mark for this
    return reading  # type: ignore[return-value]  # the arguments are Flask's, the answer the view's


def authorised(view: View) -> View:
    """Let a view run for those only who show SEARCHDB_API_TOKEN; of others not even the body is read.

    Raises:
        Forbidden: there is no token that would do.
        Unauthorized: another one, or none, was given.
    """

    @wraps(view)
    def guarded(**arguments: Any) -> Response:
        token = backend().settings.api_token
        if token is None:
            raise Forbidden("Writing is off here: it is on once SEARCHDB_API_TOKEN is set for the server.")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Headers come as Latin-1, whatever they are.
        known = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.get_secret_value().encode())
        if scheme.lower() != "bearer" or not known:
            raise Unauthorized(
                "This needs the header `Authorization: Bearer` with the server's SEARCHDB_API_TOKEN.",
                www_authenticate=WWWAuthenticate("bearer"),
            )
        return view(**arguments)

    return guarded  # type: ignore[return-value]


# --- Values ---------------------------------------------------------------------------------------


def read(model: type[M], given: MultiDict[str, str]) -> M:
    """Return the values of a query string or a form as a model.

    Raises:
        InvalidFieldsError: one is wrong, is given twice, or is none of the model's.
    """
    values: dict[str, Any] = {}
    for name, several in given.lists():
        kind = _kinds(model).get(name)
        if kind != "array" and len(several) > 1:
            raise invalid(name, f"is given {len(several)} times, and counts only once")
        values[name] = several if kind == "array" else several[0]
        if kind == "object":
            values[name] = _object(name, several[0])
    with _fields_of():
        return model.model_validate(values)


def read_json(model: type[M]) -> M:
    """Return the body, which is JSON, as a model.

    Raises:
        BadRequest: it is no JSON.
        InvalidFieldsError: a value is wrong, or is none of the model's.
    """
    with _fields_of():
        return model.model_validate_json(request.get_data(cache=False), strict=True)


def read_form(model: type[M], files: str, *, most: int = 1) -> tuple[M, list[FileStorage]]:
    """Return the body, which is a form, as a model and the files in the field of that name, at least one.

    Raises:
        InvalidFieldsError: a value is wrong, or is none of the model's; or the files are too few or too many.
    """
    unknown = next((name for name in request.files if name != files), None)
    if unknown is not None:
        raise invalid(unknown, "is a file, and there is no such field")
    if files in request.form:
        raise invalid(files, "is no file: send it with a file name")
    uploads = request.files.getlist(files)
    if not 1 <= len(uploads) <= most:
        wanted = "one file" if most == 1 else f"1 to {most} files"
        raise invalid(files, f"has {len(uploads)} files, where {wanted} may be")
    return read(model, request.form), uploads


def body_type() -> str:
    """Return which of JSON and FORM the body is.

    Raises:
        UnsupportedMediaType: neither.
    """
    if request.mimetype not in (JSON, FORM):
        raise UnsupportedMediaType(f"The Content-Type of the request's body is neither {JSON} nor {FORM}.")
    return request.mimetype


def _object(name: str, text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        raise invalid(name, "is no JSON object") from None


@cache
def _kinds(model: type[Request]) -> Mapping[str, str | None]:
    """Return the JSON type of each property that has a single one, null aside."""
    properties = model.model_json_schema()["properties"] if model.model_fields else {}
    return {name: _kind(part) for name, part in properties.items()}


def _kind(schema: Mapping[str, Any]) -> str | None:
    choices = [choice for choice in schema.get("anyOf", (schema,)) if choice != {"type": "null"}]
    return choices[0].get("type") if len(choices) == 1 else None


@contextmanager
def _fields_of() -> Iterator[None]:
    try:
        yield
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise BadRequest(f"The request's body is not JSON: {errors[0]['msg'].partition(': ')[2]}.") from None
        raise InvalidFieldsError([_field_error(error) for error in errors]) from None


def _field_error(error: ErrorDetails) -> FieldError:
    message = "there is no such field" if error["type"] == "extra_forbidden" else error["msg"]
    message = message.removeprefix("Value error, ")[:_LONGEST_MESSAGE]
    return FieldError(field=".".join(map(str, error["loc"])) or "body", message=f"{message[:1].lower()}{message[1:]}")


def invalid(field: str, message: str) -> InvalidFieldsError:
    """Return the error that says what is wrong with one field."""
    return InvalidFieldsError([FieldError(field=field, message=message)])
