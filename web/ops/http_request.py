"""Parses HTTP requests with waitress, within limits, and refuses what another server could read differently."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

from waitress.parser import ParsingError, TransferEncodingNotImplemented
from waitress.receiver import ChunkedReceiver
from waitress.utilities import BadRequest, Error, RequestEntityTooLarge

from . import http_limits
from .waitress_parts import Adjustments, HTTPRequestParser

log = logging.getLogger(__name__)


class URITooLong(Error):
    """The request line exceeds gunicorn's `limit_request_line`."""

    code, reason = 414, "URI Too Long"


class HeadersTooLarge(Error):
    """There are more or longer headers than gunicorn's `limit_request_fields` and `limit_request_field_size`."""

    code, reason = 431, "Request Header Fields Too Large"


class Busy(Error):
    """There is no thread or no room for this request now."""

    code, reason = 503, "Service Unavailable"


class NoSpace(Error):
    """The disk for temporary files is full."""

    code, reason = 507, "Insufficient Storage"


@dataclass(kw_only=True)
class BodyBudget:
    """Counts the bytes of all request bodies in temporary files."""

    held: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size: int) -> bool:
        """Count more bytes; return whether they are within BODIES_BYTES."""
        with self.lock:
            self.held += size
            return self.held <= http_limits.BODIES_BYTES

    def give_back(self, size: int) -> None:
        """Stop counting bytes."""
        with self.lock:
            self.held -= size


class ServerAdjustments(Adjustments):
    """Waitress's options, gunicorn's limits of a request's headers, and the budget of bodies."""

    def __init__(self, *, line: int, fields: int, field_size: int, **options: object) -> None:
        super().__init__(**options)
        self.limit_request_line = line
        self.limit_request_fields = fields
        self.limit_request_field_size = field_size
        self.bodies = BodyBudget()


class RequestParser(HTTPRequestParser):
    """One request as it is received; an `excess` one is refused, whatever it is.

    `error` is set if it cannot be answered by the application. `cut` is set if its body is longer than the server
    reads: the application gets an empty body and the true Content-Length, which it refuses.
    """

    adj: ServerAdjustments
    error: Error | None

    def __init__(self, adj: ServerAdjustments, *, excess: bool = False) -> None:
        super().__init__(adj)
        self.began = time.monotonic()
        self.body_began: float | None = None
        self.cut = False
        self._excess = excess
        self._counted = 0

    def received(self, data: bytes) -> int:
        """Take the next bytes from the connection, and return how many belong to this request."""
        if self._excess:
            self._parse_nothing(BadRequest("Too many requests were sent at once: wait for the responses."))
            return len(data)
        in_body = self.body_rcv is not None
        try:
            consumed = super().received(data)
        except OSError as exc:
            log.warning("cannot receive an upload: %s", exc)
            consumed = self._refuse(NoSpace("There is no space left for uploads."), len(data))
        if in_body and not self.completed:
            self._check_body()
        if isinstance(self.error, RequestEntityTooLarge):
            self.error, self.cut, self.connection_close = None, True, True
            self.headers["CONTENT_LENGTH"] = str(max(self.content_length, self.body_bytes_received))
            self._drop_body()
        if self.headers_finished and self.body_began is None:
            self.body_began = time.monotonic()
        if self.completed:
            self.expect_continue = False  # else waitress asks for a body that there is not, or that was refused
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers.

        Raises:
            ParsingError: they are malformed, or leave open where the body ends.
        """
        line, _, fields = header_plus.partition(b"\r\n")
        lines = fields.rstrip(b"\r\n").split(b"\r\n")
        if len(line) > self.adj.limit_request_line > 0:
            self._parse_nothing(URITooLong(f"The request line may have up to {self.adj.limit_request_line:,} bytes."))
            return
        if len(lines) > self.adj.limit_request_fields:
            self._parse_nothing(HeadersTooLarge(f"A request may have up to {self.adj.limit_request_fields} headers."))
            return
        if max(map(len, lines)) > self.adj.limit_request_field_size > 0:
            limit = self.adj.limit_request_field_size
            self._parse_nothing(HeadersTooLarge(f"A header may have up to {limit:,} bytes."))
            return
        names = [each.partition(b":")[0].strip().lower() for each in lines]
        try:
            super().parse_header(header_plus)
        except TransferEncodingNotImplemented as exc:
            raise ParsingError("Transfer-Encoding must be chunked") from exc
        except ValueError as exc:  # an address that is no URL, or a length of thousands of digits
            raise ParsingError("The address or the Content-Length is invalid") from exc
        if self.version not in ("1.0", "1.1"):
            raise ParsingError("The version must be HTTP/1.0 or HTTP/1.1")
        # Whatever another server in the way could take for the end of the body must be refused (RFC 9112, 6.3).
        if b"transfer-encoding" in names:
            if self.version == "1.0":
                raise ParsingError("HTTP/1.0 has no Transfer-Encoding")
            if b"content-length" in names:
                raise ParsingError("A request has either Content-Length or Transfer-Encoding")
            if names.count(b"transfer-encoding") > 1 or not self.chunked:
                raise ParsingError("Transfer-Encoding must be chunked")
        if names.count(b"content-length") > 1:
            raise ParsingError("Content-Length is repeated")

    def close(self) -> None:
        """Release the body."""
        super().close()
        self.adj.bodies.give_back(self._counted)
        self._counted = 0

    def _check_body(self) -> None:
        received = self.body_bytes_received
        if received > http_limits.BODY_IN_MEMORY_BYTES:
            new = received - self._counted
            self._counted = received
            if not self.adj.bodies.take(new):
                self._refuse(Busy("Too many uploads are being received. Try again in a few seconds."))
                return
        if isinstance(self.body_rcv, ChunkedReceiver):
            body = self.body_rcv
            if len(body.control_line) + len(body.trailer) > http_limits.MAX_CONTROL_BYTES:
                self._refuse(BadRequest("A chunk's size or the trailers are too long."))
            elif received > http_limits.CHUNK_OVERHEAD * len(body) + http_limits.MAX_CONTROL_BYTES:
                self._refuse(BadRequest("The chunks of the body are too small."))

    def _refuse(self, error: Error, consumed: int = 0) -> int:
        self.error, self.completed = error, True
        return consumed

    def _drop_body(self) -> None:
        self.close()
        self.body_rcv = None

    def _parse_nothing(self, error: Error) -> None:
        super().parse_header(b"GET / HTTP/1.0\r\n")
        self.error = error
        self.completed = True
