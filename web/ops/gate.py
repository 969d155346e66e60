"""Refuses requests that another site's page makes: by DNS rebinding, or in a visitor's browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from flask import Flask, current_app, request
from werkzeug.exceptions import BadRequest, Forbidden, RequestURITooLarge

from searchdb.config import Settings
from searchdb.trusted_hosts import TrustedHosts, host_name, hosts_of

from ..backend import EXTENSION, Backend
from ..search_url import LONGEST_URL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HEALTH = frozenset({"/healthz", "/readyz"})
"""Routes that answer whatever the host: probes use addresses and names that the operator does not choose."""

_TRUSTED = "searchdb.trusted_hosts"
"""Key of the TrustedHosts in `app.extensions`."""
_REFUSED = "searchdb.refused_host"
"""Key of a host that is not trusted, in the environment of its request."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHER_SITES = frozenset({"cross-site", "same-site"})
_LONGEST_NAMED = 100


def register(app: Flask, settings: Settings) -> None:
    """Check the URL, the host and the origin of every request before it is handled."""
    app.extensions[_TRUSTED] = TrustedHosts.parse(settings.trusted_hosts)
    app.wsgi_app = HostCheck(app)

    @app.before_request
    def check() -> None:
        if len(request.environ.get("PATH_INFO", "")) + len(request.query_string) > LONGEST_URL:
            raise RequestURITooLarge(
                f"The address is too long: at most {LONGEST_URL:,} characters are read. Leave out some of the search."
            )
        if request.url_rule is None or request.url_rule.rule not in HEALTH:
            _check_host()
            _check_origin()


def trust_bound(app: Flask, addresses: Iterable[str]) -> None:
    """Trust the hosts under which the addresses that a server listens on are reached, beside those of the settings."""
    settings = cast(Backend, app.extensions[EXTENSION]).settings
    listed = [settings.trusted_hosts, *(hosts_of(each) for each in addresses)]
    app.extensions[_TRUSTED] = TrustedHosts.parse(", ".join(listed))


class HostCheck:
    """Replaces a host that is not trusted, so that neither routes nor URLs are made of it; the gate then refuses it.

    A request without a host does not come from a browser, and is answered.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app.wsgi_app
        self._extensions = app.extensions

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Pass a request on."""
        host = environ.get("HTTP_HOST", "")
        if host and not self._extensions[_TRUSTED].trusts(host):
            environ[_REFUSED], environ["HTTP_HOST"] = host, "localhost"
        return self._app(environ, start_response)


def _check_host() -> None:
    host = request.environ.get(_REFUSED)
    if host is not None:
        shown = "".join(c if c.isprintable() and c.isascii() else "?" for c in host[:_LONGEST_NAMED])
        raise BadRequest(
            f"This server is not known as {shown!r}. If it is yours, add this name to SEARCHDB_TRUSTED_HOSTS."
        )


def _check_origin() -> None:
    """Refuse what another site's page asks for without the visitor going there: it could not read the answer anyway.

    Browsers that know it, and trust the connection, send `Sec-Fetch-Site`; the others send `Origin` with a form. Other
    programs send neither.
    """
    is_safe = request.method in _SAFE_METHODS
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        is_link = is_safe and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
        foreign = site in _OTHER_SITES and not is_link
    else:
        foreign = not is_safe and _is_foreign(request.headers.get("Origin"))
    if foreign:
        raise Forbidden("This request was made by a page of another site; only pages of this site may make it.")


def _is_foreign(origin: str | None) -> bool:
    if origin is None:
        return False
    try:
        name = host_name(urlsplit(origin).netloc)
    except ValueError:
        return True
    if name is None:
        return True
    # A proxy may replace the host without telling the visitor's: the name is then known from the settings only.
    return name != host_name(request.environ.get("HTTP_HOST", "")) and not _trusted().trusts(name)


def _trusted() -> TrustedHosts:
    return cast(TrustedHosts, current_app.extensions[_TRUSTED])
