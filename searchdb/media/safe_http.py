"""HTTP connections that go only to the addresses that were checked, and end when their time is up."""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
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
"""Pictures in flight to one host, and idle connections kept to it: more would look like an attack to small servers."""

HOSTS_POOLED = 48
"""Hosts whose connections are kept open; with PER_HOST each they stay below the 1,024 files Linux gives a process."""

_EMBEDDING_NETWORKS = (
    # Prefix, and how many bits lie right of the IPv4 address in it: a gateway connects to that address instead.
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped
    (ipaddress.IPv6Network("::/96"), 0),  # IPv4-compatible
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)

_PLATFORM_ADDRESSES = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Public by their number, but answered by the cloud's own host: Azure tells a machine its configuration there."""


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What one picture's connections may do: until when (monotonic seconds), how slowly, and to whom."""

    deadline: float
    connect_s: float
    read_s: float
    slow_after_s: float
    slowest_bytes_per_s: float
    allow_private_addresses: bool

    def left_s(self) -> float:
        """Return the seconds until the deadline; negative past it."""
        return self.deadline - time.monotonic()

    def timeout_s(self, limit_s: float) -> float:
        """Return the seconds that one step may take; TimeoutError when there are none."""
        left = self.left_s()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return min(limit_s, left)


request_limits: ContextVar[RequestLimits] = ContextVar("request_limits")
"""Of the picture this thread fetches. A pooled connection serves many pictures, so it cannot hold them itself."""


class TooSlowError(Exception):
    """A server keeps sending, but slower than `RequestLimits` allows. Not a timeout: those are retried at once."""


class HostSlots:
    """At most so many pictures in flight to one host, which is a scheme, a name and a port.

    Only hosts in use are remembered, because a list may name a million of them.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, str | None, int], tuple[threading.Semaphore, int]] = {}
        self._closed = False

    @contextmanager
    def taken(self, url: str) -> Iterator[None]:
        """Hold a slot of the URL's host; what waiting for it took is added to the deadline of this thread's picture.

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
                    raise TransferError("the fetch was given up because searchdb is closing")
                limits = request_limits.get()
                request_limits.set(replace(limits, deadline=limits.deadline + time.monotonic() - began))
                yield
        finally:
            with self._lock:
                slots, users = self._hosts.pop(host)
                if users > 1:
                    self._hosts[host] = slots, users - 1

    def close(self) -> None:
        """End all waiting for slots, now and later."""
        with self._lock:
            self._closed = True
            for slots, _ in self._hosts.values():
                slots.release()  # one is enough: whoever is woken by it gives up and passes it on


class GuardedAdapter(HTTPAdapter):
    """requests' pool of connections, made of guarded ones; `request_limits` must be set in the calling thread."""

    def __init__(self, per_host: int) -> None:
        super().__init__(pool_connections=HOSTS_POOLED, pool_maxsize=per_host)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool manager use our connections for both schemes."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


def refused(address: str) -> bool:
    """Return whether an IP address lies outside the public internet, itself or the IPv4 address embedded in it."""
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
    """Return a socket connected to the host at an address that was checked.

    The name is resolved once and the connection goes to what was checked, so a name that resolves differently a
    moment later (DNS rebinding) gains nothing. The resolver keeps its own time limit.

    Raises:
        AddressRefusedError, FetchTimeoutError, InvalidReferenceError, TransferError: no connection.
        TimeoutError: none before the deadline.
    """
    limits = request_limits.get()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        raise InvalidReferenceError(f"{host!r} is no host name") from exc
    except OSError as exc:
        raise TransferError(f"no address found for {host}: {exc.strerror or exc}") from exc
    if not limits.allow_private_addresses:
        for *_, address in found:
            # One private address among public ones is refused, too: nobody's picture server looks like that.
            if refused(str(address[0])):
                raise AddressRefusedError(
                    f"{host} is at {address[0]}, which is no public address; "
                    "SEARCHDB_ALLOW_PRIVATE_ADDRESSES=1 allows pictures from there"
                )
    failure: OSError = OSError("the resolver named no address")
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


class _DeadlineReader(io.RawIOBase):
    """One answer's bytes; every single read is limited, because a dripping server satisfies any plain read timeout.

    The speed is that between the first bytes and the last: until the first, a server may compute (the read timeout
    bounds that), the connection may have idled in the pool, and after the last it is ours to be slow.
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
                f"the picture came too slowly: {self._bytes:,} bytes in {round(self._took_s, 1):g} seconds, "
                f"the least is {limits.slowest_bytes_per_s:,g} a second"
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
    """http.client's response, whose status line, headers and body are all read under the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, request_limits.get()))


class _GuardedHTTP(HTTPConnection):
    response_class = _DeadlineResponse

    def _new_conn(self) -> socket.socket:
        return connect(self._dns_host.strip("[]"), self.port, self.socket_options)


class _GuardedHTTPS(HTTPSConnection):  # TLS is laid over the socket afterwards, and still checks the name in the URL
    response_class = _DeadlineResponse

    def connect(self) -> None:
        try:
            super().connect()
        except TimeoutError as exc:
            limits = request_limits.get()
            if limits.left_s() <= 0:
                raise
            raise FetchTimeoutError(f"no secure connection to {self.host} within {limits.connect_s:g} seconds") from exc

    def _new_conn(self) -> socket.socket:
        return connect(self._dns_host.strip("[]"), self.port, self.socket_options)


# urllib3's own classes do not satisfy the protocols that these attributes are annotated with, either.
class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP  # pyright: ignore[reportAssignmentType]


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS  # pyright: ignore[reportAssignmentType]
