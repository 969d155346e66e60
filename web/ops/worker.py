"""gunicorn's worker class: gunicorn starts, watches and stops the processes, `http_server` serves in each."""

from __future__ import annotations

import os
import resource
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from gunicorn.workers.base import Worker

from ..backend import EXTENSION, Backend
from . import http_limits
from .http_server import Server, ServerOptions
from .metrics import NO_ROUTE

if TYPE_CHECKING:
    from gunicorn.config import Config
    from gunicorn.glogging import Logger

FILES_PER_CONNECTION = 3
"""A connection, the temporary file of its body, and the image that it is sent."""
OTHER_FILES = 256
"""Files that the process opens for everything else, such as connections to the database and to image servers."""
STOP_MARGIN_S = 1.0
"""Seconds that a stopping worker has to close what remains, before gunicorn kills it."""


class BufferingWorker(Worker):
    """Runs the application behind a server that no slow client can block."""

    _server: Server | None = None

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Refuse options that would have no effect."""
        if cfg.is_ssl:
            sys.exit("Error: this server has no TLS: leave out the certificate, and let a proxy add TLS")
        if cfg.accesslog:
            log.warning("the access log has no effect: the application logs every request, see SEARCHDB_LOG_FORMAT")

    def run(self) -> None:
        """Serve until the arbiter says to stop, then finish the requests that have begun."""
        backend = cast(Backend, cast(Flask, self.app.callable).extensions[EXTENSION])
        cfg = self.cfg
        options = ServerOptions(
            threads=cfg.threads,
            connections=_connections(cfg.worker_connections),
            keepalive=cfg.keepalive,
            backlog=cfg.backlog,
            multiprocess=cfg.workers > 1,
            max_body_bytes=backend.settings.max_image_bytes + http_limits.BODY_OVERHEAD_BYTES,
            limit_request_line=cfg.limit_request_line,
            limit_request_fields=cfg.limit_request_fields,
            limit_request_field_size=cfg.limit_request_field_size,
        )
        listening = [cast(Any, each).sock for each in self.sockets]

        def refused(status: int) -> None:
            backend.metrics.request("other", NO_ROUTE, status, 0.0)

        server = self._server = Server(cast(Any, self.wsgi), listening, options, refused)
        while self.alive and self.ppid == os.getppid() and server.requests_served < self.max_requests:
            self.notify()
            server.poll(http_limits.CHECK_INTERVAL_S)
            server.check()
        server.stop_accepting()
        backend.stopping.set()
        until = time.monotonic() + max(cfg.graceful_timeout - STOP_MARGIN_S, 0)
        while server.connections and time.monotonic() < until:
            self.notify()
            server.poll(http_limits.CHECK_INTERVAL_S)
            server.check()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully."""
        super().handle_exit(sig, frame)
        if self._server is not None:
            self._server.wake()


def _connections(wanted: int) -> int:
    """Return how many connections the process may have open, raising its limit of open files if necessary."""
    needed = wanted * FILES_PER_CONNECTION + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    return max((soft - OTHER_FILES) // FILES_PER_CONNECTION, 1)
