"""Sets the address, scheme, host and prefix of a request: from the trusted proxies' headers, or from none."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from searchdb.config import URL_PREFIX

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SUBNET_BITS = 64
"""Bits of an IPv6 address that name a network: its owner can take any of the 2^64 addresses in it."""

_SCHEMES = frozenset({"http", "https"})
_SCHEME_HEADERS = ("HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_PROTOCOL", "HTTP_X_FORWARDED_SSL")
"""Headers that gunicorn's defaults take the scheme from if the request comes from loopback."""
_VARIABLES = ("HTTP_SCRIPT_NAME", "HTTP_PATH_INFO")
"""Headers that gunicorn's defaults take for its own variables if the request comes from loopback."""
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


class Forwarded:
    """Corrects the environment of requests that come through `proxies` proxies, each of which adds to the headers.

    What stands further left in a header than the trusted proxies have added comes from the client and is ignored.
    Werkzeug's `ProxyFix` would take any value, with a port or a path on it.
    """

    def __init__(self, app: WSGIApplication, proxies: int) -> None:
        self._app = app
        self._proxies = proxies

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Pass a request on."""
        _drop_variables(environ)
        _take_target_host(environ)
        if self._proxies:
            self._take_forwarded(environ)
        elif any(header in environ for header in _SCHEME_HEADERS):
            environ["wsgi.url_scheme"] = "http"
        peer = environ.get("REMOTE_ADDR") or ""
        environ["REMOTE_ADDR"] = client_address(peer) or peer
        return self._app(environ, start_response)

    def _take_forwarded(self, environ: WSGIEnvironment) -> None:
        address = client_address(self._last(environ, "FOR"))
        if address is not None:
            environ["REMOTE_ADDR"] = address
        scheme = self._last(environ, "PROTO").lower()
        if scheme in _SCHEMES:
            environ["wsgi.url_scheme"] = scheme
        host = self._last(environ, "HOST")
        if host:  # checked later, as any host is
            environ["HTTP_HOST"] = host
        prefix = self._last(environ, "PREFIX").removesuffix("/")
        if prefix and re.fullmatch(URL_PREFIX, prefix):
            environ["SCRIPT_NAME"] = prefix

    def _last(self, environ: WSGIEnvironment, name: str) -> str:
        """Return what the outermost trusted proxy has added to a header, or nothing."""
        values = environ.get(f"HTTP_X_FORWARDED_{name}", "").split(",")
        return values[-self._proxies].strip() if len(values) >= self._proxies else ""


def client_address(text: str) -> str | None:
    """Return an IP address without port and zone, an IPv4-mapped one as IPv4; None if the text is not an address."""
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((match[1] or match[2] if match else text).partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def client_key(address: str) -> str:
    """Return what tells clients apart: an IPv4 address, the /64 network of an IPv6 address, or any other text as it is.

    Args:
        address: as `client_address` returns it.
    """
    if ":" not in address:
        return address
    try:
        number = int(ipaddress.IPv6Address(address))
    except ValueError:
        return address
    return f"{number >> (128 - SUBNET_BITS):x}::/{SUBNET_BITS}"


def _drop_variables(environ: WSGIEnvironment) -> None:
    """Undo what a server has taken from headers that are named like its own variables."""
    if (mounted := environ.get("HTTP_SCRIPT_NAME")) and environ.get("SCRIPT_NAME") == mounted:
        environ["PATH_INFO"] = mounted + environ.get("PATH_INFO", "")
        environ["SCRIPT_NAME"] = ""
    for name in _VARIABLES:
        environ.pop(name, None)


def _take_target_host(environ: WSGIEnvironment) -> None:
    """Take the host of a target such as `http://host/path`, which counts instead of the header `Host` (RFC 9112)."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI") or "/"
    if target[0] not in "/*?" and "://" in target:
        environ["HTTP_HOST"] = re.split("[/?#]", target.partition("://")[2], maxsplit=1)[0]
