"""One client's connection: what it may take its time for, and how it is closed."""

from __future__ import annotations

import logging
import socket
import struct
import time
from typing import TYPE_CHECKING

from . import http_limits
from .http_request import RequestParser, ServerAdjustments
from .waitress_parts import ErrorTask, HTTPChannel, WSGITask

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .http_server import Listener

log = logging.getLogger(__name__)


class ApplicationTask(WSGITask):
    """Has the application answer a request."""

    channel: Connection
    logger = log

    def execute(self) -> None:
        """Run the application; announce the end of the connection if there will be one."""
        if self.request.cut or self.channel.server.stopping:
            self.set_close_on_finish()
            self.channel.must_linger = self.request.cut
        super().execute()

    def get_environment(self) -> WSGIEnvironment:
        """Return the WSGI environment."""
        environ = super().get_environment()
        environ["wsgi.multiprocess"] = self.channel.server.multiprocess
        return environ


class RefusalTask(ErrorTask):
    """Answers a request that does not reach the application."""

    channel: Connection
    logger = log

    def execute(self) -> None:
        """Send the error as one line of text."""
        error = self.request.error
        self.status = f"{error.code} {error.reason}"
        self.channel.server.refused(error.code)
        self.channel.must_linger = True
        body = f"{error.body}\n".encode()
        self.response_headers += [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
        self.response_headers += http_limits.SECURITY_HEADERS
        if error.code == 503:
            self.response_headers.append(("Retry-After", str(http_limits.RETRY_AFTER_S)))
        self.content_length = len(body)
        self.set_close_on_finish()
        self.write(body)


class Connection(HTTPChannel):
    """A connection whose every phase has a deadline.

    It waits for its client while it is idle or receives a request, and serves it while requests wait for a thread, run,
    or are being sent. The main thread receives, sends and checks deadlines; a thread of a pool runs a request.
    """

    task_class = ApplicationTask
    error_task_class = RefusalTask
    logger = log

    server: Listener
    request: RequestParser | None
    requests: list[RequestParser]

    def __init__(
        self,
        server: Listener,
        sock: socket.socket,
        addr: tuple[str, str],
        adj: ServerAdjustments,
        map: dict[int, object],  # noqa: A002 - waitress's name
    ) -> None:
        self.waiting_since = self.active_at = time.monotonic()
        self.queued_at = 0.0
        self.parked = False
        self._is_new = True
        self._sent = self._sent_before = 0
        self._sending_since: float | None = None
        self.must_linger = False
        self._lingering_since: float | None = None
        super().__init__(server, sock, addr, adj, map=map)

    def park(self) -> None:
        """Serve the next request when the client has read the responses before it: each may hold a file open."""
        self.parked = True
        self.server.pull_trigger()

    def parser_class(self, adj: ServerAdjustments) -> RequestParser:
        """Return the parser of the next request."""
        return RequestParser(adj, excess=len(self.requests) >= http_limits.PIPELINED)

    # --- receiving and sending, in the main thread -----------------------------------------------

    def received(self, data: bytes) -> bool:
        """Take bytes of the client, and queue the requests that are complete."""
        self.active_at = time.monotonic()
        return super().received(data)

    def readable(self) -> bool:
        """Whether to read from the connection now."""
        return self._lingering_since is not None or super().readable()

    def handle_read(self) -> None:
        """Read from the connection; of a refused request, drop the rest."""
        if self._lingering_since is None:
            super().handle_read()
            return
        try:
            self.recv(http_limits.RECEIVE_BYTES)  # closes the connection at its end
        except OSError:
            self.handle_close()

    def writable(self) -> bool:
        """Whether `handle_write` has something to do."""
        return self.parked or bool(super().writable())

    def handle_write(self) -> None:
        """Send what there is to send; then serve the next request, or close the connection after the last response."""
        lingers = self.close_when_flushed and self.must_linger and not self.will_close
        if lingers:
            self.close_when_flushed = False
        super().handle_write()
        if self.parked and not self.total_outbufs_len and self.connected:
            self.parked = False
            self.server.add_task(self)
        if not lingers or self.socket is None:
            return
        if self.total_outbufs_len:
            self.close_when_flushed = True
            return
        self._lingering_since = time.monotonic()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send bytes; return how many the client's connection took."""
        sent = super().send(data, do_close)
        if sent:
            self._sent += sent
            self.active_at = time.monotonic()
        return sent

    def handle_close(self) -> None:
        """Close the connection and release what it holds."""
        super().handle_close()
        # Requests that no thread will release; one may be the caller's, so do it after this turn of the loop.
        for request in [*([self.request] if self.request else []), *(self.requests if self.parked else [])]:
            self.server.trigger.pull_trigger(request.close)
        self.parked = False

    def handle_expt(self) -> None:
        """Ignore that data is marked as urgent; it is read with the rest."""

    # --- serving, in a thread of a pool ----------------------------------------------------------

    def service(self) -> None:
        """Answer the first of the queued requests."""
        self._is_new = False
        super().service()
        self.waiting_since = time.monotonic()
        self.server.served()

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Do not wait for the client, as waitress does: responses are files, or too small to fill the memory."""

    # --- deadlines, in the main thread -----------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether the connection waits for its client, rather than serving it."""
        return not self.requests and not self.total_outbufs_len and not self.close_when_flushed

    @property
    def is_idle(self) -> bool:
        """Whether no byte of a request has been received."""
        return self.waits and self.request is None and self._lingering_since is None

    def check(self, now: float) -> None:
        """End the connection if its client takes too long."""
        if self.total_outbufs_len:
            self._check_sending(now)
            return
        self._sending_since = None
        request = self.request
        if self._lingering_since is not None:
            if now - self._lingering_since > http_limits.LINGER_S:
                self.handle_close()
        elif not self.waits:
            self.waiting_since = now
        elif request is None:
            if now - self.waiting_since > (http_limits.HEADERS_S if self._is_new else self.server.keepalive):
                self.handle_close()
        elif request.body_began is None:
            if now - max(request.began, self.waiting_since) > http_limits.HEADERS_S:
                self._time_out("headers", http_limits.HEADERS_S)
        else:
            seconds = now - max(request.body_began, self.waiting_since) - http_limits.BODY_GRACE_S
            if seconds > 0 and request.body_bytes_received < seconds * http_limits.BODY_BYTES_PER_S:
                self._time_out("body", http_limits.BODY_GRACE_S)

    def _check_sending(self, now: float) -> None:
        self.waiting_since = now
        if self._sending_since is None:
            self._sending_since, self._sent_before = now, self._sent
        sent, seconds = self._sent - self._sent_before, now - self._sending_since
        stalled = now - max(self.active_at, self._sending_since) > http_limits.RESPONSE_STALL_S
        needed = (seconds - http_limits.RESPONSE_GRACE_S) * http_limits.RESPONSE_BYTES_PER_S
        if (stalled or sent < needed) and self.socket is not None:
            # Without waiting for what the kernel has not sent yet, which would stay in its memory.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.handle_close()

    def _time_out(self, part: str, seconds: float) -> None:
        """Answer 408 and end the connection."""
        with self.requests_lock:
            if self.request is not None:
                self.request.close()
            self.request = None
        self.server.refused(408)
        body = f"The {part} of the request did not arrive in time ({seconds:.0f} s).\n".encode()
        head = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
        safe = "".join(f"{name}: {value}\r\n" for name, value in http_limits.SECURITY_HEADERS)
        answer = f"{head}{safe}Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        self.must_linger = True
        with self.outbuf_lock:
            self.outbufs[-1].append(answer)
            self.current_outbuf_count += len(answer)
            self.total_outbufs_len += len(answer)
            self.close_when_flushed = True
            self._flush_some()
