"""Turns errors into pages or JSON that say what to do and reveal nothing about the server."""

from __future__ import annotations

import errno
import logging
import re
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

import sqlalchemy.exc
from flask import Flask, Response, make_response, render_template, request, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from searchdb.db.best_effort import REFUSALS
from searchdb.db.connections import LOCKED
from searchdb.errors import (
    BusyError,
    DatabaseError,
    DecodeError,
    DecodeInterruptedError,
    DecoderLostError,
    DiskFullError,
    EmbeddedServerError,
    ImageError,
    ImageNotFoundError,
    MemoryBusyError,
    ModelError,
    ModelMismatchError,
    ModelUnavailableError,
    OtherModelError,
    QueryError,
    SchemaError,
    StorageError,
    UploadsFullError,
)
from searchdb.search.filter_table import PUBLIC_FILTERS, Kind

from .backend import backend
from .problems import (
    UNREACHABLE,
    FieldError,
    ImageRefusedError,
    InvalidFieldsError,
    below_api,
    message_of,
    problem,
    status_of,
)

log = logging.getLogger(__name__)

RETRY_AFTER_S = 10
"""Seconds after which a client may try again while a service is unavailable."""

LISTED_FILTERS = [row.name for row in PUBLIC_FILTERS if row.kind in (Kind.NAMES, Kind.CHOICE) or row.name == "rating"]
"""Filters whose values the page lists; a form without the lists passes them on as hidden inputs."""

API_NAMES = {"text": "q", "exclude": "not"}
"""Parameters of `SearchDB.search` that have another name in the API."""

TIMED_OUT = "57014"
"""SQLSTATE of a statement that exceeded statement_timeout."""

_QUOTED_PATH = re.compile(r"(['\"])~?\.{0,2}/[^'\"]*?([^'\"/]+)/?\1")
_PATH = re.compile(r"(?<![\w:/.~-])~?\.{0,2}/(?:[^\s'\"<>()]*/)?([^\s'\"<>()/]+)/?")


def register(app: Flask) -> None:
    """Install the error handlers, and the variables of the base template."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(InvalidFieldsError, _fields)
    app.register_error_handler(QueryError, _query)
    app.register_error_handler(OtherModelError, _other_model)
    app.register_error_handler(ImageNotFoundError, _not_found)
    app.register_error_handler(ImageError, _image_error)
    app.register_error_handler(ImageRefusedError, _refused)
    app.register_error_handler(DatabaseError, _database)
    app.register_error_handler(StorageError, _storage)
    app.register_error_handler(OSError, _no_room)
    app.register_error_handler(sqlalchemy.exc.TimeoutError, _busy)
    app.register_error_handler(BusyError, _being_measured)
    app.register_error_handler(MemoryBusyError, _no_memory)
    app.register_error_handler(DecodeInterruptedError, _stopping)
    app.register_error_handler(ModelError, _model)
    app.context_processor(_frame)


def model_label(name: str) -> str:
    """Return a model's name as visitors may see it: only the last component of a folder on this server."""
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or name.startswith(".") or path.is_dir() else name


def without_paths(text: str) -> str:
    """Return the text with every path of this server reduced to its last component."""
    return _PATH.sub(r"\1", _QUOTED_PATH.sub(r"\1\2\1", text)) if "/" in text else text


def _frame() -> dict[str, object]:
    return {"model": model_label(backend().model_name), "asked": request.args, "listed_filters": LISTED_FILTERS}


def _answer(
    status: int,
    title: str,
    message: str,
    *,
    advice: str = "",
    command: str = "",
    link: tuple[str, str] | None = None,
    asked: MultiDict[str, str] | None = None,
) -> Response:
    """Return the page, or the problem, that says what happened; `asked` is what the page's form then shows again."""
    if below_api():
        said = message if title == HTTPStatus(status).phrase else f"{title}. {message}"
        response = problem(status, said if command else f"{said} {advice}".strip())
    else:
        page = {"title": title, "message": message, "advice": advice, "command": command, "link": link}
        asked = request.args if asked is None else asked
        response = make_response(render_template("error.html", status=status, asked=asked, **page), status)
    response.headers["Cache-Control"] = "no-store"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _http(error: HTTPException) -> Response:
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    titles = {404: "There is no such page", 500: "Something went wrong here", 503: "One moment"}
    messages = {
        404: "The address may be mistyped, or the page was removed.",
        413: _too_large() if error.description == RequestEntityTooLarge.description else error.description or "",
        500: "This is an error of the server; its log has the details.",
    }
    response = _answer(status, titles.get(status, error.name), messages.get(status, error.description or error.name))
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    for name, value in error.get_headers():
        if name in ("Allow", "Content-Range", "Retry-After", "WWW-Authenticate"):
            response.headers[name] = value
    return response


def _too_large() -> str:
    """Return which limits of a request's size there are; the error does not tell which of a form's was exceeded."""
    body = f"A request to this address may have up to {request.max_content_length or 0:,} bytes."
    if request.mimetype != "multipart/form-data":
        return body
    form = (
        f"A form may have up to {request.max_form_parts or 0:,} fields, "
        f"and each that is not a file up to {request.max_form_memory_size or 0:,} bytes."
    )
    length = request.content_length
    if length is None:
        return f"{body} {form}"
    return body if length > (request.max_content_length or 0) else form


def _fields(error: InvalidFieldsError) -> Response:
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.description or "", error.errors)


def _query(error: QueryError) -> Response:
    message = str(error)
    if below_api():
        field = API_NAMES.get(error.field, error.field) if error.field else None
        errors = [FieldError(field=field, message=message)] if field else []
        return problem(422, _sentence(message), errors)
    return _answer(400, "This search cannot be run", _sentence(message))


def _other_model(error: OtherModelError) -> Response:
    """Say that the collection was switched to another model since the address was made, and lead to the search."""
    if below_api():
        return _query(error)
    # Not as arguments of url_for, which takes some names, such as _anchor, for its own.
    rest = urlencode([each for each in request.args.items(multi=True) if each[0] not in ("vector", "page")])
    start = url_for("pages.index")
    return _answer(
        400,
        "This address is from an earlier model",
        "It has the vector of an image by the model that this collection had before, which cannot be compared with "
        "those of the present one: search by the image again.",
        advice="Choose the file, or give its URL.",
        link=("Search without the image", f"{start}?{rest}") if rest else ("Go to the start page", start),
    )


def _not_found(error: ImageNotFoundError) -> Response:
    return _answer(404, "There is no such image", "No image has this id; it may have been removed.")


def _image_error(error: ImageError) -> Response:
    if isinstance(error, DecoderLostError):
        return _decoder_lost(error)
    message = _sentence(without_paths(message_of(error)))
    if below_api():
        return problem(status_of(error), message)
    return _answer(404, "This image cannot be shown", message)


def _refused(refused: ImageRefusedError) -> Response:
    if isinstance(refused.error, DecoderLostError):
        return _decoder_lost(refused.error)
    if isinstance(refused.error, UNREACHABLE):
        log.warning("%s", refused.error)  # the client is not told the reason
    message, status = without_paths(message_of(refused.error)), status_of(refused.error)
    if below_api():
        return problem(status, _sentence(message), [FieldError(field=refused.field, message=message)])
    advice = "Choose another file, or describe the image in words."
    unreadable = isinstance(refused.error, DecodeError)
    title = "This file is not an image we can read" if unreadable else "Cannot search by this image"
    return _answer(status, title, _sentence(message), advice=advice, asked=request.form)


def _database(error: DatabaseError) -> Response:
    backend().suspect(error)
    log.warning("%s", error)
    if isinstance(error, SchemaError):
        return _answer(503, "The database is not ready", _sentence(str(error)))
    if error.sqlstate in REFUSALS:
        message = "This server may only read its database, so nothing can be added or removed here."
        return _answer(403, "The database is read-only", message)
    if isinstance(error, DiskFullError):
        return _full("The disk of its database is full, so nothing can be added now. Searches still work.")
    if error.sqlstate == TIMED_OUT:
        message = "The database cancelled the query. Narrow the search, or try again later."
        return _answer(503, "This took too long", message)
    if error.sqlstate == LOCKED:
        message = "The tables are locked, as while the database is changed. Try again in a few seconds."
        return _answer(503, "The database is busy", message)
    reason = "The embedded server does not start" if isinstance(error, EmbeddedServerError) else "It does not answer"
    return _answer(
        503,
        "The database cannot be reached",
        f"{reason}, so searches do not work now. The page works again as soon as the database is back.",
        advice="If this is your server: the log names the reason, and this command checks the connection.",
        command="searchdb status",
    )


def _storage(error: StorageError) -> Response:
    log.warning("%s", error)
    if isinstance(error, UploadsFullError):
        return _full(f"{str(error)[0].upper()}{str(error)[1:]}.")
    if error.full:
        return _full("The disk for uploaded images is full, so none can be added now. Searches still work.")
    message = "This server cannot write its folder for uploaded images, so none can be added now."
    return _answer(503, "Images cannot be added", message)


def _no_room(error: OSError) -> Response:
    """Report that an upload, which is received into a temporary file, finds no room for it."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "usable temporary directory" not in str(error):
        raise error
    log.warning("cannot receive an upload: %s", error)
    return _full("There is no space left for temporary files, so large uploads cannot be received now.")


def _full(message: str) -> Response:
    return _answer(507, "This server has no space left", message)


def _busy(error: sqlalchemy.exc.TimeoutError) -> Response:
    log.warning("%s", error)
    backend().metrics.refused("database")
    return _answer(503, "One moment", "Too many searches are running. Try again in a few seconds.")


def _being_measured(error: BusyError) -> Response:
    return _answer(503, "One moment", _sentence(str(error)))


def _no_memory(error: MemoryBusyError) -> Response:
    log.warning("%s", error)
    return _answer(503, "One moment", "Too many images are being decoded. Try again in a few seconds.")


def _decoder_lost(error: DecoderLostError) -> Response:
    log.warning("%s", error)
    return _answer(503, "One moment", "This image cannot be decoded now. Try again in a few seconds.")


def _stopping(error: DecodeInterruptedError) -> Response:
    return _answer(503, "One moment", "The server is restarting. Try again in a few seconds.")


def _model(error: ModelError) -> Response:
    log.warning("%s", error)
    if isinstance(error, ModelMismatchError):
        stored = f"{model_label(error.stored)} (weights {error.stored_weights})"
        given = f"{model_label(error.given)} (weights {error.given_weights})"
        return _answer(
            503,
            "The collection has another model",
            f"Its images were embedded with {stored}, this server uses {given}: their vectors cannot be compared.",
            advice="If this is your server: set SEARCHDB_MODEL to the collection's model, change that with "
            "`searchdb model switch`, or use another database.",
        )
    if isinstance(error, ModelUnavailableError):
        label, folder = model_label(error.name), str(Path(error.name).expanduser().resolve())
        reason = without_paths(error.reason.replace(folder, label).replace(error.name, label))
        return _answer(
            503,
            "The model cannot be loaded",
            f"{label}: {reason}.",
            advice="If this is your server: set SEARCHDB_MODEL to a folder in Hugging Face layout, or to demo.",
        )
    return _answer(503, "The model cannot be used", _sentence(without_paths(str(error))))


def _sentence(text: str) -> str:
    """Return an error message, which begins in lower case and has no full stop, as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
