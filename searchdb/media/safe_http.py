"""Makes HTTP connections that go only to checked addresses and end at a deadline."""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from searchdb.errors import AddressRefusedError, FetchTimeoutError, InvalidReferenceError, TransferError

PER_HOST = 16
"""Images in flight and idle connections for each host; more would look like an attack to small servers."""

HOSTS_POOLED = 48
"""Hosts whose connections are kept open; at PER_HOST each they stay below Linux's limit of 1,024 files a process."""

LOOKUPS = 64
"""Host names looked up at once: twice as many as an ingest's threads, because a lookup may outlast its fetch."""

_EMBEDDING_NETWORKS = (
    # The prefix, and the number of bits right of the embedded IPv4 address, to which a gateway connects instead.
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped
    (ipaddress.IPv6Network("::/96"), 0),  # IPv4-compatible
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)

_PLATFORM_ADDRESSES = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Addresses in a public range that a cloud host answers: Azure serves a machine's configuration at this one."""


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Limits on the connections of one fetch: its deadline (monotonic clock), timeouts, minimum speed and addresses.

    `whole_s` is the time until the deadline when it began.
    """

    deadline: float
    whole_s: float
    connect_s: float
    read_s: float
    slow_after_s: float
    slowest_bytes_per_s: float
    allow_private_addresses: bool

    def left_s(self) -> float:
        """Return the seconds until the deadline; negative past it."""
        return self.deadline - time.monotonic()

    def timeout_s(self, limit_s: float) -> float:
        """Return the seconds that one step may take, at most `limit_s`; TimeoutError past the deadline."""
        left = self.left_s()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return min(limit_s, left)


_lookups = threading.BoundedSemaphore(LOOKUPS)

current_limits: ContextVar[RequestLimits] = ContextVar("current_limits")
"""The limits of the fetch in this thread. A pooled connection serves many fetches, so it cannot hold them itself."""


class TooSlowError(Exception):
    """A server keeps sending, but slower than `RequestLimits` allows. Not a timeout, because timeouts are retried."""


class HostSlots:
    """Limits the images in flight to each host; a host is a scheme, a name and a port.

    Only hosts in use are kept in memory, because a list may name a million of them.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, str | None, int], tuple[threading.Semaphore, int]] = {}
        self._closed = False

    @contextmanager
    def acquire(self, url: str) -> Generator[None]:
        """Hold a slot of the URL's host; the time spent waiting for it extends the deadline of this thread's fetch.

        Raises:
            TransferError: the slots were closed.
        """
        parts = urlsplit(url)
        host = parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        began = time.monotonic()
        with self._lock:
            slots, users = self._hosts.get(host) or (threading.Semaphore(self._per_host), 0)
            self._hosts[host] = slots, users + 1
        try:
            with slots:
                if self._closed:
                    raise TransferError("the fetch was cancelled because searchdb is closing")
                limits = current_limits.get()
                current_limits.set(replace(limits, deadline=limits.deadline + time.monotonic() - began))
                yield
        finally:
            with self._lock:
                slots, users = self._hosts.pop(host)
                if users > 1:
                    self._hosts[host] = slots, users - 1

    def close(self) -> None:
        """Cancel all waits for slots, now and later."""
        with self._lock:
            self._closed = True
            for slots, _ in self._hosts.values():
                slots.release()  # one is enough: the thread that it wakes fails and releases the slot again


class GuardedAdapter(HTTPAdapter):
    """A requests adapter whose connections are guarded; `current_limits` must be set in the calling thread."""

    def __init__(self, per_host: int) -> None:
        super().__init__(pool_connections=HOSTS_POOLED, pool_maxsize=per_host)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool manager use guarded connections for both schemes."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


def is_private_address(address: str) -> bool:
    """Return whether an IP address, or an IPv4 address embedded in it, is outside the public internet."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        for network, shift in _EMBEDDING_NETWORKS:
            if ip in network:
                ip = ipaddress.IPv4Address((int(ip) >> shift) & 0xFFFFFFFF)
                break
        else:
            if ip.is_site_local:
                return True
    return not ip.is_global or ip.is_multicast or ip.is_reserved or ip in _PLATFORM_ADDRESSES


def connect(host: str, port: int, options: list[tuple[int, int, int | bytes]] | None) -> socket.socket:
    """Return a socket connected to a checked address of the host.

    The name is resolved once and the connection goes to the address that was checked, which defeats DNS rebinding (a
    name that resolves differently a moment later).

    Raises:
        AddressRefusedError, FetchTimeoutError, InvalidReferenceError, TransferError: no connection.
        TimeoutError: no connection before the deadline.
    """
    limits = current_limits.get()
    try:
        found = _look_up(host, port, limits)
    except UnicodeError as exc:
        raise InvalidReferenceError(f"{host!r} is not a valid host name") from exc
    except TimeoutError as exc:
        raise FetchTimeoutError(f"the lookup of {host} took too long") from exc
    except OSError as exc:
        raise TransferError(f"no address found for {host}: {exc.strerror or exc}") from exc
    if not limits.allow_private_addresses:
        for *_, address in found:
            # One private address among public ones is refused, too: no legitimate image server has such a mix.
            if is_private_address(str(address[0])):
                raise AddressRefusedError(
                    f"{host} is at {address[0]}, which is not a public address; "
                    "set SEARCHDB_ALLOW_PRIVATE_ADDRESSES=1 to allow it"
                )
    failure: OSError = OSError("the resolver returned no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            for option in options or ():
                connection.setsockopt(*option)
            connection.settimeout(limits.timeout_s(limits.connect_s))
            connection.connect(address)
            connection.settimeout(limits.timeout_s(limits.connect_s))  # for the TLS handshake
        except OSError as exc:
            connection.close()
            failure = exc
        else:
            return connection
    if isinstance(failure, TimeoutError) and limits.left_s() <= 0:
        raise failure
    if isinstance(failure, TimeoutError):
        raise FetchTimeoutError(f"no connection to {host}:{port} within {limits.connect_s:g} seconds") from failure
    if isinstance(failure, ConnectionRefusedError):
        raise TransferError(f"the connection was refused by {host}:{port}") from failure
    raise TransferError(f"no connection to {host}:{port}: {failure.strerror or failure}") from failure


def _look_up(host: str, port: int, limits: RequestLimits) -> list[Any]:
    """Return what getaddrinfo does; TimeoutError past the deadline.

    getaddrinfo takes no time limit: with a name server that does not answer it may take a minute. So it runs in a
    thread that is left behind; a daemon, for which the end of the process need not wait.
    """
    if not _lookups.acquire(timeout=limits.timeout_s(limits.left_s())):
        raise TimeoutError("too many lookups are running")
    found: Future[list[Any]] = Future()

    def look_up() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError, OverflowError) as exc:  # the caller raises it again
            found.set_exception(exc)
        finally:
            _lookups.release()

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    return found.result(max(limits.left_s(), 0))


class _DeadlineReader(io.RawIOBase):
    """The bytes of one response, with a limit on every read: a server that sends a byte now and then never times out.

    The speed is measured from the first bytes to the last. Before the first, the server may compute (limited by the
    read timeout) or the connection may have been idle in the pool; delays after the last are our own.
    """

    def __init__(self, connection: socket.socket, limits: RequestLimits) -> None:
        self._connection = connection
        self._limits = limits
        self._raw = connection.makefile("rb", buffering=0)
        self._began: float | None = None
        self._took_s = 0.0
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        limits = self._limits
        if self._took_s >= limits.slow_after_s and self._bytes < limits.slowest_bytes_per_s * self._took_s:
            raise TooSlowError(
                f"the transfer was too slow: {self._bytes:,} bytes in {round(self._took_s, 1):g} seconds, "
                f"the minimum is {limits.slowest_bytes_per_s:,g} a second"
            )
        self._connection.settimeout(limits.timeout_s(limits.read_s))
        count = self._raw.readinto(buffer)
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self._took_s = now - self._began
        self._bytes += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """An http.client response whose status line, headers and body are all read under the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, current_limits.get()))


class _GuardedHTTP(HTTPConnection):
    response_class = _DeadlineResponse

    def _new_conn(self) -> socket.socket:
        return connect(self._dns_host.strip("[]"), self.port, self.socket_options)


class _GuardedHTTPS(HTTPSConnection):  # TLS runs over the guarded socket and still verifies the name in the URL
    response_class = _DeadlineResponse

    def connect(self) -> None:
        try:
            super().connect()
        except TimeoutError as exc:
            limits = current_limits.get()
            if limits.left_s() <= 0:
                raise
            raise FetchTimeoutError(f"no secure connection to {self.host} within {limits.connect_s:g} seconds") from exc

    def _new_conn(self) -> socket.socket:
        return connect(self._dns_host.strip("[]"), self.port, self.socket_options)


# urllib3's own classes do not satisfy the protocols that annotate these attributes, either.
class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP  # pyright: ignore[reportAssignmentType]


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS  # pyright: ignore[reportAssignmentType]
