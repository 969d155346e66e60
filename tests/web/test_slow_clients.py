"""Clients that are slow, silent or malformed, against real gunicorn: they get an answer or lose their connection, and
others are answered meanwhile."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.media.embed import CLIPEmbedder
from tests.helpers import gunicorn
from tests.helpers.databases import NewSettings
from tests.helpers.gunicorn import Server
from tests.helpers.stored_images import StoredImages
from tests.helpers.stored_videos import StoredVideos
from tests.helpers.waiting import GIVE_UP_S, until

pytestmark = pytest.mark.slow

MANY = 60
"""Slow clients at once: more than the server has threads."""
CONNECTIONS = 200
"""The server's limit in these tests: more than MANY."""
SHORT_DEADLINES = """
from web.ops import http_limits
from web.ops.serving import *

http_limits.HEADERS_S = http_limits.BODY_GRACE_S = 1.0
http_limits.RESPONSE_STALL_S = http_limits.RESPONSE_GRACE_S = 1.0
keepalive = 1
"""
PATIENT = """
from web.ops import http_limits
from web.ops.serving import *

http_limits.HEADERS_S = http_limits.BODY_GRACE_S = http_limits.RESPONSE_STALL_S = 3600.0
keepalive = 3600
"""
JSON = b"POST /api/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = JSON + b"Content-Length: 1000\r\n\r\n{"
CHUNKED = BODY.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")
POST = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\n"
POST_CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HEADERS = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Unfinished: "


@pytest.fixture(scope="module")
def stored(
    new_settings: NewSettings, embedder: CLIPEmbedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, int]]:
    """Settings of a collection with one image, whose file fills any buffer on its way, and the image's id.

    The next id is that of a frame, whose video does, too.
    """
    folder = tmp_path_factory.mktemp("slow")
    with new_settings(folder) as settings, Database(settings) as database:
        images = StoredImages(folder, database, embedder)
        file = images.draw("large.bmp", size=(3000, 3000))
        large = images.add("a red boat", image=file)
        video = folder / "large.mp4"
        video.write_bytes(b"\0\0\0\x18ftypisom" + bytes(64 << 20))
        assert StoredVideos(database, embedder).add(video, {1.5: "a film"}) == [large + 1]
        yield settings, large


@pytest.fixture(scope="module")
def patient(stored: tuple[Settings, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose deadlines never come: slow clients stay for the whole test."""
    yield from serve(stored[0], tmp_path_factory.mktemp("patient") / "serving.py", PATIENT)


@pytest.fixture(scope="module")
def strict(stored: tuple[Settings, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose deadlines come soon."""
    yield from serve(stored[0], tmp_path_factory.mktemp("strict") / "serving.py", SHORT_DEADLINES)


def serve(settings: Settings, file: Path, configuration: str) -> Iterator[Server]:
    file.write_text(configuration)
    server = gunicorn.start(settings, f"--worker-connections={CONNECTIONS}", configuration=str(file))
    server.until_ready()
    yield server
    server.stop()


def answers(server: Server) -> None:
    """Health, readiness, metrics and a search are answered."""
    assert server.get("/healthz").status_code == 200
    assert server.get("/readyz").status_code == 200
    assert "searchdb_http_requests_total" in server.get("/metrics").text
    assert server.get("/api/search?q=a+red+boat").json()["hits"][0]["description"] == "a red boat"


def whole_answer(client: socket.socket) -> bytes:
    """What the server sends until it closes the connection; a reset counts as its end."""
    client.settimeout(GIVE_UP_S)
    received = b""
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def is_open(client: socket.socket) -> bool:
    """Whether the server has not closed its side."""
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True


def is_reset(client: socket.socket) -> bool:
    """Whether the server has ended the connection, with data unread."""
    poller = select.poll()
    poller.register(client, 0)
    return bool(poller.poll(0))


@pytest.mark.parametrize(
    "what", ["bodies", "headers", "nothing", "responses", "ranges", "players", "pipelined responses"]
)
def test_others_are_answered_while_clients_are_slow(patient: Server, stored: tuple[Settings, int], what: str) -> None:
    target = b"GET /images/%d/file HTTP/1.1\r\nHost: localhost\r\n" % stored[1]
    sent = {
        "bodies": BODY,
        "headers": HEADERS,
        "nothing": b"",
        "responses": target + b"\r\n",
        "ranges": target + b"Range: bytes=1-\r\n\r\n",
        "players": target.replace(b"/%d/" % stored[1], b"/%d/" % (stored[1] + 1)) + b"Range: bytes=0-\r\n\r\n",
        "pipelined responses": (target + b"\r\n") * 4,
    }[what]
    with ExitStack() as held:
        clients = [held.enter_context(patient.connect()) for _ in range(MANY)]
        for client in clients:
            client.sendall(sent)
        answers(patient)
        assert all(map(is_open, clients))


def test_connections_are_bounded_and_the_silent_ones_end_first(patient: Server) -> None:
    with ExitStack() as held:
        clients = [held.enter_context(patient.connect()) for _ in range(2 * CONNECTIONS)]
        answers(patient)
        assert whole_answer(clients[0]) == b""
        clients[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert whole_answer(clients[-1]).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("sent", [BODY, HEADERS, b"G", CHUNKED])
def test_a_request_that_does_not_arrive_in_time_is_answered_408(strict: Server, sent: bytes) -> None:
    with strict.connect() as client:
        client.sendall(sent)
        answer = whole_answer(client)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"Connection: close\r\n" in answer
    assert b"X-Content-Type-Options: nosniff\r\n" in answer


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_an_idle_connection_ends(strict: Server, sent: bytes) -> None:
    with strict.connect() as client:
        client.sendall(sent)
        assert whole_answer(client).count(b"HTTP/1.1") == sent.count(b"HTTP/1.1")


def test_a_body_that_trickles_ends_and_a_slow_one_arrives(strict: Server) -> None:
    body = b'{"texts": ["a red boat"]}'
    head = BODY.partition(b"Content-Length")[0] + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    stop = threading.Event()

    def trickle(client: socket.socket) -> None:
        try:
            while not stop.wait(0.1):
                client.sendall(b" ")
        except OSError:
            pass

    with strict.connect() as trickling, strict.connect() as slow:
        trickling.sendall(BODY)
        thread = threading.Thread(target=trickle, args=[trickling])
        thread.start()
        slow.sendall(head)
        slow.sendall(body[:10])
        slow.sendall(body[10:])
        assert whole_answer(slow).startswith(b"HTTP/1.1 200 OK\r\n")
        assert b" 408 " in whole_answer(trickling)
        stop.set()
        thread.join()


def test_a_response_that_is_not_read_ends(strict: Server, stored: tuple[Settings, int]) -> None:
    for part in (b"", b"Range: bytes=1-\r\n"):
        with strict.connect() as client:
            client.sendall(b"GET /images/%d/file HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (stored[1], part))
            until(lambda client=client: is_reset(client), "the end of the connection")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (
            POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (POST + b"Content-Length: +3\r\n\r\nabc", 400),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /api/search HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST_CHUNKED + b"xyz\r\n\r\n", 400),
        (POST_CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n", 400),
        (POST_CHUNKED + b"" + b"1" * 100_000, 400),
        (POST_CHUNKED + b"" + b"1\r\na\r\n" * 20_000, 400),
        (
            POST_CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000,
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n", 431),
        (b"GET /?q=" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://[/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_an_ambiguous_or_excessive_request_is_refused(patient: Server, request_: bytes, status: int) -> None:
    with patient.connect() as client:
        with suppress(OSError):  # the server may have answered before the end
            client.sendall(request_)
        answer = whole_answer(client)
    assert answer.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status))
    assert answer.count(b"\r\nConnection: close\r\n") == 1
    answers(patient)


def test_too_large_a_body_is_refused_while_it_is_being_sent(patient: Server) -> None:
    kind = {"Content-Type": "application/json"}
    for body in (b"0" * 100_000_000, iter([b"0" * 1_000_000] * 100)):
        response = requests.post(f"{patient.url}/api/search", data=body, headers=kind, timeout=GIVE_UP_S)
        assert response.status_code == 413
        assert response.json()["title"] == "Request Entity Too Large"


def test_a_client_is_asked_to_continue(patient: Server) -> None:
    head = BODY.partition(b"Content-Length")[0] + b"Expect: 100-continue\r\nConnection: close\r\n"
    with patient.connect() as client:
        client.sendall(head + b"Content-Length: 15\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b'{"texts":["a"]}')
        assert whole_answer(client).startswith(b"HTTP/1.1 200 OK\r\n")
    with patient.connect() as client:  # nothing follows, or nothing that would be accepted
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert whole_answer(client).startswith(b"HTTP/1.1 200 OK\r\n")
    with patient.connect() as client:
        client.sendall(head + b"Content-Length: 1000000000\r\n\r\n")
        assert whole_answer(client).startswith(b"HTTP/1.1 413 ")


def test_headers_of_proxies_reach_the_application_as_text_only(patient: Server) -> None:
    made_up = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example", "SCRIPT_NAME": "/evil"}
    page = patient.get("/", headers=made_up)
    assert page.status_code == 200
    assert "evil" not in page.text
    redirect = patient.get("/random", headers=made_up, allow_redirects=False)
    assert redirect.headers["Location"].startswith("/images/")
