"""The JSON API under `/api`, documented at `/api/openapi.json` and as a page at `/api/`."""

from __future__ import annotations

from flask import request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.openapi import OpenAPI

from searchdb.index.rebuild import BackgroundRebuilder

from ..api import docs, embedding, images, searching
from ..backend import backend
from ..problems import Problem, below_api
from .openapi import SECURITY_SCHEMES

MAX_REQUEST_OVERHEAD = 1024 * 1024
"""Bytes that a request may have besides the largest image: its other fields, and the encoding of the form."""


def register(app: OpenAPI) -> None:
    """Add the API's endpoints to the application."""
    app.extensions[images.REBUILDER] = BackgroundRebuilder()
    app.security_schemes = SECURITY_SCHEMES
    app.validation_error_model = Problem
    blueprint = APIBlueprint("api", __name__, url_prefix="/api")
    for part in (searching, images, embedding, docs):
        blueprint.register_api(part.blueprint)
    app.register_api(blueprint)
    app.before_request(_limit)


def _limit() -> None:
    if below_api():
        request.max_content_length = backend().settings.max_image_bytes + MAX_REQUEST_OVERHEAD
