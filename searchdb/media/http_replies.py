"""Reads the parts of HTTP responses that servers choose: lengths, pauses, reasons."""

from __future__ import annotations

import http.client
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import requests
import urllib3.exceptions

from searchdb.media.safe_http import TooSlowError
from searchdb.records import mask_credentials

MAX_DRAINED_BYTES = 16 * 1024
"""Longest body of a redirect or an error that is read and discarded to reuse the connection; a new one costs more."""

LONGEST_REASON = 160
"""Maximum length in characters: servers choose parts of these texts, and a message should fit on two lines."""

REDIRECTS = (
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.SEE_OTHER,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
)

HTTP_FAULTS = (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError)
"""Everything that requests, urllib3 and http.client raise: requests' errors are OSErrors, bad URLs ValueErrors."""


def content_length(response: requests.Response) -> int | None:
    """Return the number of bytes that the server announces; None if it does not, or nonsense."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def drain(response: requests.Response) -> None:
    """Read and discard a short body, because a connection can be reused only if it was read to the end."""
    declared = content_length(response)
    if declared is not None and declared <= MAX_DRAINED_BYTES:
        with suppress(TooSlowError, *HTTP_FAULTS):
            response.raw.read(MAX_DRAINED_BYTES)


def retry_after(response: requests.Response) -> float | None:
    """Return the Retry-After header (seconds or a date) in seconds from now; None if it is missing or malformed."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])  # nine digits are already more than 30 years
    try:
        at = parsedate_to_datetime(value)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def one_line(text: str) -> str:
    """Return untrusted text as one short printable line without passwords."""
    line = mask_credentials(text).encode("unicode_escape").decode("ascii")
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."
