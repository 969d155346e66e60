"""Reads, prints and masks PostgreSQL connection strings, in the forms that libpq takes."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from tempfile import NamedTemporaryFile
from urllib.parse import quote

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL

SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
"""libpq's parameters that are secret."""
EXAMPLE = "postgresql://user:password@host:5432/database"

_DRIVER = "postgresql+psycopg"
_ADDRESS = {"host": "host", "port": "port", "user": "username", "dbname": "database"}
"""The parameters that say which database it is, and SQLAlchemy's names of them."""
_REASONS = {
    "invalid URI query parameter": "it has a parameter that libpq does not know",
    "invalid connection option": "it has a parameter that libpq does not know",
    "missing key/value separator": "it has a parameter without a value",
    "invalid percent-encoded token": "it has a % that is not followed by two hexadecimal digits: write %25 for a %",
    "unexpected spaces": "it has a space: write %20 for a space",
    "forbidden value": "it has a %00",
    "end of string reached when looking": "it has a [ without a ]",
}
"""What libpq's messages begin with, and what we say instead: the rest of them may quote a password."""


def parse_url(text: str) -> URL:
    """Return the database that a URL, or a string like `host=/run/postgresql dbname=photos`, names.

    Several hosts, sockets and every parameter of libpq are understood. What the text does not say is taken from
    libpq's environment variables, such as PGHOST, when connecting.

    Raises:
        ValueError: libpq would not take it; the message does not quote it, because it may hold a password.
    """
    scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme is not None:
        if scheme[1] not in ("postgresql", "postgres", _DRIVER):
            raise ValueError(f"this is a {scheme[1]}:// URL, not one like {EXAMPLE}")
        _require_escaped(text[scheme.end() :])
        text = f"postgresql://{text[scheme.end() :]}"
    try:
        found = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except UnicodeError:
        raise ValueError("this is not UTF-8 text") from None
    except ProgrammingError as exc:
        reason = next((said for message, said in _REASONS.items() if str(exc).startswith(message)), None)
        what = "URL" if scheme else "URL or a string of key=value pairs"
        raise ValueError(f"this is not a {what} like {EXAMPLE}{f': {reason}' if reason else ''}") from None
    for port in found.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
            raise ValueError("the port is not a number from 1 to 65535")
    return _from_parameters(found)


def parameters(url: URL) -> dict[str, str]:
    """Return libpq's parameters for a URL."""
    address = {name: getattr(url, ours) for name, ours in _ADDRESS.items()} | {"password": url.password}
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    return {name: str(value) for name, value in address.items() if value not in (None, "")} | query


def libpq_url(url: URL) -> str:
    """Return a URL for psql and other PostgreSQL clients, with its secrets."""
    return _render(parameters(url))


def masked_url(url: URL) -> str:
    """Return the URL for messages: secrets are masked, and what comes from the environment is filled in."""
    found = parameters(effective_url(url))
    return _render({name: "***" if name in SECRETS else value for name, value in found.items()})


def effective_url(url: URL) -> URL:
    """Return the URL with host, port, user and database from libpq's environment variables where it names none."""
    found = parameters(url)
    if "service" in found:  # libpq takes them from the service's section of its file
        return url
    for option in pq.Conninfo.get_defaults():
        name, value = option.keyword.decode(), option.val
        named = (option.envvar or b"").decode() in os.environ or "PGSERVICE" in os.environ
        if name in _ADDRESS and value and named:
            found.setdefault(name, value.decode())
    return _from_parameters(found)


@contextmanager
def for_a_command_line(url: URL) -> Generator[tuple[str, Mapping[str, str]]]:
    """Yield a URL without secrets, and the environment variables that bring them to a libpq program.

    Every user of the machine can read a command line. Of the secrets only the password has a variable; the others are
    in a file that exists as long as the context.
    """
    found = parameters(url)
    secrets = {name: found.pop(name) for name in SECRETS & found.keys()}
    password = secrets.pop("password", None)
    variables = {} if password is None else {"PGPASSWORD": password}
    with ExitStack() as stack:
        if secrets and "service" not in found:
            file = stack.enter_context(NamedTemporaryFile("w", prefix="searchdb-", suffix=".conf", encoding="utf-8"))
            file.writelines(["[searchdb]\n", *(f"{name}={value}\n" for name, value in secrets.items())])
            file.flush()
            variables |= {"PGSERVICEFILE": file.name, "PGSERVICE": "searchdb"}
        yield _render(found), variables


def _require_escaped(address: str) -> None:
    """Refuse an address in which libpq would take a part of the password for the host or the database, as in `u:a@b@h`.

    They are shown in messages.
    """
    authority, _, path = address.partition("?")[0].partition("/")
    if authority.count("@") > 1 or (":" in authority and "@" not in authority and "@" in path):
        raise ValueError("it has an @ or / in the user or the password: write %40 for an @ and %2F for a /")


def _from_parameters(found: Mapping[str, str]) -> URL:
    rest = dict(found)
    host, port = rest.get("host", ""), rest.get("port", "")
    if host and not host.startswith(("/", "@")) and "," not in host + port:  # the only kind that SQLAlchemy's URL has
        del rest["host"]
        rest.pop("port", None)
    else:
        host, port = "", ""
    user, password, name = (rest.pop(each, None) for each in ("user", "password", "dbname"))
    return URL.create(
        _DRIVER,
        username=user or None,
        password=password or None,
        host=host or None,
        port=int(port) if port else None,
        database=name or None,
        query=rest,
    )


def _render(found: Mapping[str, str]) -> str:
    """Return libpq's parameters as a URL; spaces are `%20`, because libpq does not read `+` as a space."""
    url = _from_parameters(found)
    user, password = (quote(value or "", safe="+*") for value in (url.username, url.password))
    account = f"{user}{f':{password}' if password else ''}@" if user or password else ""
    host = f"[{url.host}]" if ":" in (url.host or "") else quote(url.host or "", safe="")
    port = f":{url.port}" if url.port else ""
    query = "&".join(f"{name}={quote(str(value), safe='*')}" for name, value in url.query.items())
    path = f"/{quote(url.database or '', safe='')}" if url.database or query else ""
    return f"postgresql://{account}{host}{port}{path}{f'?{query}' if query else ''}"
