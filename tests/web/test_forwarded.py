"""Who a client is, and what proxies may say of a request: nothing unless they are trusted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from flask import request, url_for

from web.ops.forwarded import client_address, client_key

if TYPE_CHECKING:
    from tests.helpers.apps import MakeApp
    from tests.helpers.gunicorn import Serve


@pytest.mark.parametrize(
    ("text", "address", "key"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:4711", "192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:3::4", "20010db800010002"),
        ("[2001:DB8:1:2:ffff::]:4711", "2001:db8:1:2:ffff::", "20010db800010002"),
        ("fe80::1%eth0", "fe80::1", "fe80000000000000"),
    ],
)
def test_a_client_is_an_address_without_port_or_a_network(text: str, address: str, key: str) -> None:
    assert client_address(text) == address
    assert client_key(address) == (f"{key}::/64".removeprefix("0") if ":" in address else key)


@pytest.mark.parametrize("text", ["", "unknown", "_hidden", "unix:", "192.0.2.256", "1.2.3.4:x", "[1.2.3.4", "a\nb"])
def test_what_is_no_address_is_no_client(text: str) -> None:
    assert client_address(text) is None


HOSTILE = {
    "X-Forwarded-For": "192.0.2.66",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Protocol": "ssl",
    "X-Forwarded-Ssl": "on",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=192.0.2.66;host=evil.example;proto=https",
}


def test_without_proxies_no_header_changes_what_a_request_is(make_app: MakeApp) -> None:
    app = make_app()
    app.add_url_rule("/where", view_func=where)
    client = app.test_client()
    assert client.get("/where", headers=HOSTILE).text == "http://localhost/ 127.0.0.1"
    # As gunicorn with its defaults passes it on, for a client on this machine.
    overrides = {"HTTP_SCRIPT_NAME": "/whe", "SCRIPT_NAME": "/whe", "PATH_INFO": "re", "wsgi.url_scheme": "https"}
    answer = client.get("/", headers=HOSTILE, environ_overrides=overrides)
    assert answer.text == "http://localhost/ 127.0.0.1"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Forwarded-Proto": "javascript"}, "http://localhost/"),
        ({"X-Forwarded-Proto": "http, https"}, "https://localhost/"),
        ({"X-Forwarded-Prefix": "//evil.example"}, "http://localhost/"),
        ({"X-Forwarded-Prefix": "/a\\..\\b"}, "http://localhost/"),
        ({"X-Forwarded-Prefix": "/albums/"}, "http://localhost/albums/"),
        ({"X-Forwarded-Host": "evil.example, localhost:81"}, "http://localhost:81/"),
    ],
)
def test_of_a_proxys_headers_only_what_is_valid_counts(
    make_app: MakeApp, headers: dict[str, str], expected: str
) -> None:
    app = make_app(proxies=1)
    app.add_url_rule("/where", view_func=where)
    assert app.test_client().get("/where", headers=headers).text == f"{expected} 127.0.0.1"


def test_of_two_proxies_the_last_two_entries_count(make_app: MakeApp) -> None:
    app = make_app(proxies=2, trusted_hosts="a.example")
    app.add_url_rule("/where", view_func=where)
    headers = {"X-Forwarded-For": "192.0.2.9, 192.0.2.1, 10.0.0.1", "X-Forwarded-Host": "evil, a.example, b.example"}
    assert app.test_client().get("/where", headers=headers).text == "http://a.example/ 192.0.2.1"
    forged = {"X-Forwarded-Host": "evil.example, b.example"}
    assert app.test_client().get("/where", headers=forged).status_code == 400


def where() -> str:
    return f"{url_for('pages.index', _external=True)} {request.remote_addr}"


# --- Under gunicorn -------------------------------------------------------------------------------


@pytest.mark.slow
def test_under_gunicorn_only_trusted_hosts_are_answered(serve: Serve) -> None:
    server = serve(SEARCHDB_TRUSTED_HOSTS="photos.example.org")
    port = urlsplit(server.url).port
    for host in ("127.0.0.1", f"LocalHost.:{port}", f"[::1]:{port}", "127.0.0.2", "Photos.Example.org"):
        assert server.ask(f"Host: {host}")[0] == 200, host
    assert server.ask(version="1.0")[0] == 200
    assert server.ask("Host: evil.example", target=f"http://localhost:{port}/api/random")[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "192.168.1.1", "localhost:1@evil.example", "a b", "\xe9"):
        status, answer = server.ask(f"Host: {host}")
        assert status == 400, host
        assert "SEARCHDB_TRUSTED_HOSTS" in answer
    assert server.ask("Host: localhost", target="http://evil.example/api/random")[0] == 400
    assert server.ask("Host: localhost", "Host: evil.example")[0] == 400
    assert server.ask("Host: evil.example", target="/healthz")[0] == 200


@pytest.mark.slow
def test_under_gunicorn_a_client_on_this_machine_is_not_a_proxy(serve: Serve) -> None:
    server = serve()
    lines = [f"{name}: {value}" for name, value in HOSTILE.items()]
    status, page = server.ask("Host: localhost", "SCRIPT_NAME: /evil", "PATH_INFO: /evil", *lines, target="/api/")
    assert status == 200
    assert "http://localhost/api/search" in page
    assert not re.search(r"evil|https://localhost", page)
    status, page = server.ask("Host: localhost", "SCRIPT_NAME: /api", *lines, target="/api/")
    assert (status, "http://localhost/api/search" in page) == (200, True)
    server.stop()
    assert "127.0.0.1" in server.log
    assert "192.0.2.66" not in server.log


@pytest.mark.slow
def test_under_gunicorn_a_proxys_last_entries_count(serve: Serve) -> None:
    server = serve(SEARCHDB_PROXIES="1", SEARCHDB_TRUSTED_HOSTS="photos.example.org")
    forwarded = (
        "X-Forwarded-For: 192.0.2.66, 2001:db8::7",
        "X-Forwarded-Proto: http, https",
        "X-Forwarded-Host: evil.example, photos.example.org",
        "X-Forwarded-Prefix: //evil.example, /photos",
    )
    status, page = server.ask("Host: 10.0.0.1:8000", "SCRIPT_NAME: /evil", *forwarded, target="/api/")
    assert status == 200
    assert "https://photos.example.org/photos/api/search" in page
    assert "evil" not in page
    assert server.ask("Host: localhost", "X-Forwarded-Host: evil.example")[0] == 400
    server.stop()
    assert "2001:db8::7" in server.log
    assert "192.0.2.66" not in server.log
