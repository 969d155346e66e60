"""HTTP connections that go only to the addresses that were checked, and end when their time is up."""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from searchdb.errors import AddressRefusedError, FetchTimeoutError, InvalidReferenceError, TransferError

HOSTS_POOLED = 128
"""Hosts whose connections are kept open; a list of pictures rarely names more at a time."""

CONNECTIONS_POOLED = 64
"""Idle connections kept a host: as many as a process has fetching threads, so that none is made twice."""

_EMBEDDING_NETWORKS = (
    # Prefix, and how many bits lie right of the IPv4 address in it: a gateway connects to that address instead.
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped
    (ipaddress.IPv6Network("::/96"), 0),  # IPv4-compatible
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """What one picture's connections may do: until when (monotonic seconds), how slowly, and to whom."""

    deadline: float
    connect_s: float
    read_s: float
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


patience: ContextVar[Patience] = ContextVar("patience")
"""Of the picture this thread fetches. A pooled connection serves many pictures, so it cannot hold them itself."""


class GuardedAdapter(HTTPAdapter):
    """requests' pool of connections, made of guarded ones; `patience` must be set in the calling thread."""

    def __init__(self) -> None:
        super().__init__(pool_connections=HOSTS_POOLED, pool_maxsize=CONNECTIONS_POOLED)

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
    return not ip.is_global or ip.is_multicast or ip.is_reserved


def connect(host: str, port: int, options: list[tuple[int, int, int | bytes]] | None) -> socket.socket:
    """Return a socket connected to the host at an address that was checked.

    The name is resolved once and the connection goes to what was checked, so a name that resolves differently a
    moment later (DNS rebinding) gains nothing. The resolver keeps its own time limit.

    Raises:
        AddressRefusedError, FetchTimeoutError, InvalidReferenceError, TransferError: no connection.
    """
    limits = patience.get()
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
        except OSError as exc:
            connection.close()
            failure = exc
        else:
            return connection
    if isinstance(failure, TimeoutError):
        raise FetchTimeoutError(f"no connection to {host}:{port} within {limits.connect_s:g} seconds") from failure
    if isinstance(failure, ConnectionRefusedError):
        raise TransferError(f"the connection was refused by {host}:{port}") from failure
    raise TransferError(f"no connection to {host}:{port}: {failure.strerror or failure}") from failure


class _DeadlineReader(io.RawIOBase):
    """A socket's bytes; every single read is limited, because a dripping server satisfies any plain read timeout."""

    def __init__(self, connection: socket.socket, limits: Patience) -> None:
        self._connection = connection
        self._limits = limits
        self._raw = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._limits.timeout_s(self._limits.read_s))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """http.client's response, whose status line, headers and body are all read under the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, patience.get()))


class _GuardedHTTP(HTTPConnection):
    response_class = _DeadlineResponse

    def _new_conn(self) -> socket.socket:
        return connect(self._dns_host.strip("[]"), self.port, self.socket_options)


class _GuardedHTTPS(HTTPSConnection):  # TLS is laid over the socket afterwards, and still checks the name in the URL
    response_class = _DeadlineResponse

    def _new_conn(self) -> socket.socket:
        return connect(self._dns_host.strip("[]"), self.port, self.socket_options)


# urllib3's own classes do not satisfy the protocols that these attributes are annotated with, either.
class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP  # pyright: ignore[reportAssignmentType]


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS  # pyright: ignore[reportAssignmentType]
