"""What the OpenAPI document says of requests and answers beyond what flask-openapi3 finds in the views."""

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
    403: "Writing is off: the server has no SEARCHDB_API_TOKEN, or may only read its database.",
    404: "There is no image with this id.",
    413: "The request, or an image, has more bytes or pixels than the server accepts.",
    415: "The content is not an image in a supported format, or the request is neither JSON nor a form.",
    422: "A value is wrong; or an image is damaged, or cannot be fetched.",
    429: "There were too many requests; `Retry-After` says when to come again.",
    503: "Database or model are away, or still loading; `Retry-After` says when to come again.",
}
_ALWAYS = (422, 429, 503)
_READING_A_BODY = (400, 413, 415)


def responses(*reasons: int, body: bool = False, **good: type[BaseModel] | None) -> ResponseDict:
    """Return an operation's answers.

    Args:
        reasons: statuses of its problems, beside those that every operation may have.
        body: whether the request has one, and with it that body's problems.
        good: the models of the good answers `ok`, `created` and `deleted`, None for an empty one.
    """
    statuses = {"ok": 200, "created": 201, "deleted": 204}
    found: ResponseDict = {statuses[name]: model for name, model in good.items()}
    for status in sorted({*reasons, *_ALWAYS, *(_READING_A_BODY if body else ())}):
        schema = {"$ref": "#/components/schemas/Problem"}
        found[status] = {"description": _REASONS[status], "content": {MIMETYPE: {"schema": schema}}}
    return found


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
    """Return what generated clients call an operation: the name of its view."""
    return name


def example(command: str) -> dict[str, Any]:
    """Return how an operation is called from a shell; `{server}` stands for this server's URL."""
    return {"x-codeSamples": [{"lang": "Shell", "label": "curl", "source": command}]}


def described_for(document: Mapping[str, Any], root: str, url: str) -> dict[str, Any]:
    """Return the document as it is for those who reach the application's root at that path, and at that URL."""
    described = deepcopy({**document, "servers": [{"url": root}]})
    for operations in described["paths"].values():
        for operation in operations.values():
            # flask-openapi3 joins a docstring's lines so; they are Markdown as they are.
            operation["description"] = operation.get("description", "").replace("<br/>", "\n").strip()
            for sample in operation.get("x-codeSamples", ()):
                sample["source"] = sample["source"].replace("{server}", url.rstrip("/"))
    return described
