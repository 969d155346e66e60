"""The HTTP server around an application that the test holds up: what is refused while there is no thread or no room."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.helpers.waiting import GIVE_UP_S, until
from web.ops import http_limits
from web.ops.http_server import Server, ServerOptions

THREADS = 2
GET = b"GET /%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
Connect = Callable[[], socket.socket]


class HeldApplication:
    """Answers /slow when `go` is set, and everything else at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.waiting = 0

    def __call__(self, environ: dict, start_response: Callable) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            self.waiting += 1
            assert self.go.wait(GIVE_UP_S)
        start_response("200 OK", [("Content-Length", "2")])
        return [str(len(environ["wsgi.input"].read())).encode()[:2].ljust(2)]


@pytest.fixture
def application() -> HeldApplication:
    return HeldApplication()


@pytest.fixture
def connect(application: HeldApplication, tmp_path: Path) -> Iterator[Connect]:
    """Runs the server on a Unix socket; gives a function that connects to it."""
    options = ServerOptions(
        threads=THREADS,
        connections=100,
        keepalive=15,
        backlog=100,
        multiprocess=False,
        max_body_bytes=10_000_000,
        limit_request_line=4094,
        limit_request_fields=100,
        limit_request_field_size=8190,
    )
    folder = Path(tempfile.mkdtemp())  # short enough for a socket's path
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "s"))
    server = Server(application, [listening], options, refused=lambda status: None)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set() or server.connections:
            server.poll(0.05)
            server.check()
            if stop.is_set() and not server.stopping:
                server.stop_accepting()

    thread = threading.Thread(target=serve)
    thread.start()

    def connected() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(GIVE_UP_S)
        client.connect(str(folder / "s"))
        return client

    yield connected
    application.go.set()
    stop.set()
    thread.join(GIVE_UP_S)
    server.close()


def answer(connect: Connect, request: bytes) -> bytes:
    with closing(connect()) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def is_busy(received: bytes) -> bool:
    return received.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in received


def test_requests_beyond_the_queue_are_refused_and_the_others_answered(
    connect: Connect, application: HeldApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "QUEUE", 3)
    monkeypatch.setattr(http_limits, "QUEUE_WAIT_S", GIVE_UP_S)
    with ExitStack() as held:
        clients = [held.enter_context(connect()) for _ in range(THREADS + http_limits.QUEUE)]
        for number, client in enumerate(clients):
            client.sendall(GET % b"slow")
            if number < THREADS:
                until(lambda number=number: application.waiting == number + 1, "a thread that is held up")
        assert is_busy(answer(connect, GET % b"slow"))
        assert answer(connect, GET % b"healthz").startswith(b"HTTP/1.1 200 ")
        application.go.set()
        assert all(client.recv(12) == b"HTTP/1.1 200" for client in clients)


def test_a_request_that_waits_too_long_for_a_thread_is_refused(
    connect: Connect, application: HeldApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "QUEUE_WAIT_S", 0.1)
    with ExitStack() as held:
        for number in range(THREADS):
            held.enter_context(connect()).sendall(GET % b"slow")
            until(lambda number=number: application.waiting == number + 1, "a thread that is held up")
        assert is_busy(answer(connect, GET % b"slow"))
        assert application.waiting == THREADS


def test_pipelined_requests_are_answered_in_order_up_to_a_limit(connect: Connect) -> None:
    keep = GET.replace(b"Connection: close\r\n", b"")
    few = answer(connect, keep % b"" * 5 + GET % b"healthz")
    assert few.count(b"HTTP/1.1 200 ") == 6
    many = answer(connect, keep % b"" * 1000)
    assert 0 < many.count(b"HTTP/1.1 200 ") <= 1000
    assert many.count(b" 400 Bad Request\r\n") == 1


def test_bodies_share_a_limit(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "BODIES_BYTES", 1_500_000)
    body = b"0" * 1_000_000
    for _ in range(3):  # each gives back what it held
        assert answer(connect, UPLOAD + body).startswith(b"HTTP/1.1 200 ")
    with closing(connect()) as unfinished:
        unfinished.sendall(UPLOAD + body[:-1])
        until(lambda: is_busy(answer(connect, UPLOAD + body)), "the limit")
    until(lambda: answer(connect, UPLOAD + body).startswith(b"HTTP/1.1 200 "), "the room of the closed connection")


def test_a_full_disk_is_status_507(connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert answer(connect, UPLOAD + b"0" * 1_000_000).startswith(b"HTTP/1.1 507 ")
    assert answer(connect, GET % b"").startswith(b"HTTP/1.1 200 ")
