"""Logs the web server's requests and messages to standard error, one line each, as text or JSON."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from flask import Request, Response, g, has_request_context
from pythonjsonlogger.json import JsonFormatter

REQUESTS = logging.getLogger("web.requests")
LONGEST_PART = 300
"""Characters of a path, and of a query string, that are logged."""
LONGEST_VALUE = 100
"""Characters of one query string value that are logged: the vector of a search by image has 688, of no use in a log."""
LONGEST_ADDRESS = 60
REQUEST_ID = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNQUOTED = "/:;=&+,@!$'()*~%?[]"
"""Characters that are not percent-encoded in a path or query string, beside letters, digits and `_.-~`."""
_LOGGERS = ("web", "searchdb")
"""The loggers that this module configures, with their children."""


def sane_id(text: str | None) -> str | None:
    """Return a client's request id if it is safe to log, else None."""
    return text if text is not None and _SANE_ID.fullmatch(text) else None


def setup(log_format: str) -> None:
    """Set the format of all our loggers, "text" or "json"; a later call replaces the format."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        handler = next((each for each in logger.handlers if isinstance(each, StandardError)), None)
        if handler is None:
            handler = StandardError()
            logger.addHandler(handler)
        handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    REQUESTS.setLevel(logging.INFO)
    # Flask's server logs every request as well: drop its lines.
    server = logging.getLogger("werkzeug")
    if _is_not_request_line not in server.filters:
        server.addFilter(_is_not_request_line)


def log_request(request: Request, response: Response, seconds: float) -> None:
    """Log one request."""
    REQUESTS.info(
        "request",
        extra={
            "request": {
                "method": _quoted(request.method, 20),
                "path": _quoted(request.path, LONGEST_PART),
                "query": _query(request.query_string.decode("latin-1")),
                "status": response.status_code,
                "ms": round(seconds * 1000, 1),
                "bytes": response.content_length,
                "client": _quoted(request.remote_addr or "", LONGEST_ADDRESS),
            }
        },
    )


class StandardError(logging.StreamHandler):
    """Writes to the current `sys.stderr`, which may be replaced after set-up."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line."""
        self.stream = sys.stderr
        super().emit(record)


class JsonLines(JsonFormatter):
    """Formats a record as one line with a JSON object."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Set the object's fields: our own names instead of those of the record's attributes."""
        log_data |= {"time": _moment(record), "level": record.levelname.lower(), "logger": record.name}
        log_data |= getattr(record, "request", {}) or {"message": record.getMessage()}
        if (request_id := _request_id()) is not None:
            log_data["id"] = request_id
        if "exc_info" in message_dict:
            log_data["exception"] = message_dict["exc_info"]


class TextLines(logging.Formatter):
    """Formats a record as one line of text, with a traceback, if any, below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without a line break."""
        request = getattr(record, "request", None)
        if request is None:
            words = [record.levelname, record.name, _on_one_line(record.getMessage())]
        else:
            mark = "?" if request["query"] else ""
            size = "-" if request["bytes"] is None else request["bytes"]
            words = [
                *(request["method"], f"{request['path']}{mark}{request['query']}", str(request["status"])),
                *(f"{request['ms']:.1f}ms", f"{size}b", request["client"]),
            ]
        if (request_id := _request_id()) is not None:
            words.append(f"id={request_id}")
        line = " ".join([_moment(record), *words])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _request_id() -> str | None:
    return g.get("request_id") if has_request_context() else None


def _query(text: str) -> str:
    pairs = [pair.partition("=") for pair in text.split("&")]
    return _quoted("&".join(f"{name}{mark}{_cut(value, LONGEST_VALUE)}" for name, mark, value in pairs), LONGEST_PART)


def _quoted(text: str, longest: int) -> str:
    return _cut(quote(text, safe=_UNQUOTED, errors="replace"), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def _on_one_line(text: str) -> str:
    """Return the text with unprintable characters escaped, so that it cannot forge a line or control a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def _is_not_request_line(record: logging.LogRecord) -> bool:
    return not (isinstance(record.msg, str) and record.msg.endswith('] "%s" %s %s'))
