"""Turns errors into pages that say what to do, and nothing about the server that is not the visitor's to know."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from pathlib import Path

import sqlalchemy.exc
from flask import Flask, Response, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from searchdb.errors import (
    DatabaseError,
    EmbeddedServerError,
    ImageNotFoundError,
    ModelError,
    ModelMismatchError,
    ModelUnavailableError,
    PictureError,
    QueryError,
    SchemaError,
)
from web.collection import collection

log = logging.getLogger(__name__)

RETRY_AFTER = 10
"""Seconds after which a client may try again where the service is away for a while."""

_QUOTED_PATH = re.compile(r"(['\"])~?\.{0,2}/[^'\"]*?([^'\"/]+)/?\1")
_PATH = re.compile(r"(?<![\w:/.~-])~?\.{0,2}/(?:[^\s'\"<>()]*/)?([^\s'\"<>()/]+)/?")


def register(app: Flask) -> None:
    """Install the handlers, and what the pages' frame needs."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(QueryError, _query)
    app.register_error_handler(ImageNotFoundError, _not_found)
    app.register_error_handler(PictureError, _picture)
    app.register_error_handler(DatabaseError, _database)
    app.register_error_handler(sqlalchemy.exc.TimeoutError, _busy)
    app.register_error_handler(ModelError, _model)
    app.context_processor(_frame)


def model_label(name: str) -> str:
    """Return a model's name as visitors may see it: of a folder on this server its last component only."""
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or name.startswith(".") or path.is_dir() else name


def without_paths(text: str) -> str:
    """Return the text with every path of this server cut down to its last component."""
    return _PATH.sub(r"\1", _QUOTED_PATH.sub(r"\1\2\1", text))


def _frame() -> dict[str, object]:
    return {"model": model_label(collection().model_name), "asked": request.args}


def _page(status: int, title: str, message: str, *, advice: str = "", command: str = "") -> Response:
    html = render_template("error.html", status=status, title=title, message=message, advice=advice, command=command)
    response = make_response(html, status)
    response.headers["Cache-Control"] = "no-store"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _http(error: HTTPException) -> Response:
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    titles = {404: "There is no such page", 500: "Something went wrong here", 503: "One moment"}
    messages = {
        404: "The address may be mistyped, or what it led to is gone.",
        500: "The fault is on this side, and the server's log has the details.",
    }
    response = _page(status, titles.get(status, error.name), messages.get(status, error.description or ""))
    for name, value in error.get_headers():
        if name in ("Allow", "Content-Range", "Retry-After"):
            response.headers[name] = value
    return response


def _query(error: QueryError) -> Response:
    return _page(400, "This search cannot be run", _sentence(str(error)))


def _not_found(error: ImageNotFoundError) -> Response:
    return _page(404, "There is no such picture", "No picture has this number; it may have been removed.")


def _picture(error: PictureError) -> Response:
    return _page(404, "This picture cannot be shown", _sentence(without_paths(str(error))))


def _database(error: DatabaseError) -> Response:
    collection().suspect()
    log.warning("%s", error)
    if isinstance(error, SchemaError):
        return _page(503, "The database is not ready", _sentence(str(error)))
    reason = "The embedded server does not start" if isinstance(error, EmbeddedServerError) else "It does not answer"
    return _page(
        503,
        "The database cannot be reached",
        f"{reason}, so that nothing can be searched just now. The page works again as soon as it is back.",
        advice="If this is your server: the log names the reason, and this command checks the connection.",
        command="searchdb status",
    )


def _busy(error: sqlalchemy.exc.TimeoutError) -> Response:
    log.warning("%s", error)
    return _page(503, "One moment", "More people search at once than the database serves. Try again in a few seconds.")


def _model(error: ModelError) -> Response:
    log.warning("%s", error)
    if isinstance(error, ModelMismatchError):
        stored, given = (name.rpartition("/")[2] if name[:1] in "/~." else name for name in (error.stored, error.given))
        return _page(
            503,
            "The collection has another model",
            f"Its pictures were embedded with {stored}, this server uses {given}: their vectors cannot be compared.",
            advice="If this is your server: set SEARCHDB_MODEL to the collection's model, or use another database.",
        )
    if isinstance(error, ModelUnavailableError):
        label, folder = model_label(error.name), str(Path(error.name).expanduser().resolve())
        reason = without_paths(error.reason.replace(folder, label).replace(error.name, label))
        return _page(
            503,
            "The model cannot be loaded",
            f"{label}: {reason}.",
            advice="If this is your server: set SEARCHDB_MODEL to a folder in Hugging Face layout, or to demo.",
        )
    return _page(503, "The model cannot be used", _sentence(without_paths(str(error))))


def _sentence(text: str) -> str:
    """Return a message of ours, which begins in lower case and has no full stop, as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
