"""Adds to the OpenAPI document what flask-openapi3 cannot derive from the views: errors, bodies and examples."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from flask_openapi3.types import ResponseDict
from flask_openapi3.utils import get_model_schema
from pydantic import BaseModel

from ..problems import MIMETYPE
from .parsing import FORM, JSON
from .requests import Request, without_null

SECURITY_SCHEMES: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer", "description": "The server's SEARCHDB_API_TOKEN."}
}
TOKEN: list[dict[str, list[Any]]] = [{"token": []}]

_REASONS = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    403: "Writing is disabled: the server has no SEARCHDB_API_TOKEN, or may only read its database.",
    404: "There is no image with this id.",
    413: "The request, or an image, has more bytes or pixels than the server accepts.",
    414: "The URL is longer than 8,000 characters.",
    415: "The content is not an image in a supported format, or the request is neither JSON nor a form.",
    422: "A value is invalid; or an image is damaged or cannot be fetched.",
    429: "Too many requests; `Retry-After` says how many seconds to wait.",
    503: "The database or the model is unavailable or still loading; `Retry-After` says how many seconds to wait.",
    507: "The server has no space left for the upload or the image.",
}
_ALWAYS = (414, 422, 429, 503)
_READING_A_BODY = (400, 413, 415, 507)


def responses(*reasons: int, body: bool = False, **good: type[BaseModel] | None) -> ResponseDict:
    """Return an operation's responses.

    Args:
        reasons: statuses of its errors, besides those of every operation.
        body: whether the request has a body; adds the errors of reading it.
        good: the models of the successful responses `ok`, `created` and `deleted`; None for an empty response.
    """
    statuses = {"ok": 200, "created": 201, "deleted": 204}
    described: ResponseDict = {statuses[name]: model for name, model in good.items()}
    for status in sorted({*reasons, *_ALWAYS, *(_READING_A_BODY if body else ())}):
        schema = {"$ref": "#/components/schemas/Problem"}
        described[status] = {"description": _REASONS[status], "content": {MIMETYPE: {"schema": schema}}}
    return described


def request_body(json: type[Request], form: type[Request], files: str, *, most: int = 1) -> dict[str, Any]:
    """Return the description of a body that is JSON, or a form with image files in the field `files`."""
    schema = without_null(get_model_schema(form))
    file = {"type": "string", "format": "binary", "description": "An image file."}
    several = {"type": "array", "items": file, "minItems": 1, "maxItems": most, "description": "Image files."}
    schema["properties"] = {files: file if most == 1 else several} | schema.get("properties", {})
    schema["required"] = [files]
    content = {JSON: {"schema": get_model_schema(json)}, FORM: {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def operation_id(*, name: str, path: str, method: str) -> str:
    """Return the operation's id, which is also its name in generated clients: the name of its view."""
    return name


def example(command: str) -> dict[str, Any]:
    """Return a shell command as an operation's example; `{server}` stands for this server's URL."""
    return {"x-codeSamples": [{"lang": "Shell", "label": "curl", "source": command}]}


def described_for(document: Mapping[str, Any], root: str, url: str) -> dict[str, Any]:
    """Return the document for clients that reach the application at the path `root` and the URL `url`."""
    described = deepcopy({**document, "servers": [{"url": root}]})
    for operations in described["paths"].values():
        for operation in operations.values():
            # flask-openapi3 joins a docstring's lines with <br/>, but they are Markdown.
            operation["description"] = operation.get("description", "").replace("<br/>", "\n").strip()
            for sample in operation.get("x-codeSamples", ()):
                sample["source"] = sample["source"].replace("{server}", url.rstrip("/"))
    return described
