"""The web page: `flask run`, `searchdb demo` and gunicorn all start what `create_app` returns."""

from __future__ import annotations

import atexit
from importlib.metadata import version

from flask import Flask, Response
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from werkzeug.routing import IntegerConverter

from searchdb.config import Settings
from searchdb.embedder import Embedder
from searchdb.records import LARGEST_ID

from . import api, errors
from .backend import EXTENSION, Backend
from .files import images
from .ops import health
from .ops import middleware as operations
from .page import status
from .page import views as pages

CONTENT_SECURITY_POLICY = (
    # Pictures may come from any host, for URL pictures are shown from where they are; nothing else may.
    "default-src 'none'; img-src 'self' https: http:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class IdConverter(IntegerConverter):
    """An id as `images.id` can hold it; anything else is no such page."""

    regex = "[0-9]{1,19}"

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, max=LARGEST_ID, **options)  # type: ignore[arg-type]


def create_app(settings: Settings | None = None, *, embedder: Embedder | None = None, warm_up: bool = True) -> Flask:
    """Return the application.

    Neither the database nor the model has to be there yet: the database is opened by the first request that needs
    it, the model is loaded in the background.

    Args:
        settings: by default those of the environment.
        embedder: a model that the caller has loaded; by default the one that the settings or the collection name.
        warm_up: whether to begin with both in the background at once; a process that forks leaves it to its children,
            because neither threads nor connections retry_until_available a fork.
    """
    settings = Settings() if settings is None else settings

    if embedder is None:
        from searchdb.media.embed import CLIPEmbedder

        def make_embedder(name: str) -> Embedder:
            return CLIPEmbedder(name, device=settings.device, dtype=settings.dtype)
    else:

        def make_embedder(name: str) -> Embedder:
            return embedder

    app = OpenAPI(__name__, info=Info(title="searchdb", version=version("searchdb")), doc_ui=False)
    app.url_map.converters["id"] = IdConverter
    collection = Backend(settings, make_embedder, loaded=embedder is not None)
    app.extensions[EXTENSION] = collection
    if embedder is None and warm_up:
        collection.warm_up()
    atexit.register(collection.close)

    app.register_blueprint(pages.blueprint)
    app.register_blueprint(images.blueprint)
    app.register_blueprint(health.blueprint)
    status.register(app, collection)
    api.register(app)
    operations.register(app, settings)
    errors.register(app)
    app.after_request(_add_headers)
    return app


def _add_headers(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    # Without a word on caching a browser may keep a page of results for as long as it likes.
    response.headers.setdefault("Cache-Control", "private, no-cache")
    return response
