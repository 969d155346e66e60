"""Reads requests and sends responses in one thread; the application answers complete requests in pools of threads.

Clients that are slow to send or to read therefore hold a connection, and no thread. Health checks and metrics have
threads of their own. waitress does the reading, sending and calling; the deadlines, limits and pools are ours.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import http_limits
from .http_connection import Connection
from .http_request import Busy, ServerAdjustments
from .waitress_parts import BaseWSGIServer, ThreadedTaskDispatcher, wasyncore

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

HEALTH_PATHS = ("/healthz",)
"""Ends of paths that are answered by a thread of their own, which waits for nothing."""
MONITORING_PATHS = ("/readyz", "/metrics")
"""Ends of paths that are answered by a pool of their own, because they wait for the database."""
HEALTH_THREADS = 1
MONITORING_THREADS = 2


class Pool(ThreadedTaskDispatcher):
    """Threads that serve connections whose next request is complete."""

    logger = log

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.set_thread_count(threads)

    def add_task(self, task: Connection) -> None:
        """Queue a connection; unlike waitress, log nothing: a line for each request would make an attack worse."""
        with self.lock:
            task.queued_at = time.monotonic()
            self.queue.append(task)
            self.queue_cv.notify()

    def overdue(self, now: float) -> list[Connection]:
        """Take the connections from the queue that have waited for QUEUE_WAIT_S."""
        found = []
        with self.lock:
            while self.queue and now - self.queue[0].queued_at > http_limits.QUEUE_WAIT_S:
                found.append(self.queue.popleft())
        return found


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What gunicorn's settings say: threads, connections, seconds, and the limits of headers."""

    threads: int
    connections: int
    keepalive: float
    backlog: int
    multiprocess: bool
    max_body_bytes: int
    limit_request_line: int
    limit_request_fields: int
    limit_request_field_size: int


class Server:
    """Serves an application on sockets that listen already; `poll` and `check` are called in turn by one thread.

    Args:
        refused: is called with the status of each request that does not reach the application.
    """

    def __init__(
        self,
        app: WSGIApplication,
        sockets: Sequence[socket.socket],
        options: ServerOptions,
        refused: Callable[[int], None],
    ) -> None:
        self.options = options
        self.refused = refused
        self.stopping = False
        self.stopping_since = 0.0
        self.requests_served = 0
        self.connections: dict[int, Connection] = {}
        self.visitors = Pool(options.threads)
        self._health = Pool(HEALTH_THREADS)
        self._monitoring = Pool(MONITORING_THREADS)
        self._map: dict[int, object] = {}
        self._checked_at = 0.0
        self._is_full = False
        adj = ServerAdjustments(
            line=options.limit_request_line,
            fields=options.limit_request_fields,
            field_size=options.limit_request_field_size,
            ident="searchdb",
            server_name="localhost",
            backlog=options.backlog,
            recv_bytes=http_limits.RECEIVE_BYTES,
            inbuf_overflow=http_limits.BODY_IN_MEMORY_BYTES,
            max_request_header_size=http_limits.MAX_HEADER_BYTES,
            max_request_body_size=options.max_body_bytes,
            clear_untrusted_proxy_headers=False,  # the application decides which headers of proxies count
            log_socket_errors=False,
        )
        self._listeners = [Listener(self, app, listening, adj, self._map) for listening in sockets]

    def poll(self, seconds: float) -> None:
        """Receive and send what is ready; return after at most some seconds."""
        wasyncore.poll2(seconds, self._map)

    def wake(self) -> None:
        """Have `poll` return now; may be called in a signal handler."""
        self._listeners[0].pull_trigger()

    def check(self) -> None:
        """Enforce the deadlines."""
        now = time.monotonic()
        if now - self._checked_at < http_limits.CHECK_INTERVAL_S:
            return
        self._checked_at = now
        for pool in (self.visitors, self._monitoring):
            for connection in pool.overdue(now):
                self._refuse(connection)
        for connection in list(self.connections.values()):
            connection.check(now)
            if self.stopping and now - self.stopping_since > http_limits.STOP_LINGER_S and connection.is_idle:
                connection.handle_close()

    def stop_accepting(self) -> None:
        """Accept the connections that are already waiting, and no others."""
        for listener in self._listeners:
            while listener.accept_one():
                pass
            listener.accepting = False
            listener.del_channel()
            listener.socket.close()
        self.stopping, self.stopping_since = True, time.monotonic()

    def add_task(self, connection: Connection) -> None:
        """Give a complete request to the pool that answers its kind; called by any thread."""
        request = connection.requests[0]
        if request.error is not None or request.path.endswith(HEALTH_PATHS):
            self._health.add_task(connection)
            return
        pool = self._monitoring if request.path.endswith(MONITORING_PATHS) else self.visitors
        if len(pool.queue) >= http_limits.QUEUE:
            self._refuse(connection)
        else:
            pool.add_task(connection)

    def make_room(self) -> bool:
        """Close the connection whose client was silent for longest if there are too many; return whether that helped.

        So a flood of connections ends the flood's own, and clients that send and read go on.
        """
        if len(self.connections) < self.options.connections:
            self._is_full = False
            return True
        if not self._is_full:
            log.warning("%d connections are open: closing those that are silent", len(self.connections))
        self._is_full = True
        silent = [connection for connection in list(self.connections.values()) if not connection.requests]
        if not silent:
            return False
        min(silent, key=lambda connection: connection.active_at).handle_close()
        return True

    def close(self) -> None:
        """Close everything that is open."""
        for pool in (self.visitors, self._health, self._monitoring):
            pool.set_thread_count(0)
        for each in {*self._map.values(), *self._listeners}:
            each.close()

    def _refuse(self, connection: Connection) -> None:
        connection.requests[0].error = Busy("Too many requests are waiting. Try again in a few seconds.")
        self._health.add_task(connection)


class Listener(BaseWSGIServer):
    """Accepts the connections to one socket; the connections know the server through it."""

    channel_class = Connection
    logger = log

    def __init__(
        self,
        server: Server,
        app: WSGIApplication,
        listening: socket.socket,
        adj: ServerAdjustments,
        map: dict[int, object],  # noqa: A002 - waitress's name
    ) -> None:
        self.server = server
        self.keepalive = server.options.keepalive
        self.multiprocess = server.options.multiprocess
        self.refused = server.refused
        self._is_unix = listening.family == socket.AF_UNIX
        sockinfo = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(
            app,
            map=map,
            _sock=listening,
            dispatcher=server.visitors,
            adj=adj,
            sockinfo=sockinfo,
            bind_socket=False,
        )
        self.active_channels = server.connections

    @property
    def stopping(self) -> bool:
        """Whether connections end with their next response."""
        return self.server.stopping

    def served(self) -> None:
        """Count one request."""
        self.server.requests_served += 1

    def getsockname(self) -> tuple[str, str]:
        """Return the numeric host and the port of the socket."""
        if self._is_unix:
            return "unix", "0"
        return socket.getnameinfo(self.socket.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)

    def readable(self) -> bool:
        """Whether to accept connections: always, because `make_room` keeps their number."""
        return self.accepting

    def add_task(self, task: Connection) -> None:
        """Give a connection with a complete request to the right pool, once its responses so far are sent."""
        if task.total_outbufs_len:
            task.park()
        else:
            self.server.add_task(task)

    def handle_accept(self) -> None:
        """Accept one connection."""
        self.accept_one()

    def accept_one(self) -> bool:
        """Accept a connection; return whether there was one."""
        try:
            accepted = self.accept()
            if accepted is None:
                return False
            client, address = accepted
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, http_limits.SEND_BUFFER_BYTES)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            if not self._is_unix:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as exc:  # the client is gone already, or there are no file descriptors left
            log.debug("cannot accept a connection: %s", exc)
            return False
        if not self.server.make_room():
            client.close()
            return True
        # A Unix socket's client has no address.
        self.channel_class(self, client, ("", "") if self._is_unix else address[:2], self.adj, map=self._map)
        return True
