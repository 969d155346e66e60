"""The web's log: one line for every request and for whatever else is said, as text or as JSON, on standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from urllib.parse import quote

from flask import Request, Response, g, has_request_context

REQUESTS = logging.getLogger("web.requests")
LONGEST_PART = 300
"""Characters of a path, and of a query string, that a line repeats."""
LONGEST_VALUE = 100
"""Characters of one value of a query string: a search by picture has 688 that tell nobody anything."""
LONGEST_ADDRESS = 60
REQUEST_ID = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNQUOTED = "/:;=&+,@!$'()*~%?[]"
"""Beside letters, digits and `_.-~`, what a path or a query string keeps; anything else is written as `%0A` is."""
_SPOKEN = ("web", "searchdb")
"""The loggers, with those below them, whose lines these are."""


def sane_id(text: str | None) -> str | None:
    """Return a request's id if a line can hold it."""
    return text if text is not None and _SANE_ID.fullmatch(text) else None


def setup(log_format: str) -> None:
    """Write the lines of all our loggers in a format, "text" or "json"; the last call counts."""
    for name in _SPOKEN:
        logger = logging.getLogger(name)
        handler = next((each for each in logger.handlers if isinstance(each, StandardError)), None)
        if handler is None:
            handler = StandardError()
            logger.addHandler(handler)
        handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    REQUESTS.setLevel(logging.INFO)
    # `flask run` has a line of its own for every request.
    server = logging.getLogger("werkzeug")
    if _is_no_request_line not in server.filters:
        server.addFilter(_is_no_request_line)


def log_request(request: Request, response: Response, seconds: float) -> None:
    """Write the line of one request."""
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
    """Writes to what is standard error at the moment of writing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line."""
        self.stream = sys.stderr
        super().emit(record)


class JsonLines(logging.Formatter):
    """A line is a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, object] = {"time": _moment(record), "level": record.levelname.lower(), "logger": record.name}
        line |= getattr(record, "request", {}) or {"message": record.getMessage()}
        if (request_id := _request_id()) is not None:
            line["id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextLines(logging.Formatter):
    """A line is for people; but for a traceback's, there is one for a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
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
    """Return the text with whatever could begin a new line, or move a terminal's cursor, written as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def _is_no_request_line(record: logging.LogRecord) -> bool:
    return not (isinstance(record.msg, str) and record.msg.endswith('] "%s" %s %s'))
