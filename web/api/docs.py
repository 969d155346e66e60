"""Serves the OpenAPI document, and the same content as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flask import Response, current_app, jsonify, render_template, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.openapi import OpenAPI
from markupsafe import Markup

from ..problems import FieldError, Problem
from .openapi import described_for

blueprint = APIBlueprint("docs", __name__)

_PROBLEM = Problem(
    title="Unprocessable Entity",
    status=422,
    detail="count: input should be greater than or equal to 1.",
    errors=[FieldError(field="count", message="input should be greater than or equal to 1")],
).model_dump_json(indent=2)


@dataclass(frozen=True, kw_only=True)
class Field:
    """A parameter, or a field of a body."""

    name: str
    kind: str
    required: bool
    description: str


@dataclass(frozen=True, kw_only=True)
class Body:
    """The fields of a request body, for one content type."""

    content_type: str
    fields: Sequence[Field]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the API."""

    anchor: str
    method: str
    path: str
    summary: str
    paragraphs: Sequence[str]
    needs_token: bool
    parameters: Sequence[Field]
    bodies: Sequence[Body]
    responses: Mapping[str, str]
    example: str


@blueprint.get("/openapi.json", doc_ui=False)
def document() -> Response:
    """Return the OpenAPI document."""
    return jsonify(_document())


@blueprint.get("/", doc_ui=False)
def page() -> str:
    """Show the OpenAPI document as an HTML page."""
    document = _document()
    operations = list(_operations(document))
    hit = _fields(document["components"]["schemas"]["FoundImage"])
    version = document["info"]["version"]
    return render_template("api.html", operations=operations, hit_fields=hit, problem=_PROBLEM, version=version)


@blueprint.app_template_filter("code")
def as_code(text: str) -> Markup:
    """Return a text as HTML; the parts between backticks become code, as in Markdown."""
    parts = text.split("`")
    return Markup().join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


def _document() -> dict[str, Any]:
    return described_for(cast(OpenAPI, current_app).api_doc, request.script_root or "/", request.url_root)


def _operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, spec in methods.items():
            content = spec.get("requestBody", {}).get("content", {})
            yield Operation(
                anchor=spec["operationId"],
                method=method.upper(),
                path=path,
                summary=spec["summary"],
                paragraphs=[part for part in spec.get("description", "").split("\n\n") if part],
                needs_token=bool(spec.get("security")),
                parameters=[_field(each["name"], each["schema"], each) for each in spec.get("parameters", ())],
                bodies=[Body(content_type=kind, fields=_fields(each["schema"])) for kind, each in content.items()],
                responses={status: each["description"] for status, each in spec["responses"].items()},
                example=spec["x-codeSamples"][0]["source"],
            )


def _fields(schema: Mapping[str, Any]) -> list[Field]:
    required = schema.get("required", ())
    return [
        _field(name, part, {"description": part.get("description", ""), "required": name in required})
        for name, part in schema.get("properties", {}).items()
    ]


def _field(name: str, schema: Mapping[str, Any], spec: Mapping[str, Any]) -> Field:
    return Field(
        name=name,
        kind=_kind(schema),
        required=bool(spec.get("required")),
        description=spec.get("description") or "",
    )


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type of a schema's values in words."""
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    if schema.get("format") == "binary":
        return "file"
    low, high = (schema.get(name, schema.get(f"exclusive{name.title()}")) for name in ("minimum", "maximum"))
    bounds = f", {low:,} to {high:,}" if low is not None and high is not None else ""
    kind = str(schema.get("type", "anything"))
    return {"string": "text", "null": "nothing"}.get(kind, kind) + bounds
