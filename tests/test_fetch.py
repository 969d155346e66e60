"""Fetching against a real server with real faults, and against real files."""

from __future__ import annotations

import io
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from searchdb import connections, fetch
from searchdb.errors import (
    AddressRefusedError,
    FetchError,
    FetchTimeoutError,
    FileUnreadableError,
    HTTPStatusError,
    InvalidReferenceError,
    TooManyBytesError,
    TooManyRedirectsError,
    TransferError,
)
from searchdb.fetch import Fetcher
from searchdb.records import SourceItem
from tests.picture_server import PictureServer, picture

MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def server() -> Iterator[PictureServer]:
    with PictureServer() as running:
        yield running


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    with make_fetcher() as made:
        yield made


def make_fetcher(**changes: Any) -> Fetcher:
    """Return a fetcher that may reach the test server and does not make tests wait."""
    quick = {"connect_timeout_s": 5, "read_timeout_s": 5, "deadline_s": 10, "attempts": 2, "backoff_s": 0.001}
    return Fetcher(**{"max_bytes": MAX_BYTES, "allow_private_addresses": True} | quick | changes)


def item(image: str | Path) -> SourceItem:
    return SourceItem(image=str(image), source="test")


# --- Files ----------------------------------------------------------------------------------------


def test_reads_a_file_unchanged(fetcher: Fetcher, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture())
    wanted = item(path)
    fetched = fetcher.fetch(wanted)
    assert fetched.data == picture()
    assert fetched.item is wanted


def test_an_empty_file_is_fetched(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert fetcher.fetch(item(tmp_path / "empty")).data == b""


def test_a_file_of_exactly_the_limit_passes_and_one_byte_more_does_not(fetcher: Fetcher, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(MAX_BYTES))
    assert len(fetcher.fetch(item(path)).data) == MAX_BYTES
    path.write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(TooManyBytesError, match="100,001 bytes, the limit is 100,000") as caught:
        fetcher.fetch(item(path))
    assert caught.value.size == MAX_BYTES + 1
    assert not caught.value.retryable


def test_a_file_larger_than_it_says_is_capped_while_reading() -> None:
    """Files under /proc say that they are empty; memory maps of a test process are some kilobytes."""
    with make_fetcher(max_bytes=100) as small, pytest.raises(TooManyBytesError, match="the limit is 100 bytes"):
        small.fetch(item("/proc/self/maps"))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def _broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (Path.mkdir, "Is a directory|not a regular file"),
        (_fifo, "not a regular file"),
        (_socket, "No such device"),
        (_broken_link, "No such file"),
    ],
    ids=["missing", "folder", "fifo", "socket", "broken link"],
)
def test_what_is_no_readable_file_is_named(
    fetcher: Fetcher, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "x")
    with pytest.raises(FileUnreadableError, match=message):
        fetcher.fetch(item(tmp_path / "x"))


def test_a_file_without_permission_is_unreadable(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "x").touch(mode=0)
    if os.access(tmp_path / "x", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(FileUnreadableError, match="Permission denied"):
        fetcher.fetch(item(tmp_path / "x"))


@pytest.mark.parametrize("name", ["a\0b", "/dev/zero", "x" * 5000, "ftp://example.org/a.jpg"])
def test_impossible_paths_are_unreadable(fetcher: Fetcher, name: str) -> None:
    with pytest.raises(FileUnreadableError):
        fetcher.fetch(item(name))


# --- HTTP that works ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/ok.jpg",
        "/wrong-type",
        "/no-length",
        "/chunked",
        "/gzip",
        "/redirect",
        "/hops?left=5",
        "/endless-redirect-body",
    ],
)
def test_pictures_come_whole(server: PictureServer, fetcher: Fetcher, path: str) -> None:
    assert fetcher.fetch(item(server.url(path))).data == picture()


def test_every_format_and_an_empty_body_are_passed_on(server: PictureServer, fetcher: Fetcher) -> None:
    assert fetcher.fetch(item(server.url("/ok.png"))).data == picture("PNG")
    assert fetcher.fetch(item(server.url("/ok.webp"))).data == picture("WEBP")
    assert fetcher.fetch(item(server.url("/empty"))).data == b""
    assert fetcher.fetch(item(server.url("/html"))).data.startswith(b"<!DOCTYPE html>")


def test_a_redirect_may_name_a_path_with_a_space(server: PictureServer, fetcher: Fetcher) -> None:
    server.bodies["/a%20picture.jpg"] = picture(seed=7)
    assert fetcher.fetch(item(server.url("/redirect-with-space"))).data == picture(seed=7)


def test_requests_say_who_asks_and_keep_no_cookies(server: PictureServer, fetcher: Fetcher) -> None:
    fetcher.fetch(item(server.url("/ok.jpg")))
    headers = server.headers["/ok.jpg"]
    assert headers["User-Agent"].startswith("searchdb/")
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    assert "Cookie" not in headers


def test_credentials_of_the_url_are_sent_and_never_told(server: PictureServer, fetcher: Fetcher) -> None:
    host = f"ann:secret@127.0.0.1:{server.port}"
    fetcher.fetch(item(f"http://{host}/ok.jpg"))
    assert server.headers["/ok.jpg"]["Authorization"].startswith("Basic ")
    for url in (f"http://{host}/404", f"http://{host}/hang-up", "http://ann:secret@/x", "http://ann:se/secret@h/x"):
        with pytest.raises(FetchError) as caught:
            fetcher.fetch(item(url))
        assert "secret" not in str(caught.value)


def test_proxies_of_the_environment_are_not_used(
    server: PictureServer, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.closed_port}")
    assert fetcher.fetch(item(server.url("/ok.jpg"))).data == picture()


def test_one_fetcher_serves_many_threads(server: PictureServer, fetcher: Fetcher) -> None:
    with ThreadPoolExecutor(16) as pool:
        wanted = [(seed, item(server.url(f"/ok.png?seed={seed}"))) for seed in range(64)]
        results = pool.map(lambda pair: fetcher.fetch(pair[1]).data == picture("PNG", seed=pair[0]), wanted)
        assert all(results)


# --- HTTP that fails ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 206, 304, 403, 404, 410])
def test_final_statuses_are_not_tried_again(fetcher: Fetcher, status: int) -> None:
    with PictureServer() as server:
        with pytest.raises(HTTPStatusError, match=f"the server answered {status} ") as caught:
            fetcher.fetch(item(server.url(f"/{status}")))
        assert caught.value.status == status
        assert not caught.value.retryable
        assert server.requests[f"/{status}"] == 1


@pytest.mark.parametrize("path", ["/503-then-200", "/429-then-200", "/503-until-1999", "/half-then-ok"])
def test_passing_faults_are_tried_again(fetcher: Fetcher, path: str) -> None:
    with PictureServer() as server:
        assert fetcher.fetch(item(server.url(path))).data == picture()
        assert server.requests[path] == 2


@pytest.mark.parametrize("path", ["/500", "/503", "/half", "/half-chunked", "/reset", "/hang-up", "/garbage"])
def test_tries_are_bounded_and_the_failure_stays_retryable(path: str) -> None:
    with PictureServer() as server, make_fetcher(attempts=3) as fetcher:
        with pytest.raises(FetchError) as caught:
            fetcher.fetch(item(server.url(path)))
        assert caught.value.retryable
        assert server.requests[path] == 3


@pytest.mark.parametrize("path", ["/429-for-an-hour", "/503-until-2099"])
def test_a_retry_after_beyond_the_cap_is_left_for_later(fetcher: Fetcher, path: str) -> None:
    with PictureServer() as server:
        with pytest.raises(HTTPStatusError, match=r"asks to wait [\d,]+ seconds") as caught:
            fetcher.fetch(item(server.url(path)))
        assert caught.value.retryable
        assert caught.value.retry_after_s
        assert caught.value.retry_after_s >= 3600
        assert server.requests[path] == 1


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/half", TransferError, r"the server sent \d+ of \d+ bytes"),
        ("/half-chunked", TransferError, "ended before the whole picture had come"),
        ("/hang-up", TransferError, "broke: Remote end closed connection without response"),
        ("/reset", TransferError, "broke: .*reset by peer"),
        ("/garbage", TransferError, "the connection to 127.0.0.1 broke"),
        ("/bad-gzip", TransferError, "not in the Content-Encoding it names"),
        ("/endless-chunk-size", FetchError, "127.0.0.1|ended before"),
        ("/endless", TooManyBytesError, "larger, the limit is 100,000 bytes"),
        ("/too-long", TooManyBytesError, "999,999,999,999 bytes, the limit is 100,000 bytes"),
        ("/gzip-bomb", TooManyBytesError, "larger, the limit is 100,000 bytes"),
        ("/redirect-loop", TooManyRedirectsError, "more than 5 times, last to .*/redirect-loop"),
        ("/hops?left=6", TooManyRedirectsError, "more than 5 times"),
        ("/redirect-to-file", InvalidReferenceError, "redirected to file:///etc/passwd: it does not begin with http"),
        ("/redirect-to-closed-port", TransferError, r"the connection was refused by 127.0.0.1:\d+"),
        ("/redirect-nowhere", HTTPStatusError, "answered 302"),
    ],
)
def test_faults_are_named(
    server: PictureServer, fetcher: Fetcher, path: str, kind: type[FetchError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fetcher.fetch(item(server.url(path)))


@pytest.mark.parametrize("path", ["/drip", "/drip-headers"])
def test_a_dripping_server_ends_at_the_deadline(server: PictureServer, path: str) -> None:
    with make_fetcher(deadline_s=0.3) as fetcher:
        with pytest.raises(FetchTimeoutError, match=r"had not come after 0\.3 seconds in all") as caught:
            fetcher.fetch(item(server.url(path)))
        assert caught.value.retryable


def test_a_silent_server_ends_at_the_read_timeout(server: PictureServer) -> None:
    with (
        make_fetcher(read_timeout_s=0.1) as fetcher,
        pytest.raises(FetchTimeoutError, match=r"sent nothing for 0\.1 seconds"),
    ):
        fetcher.fetch(item(server.url("/silent")))


def test_a_server_that_does_not_accept_ends_at_the_connect_timeout() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        with socket.socket() as first, socket.socket() as second:  # these fill its queue
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            with (
                make_fetcher(connect_timeout_s=0.1, read_timeout_s=0.1) as fetcher,
                pytest.raises(FetchTimeoutError, match=rf"no connection to 127.0.0.1:{port} within 0.1 seconds"),
            ):
                fetcher.fetch(item(f"http://127.0.0.1:{port}/"))


def test_closing_ends_a_pause(server: PictureServer) -> None:
    waiting = threading.Event()

    class Watched(Fetcher):
        def _pause(self, attempt: int, error: FetchError) -> float | None:
            waiting.set()
            return super()._pause(attempt, error)

    fetcher = Watched(max_bytes=MAX_BYTES, allow_private_addresses=True, backoff_s=40)
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fetcher.fetch, item(server.url("/500")))
        assert waiting.wait(10)
        fetcher.close()
        with pytest.raises(TransferError, match="closing"):
            failing.result()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "names no host"),
        ("http://a b/", "space"),
        ("http://host:99999/", "malformed host or port"),
        ("http://" + "a" * 70 + ".example/", "no host name|cannot be requested"),
        ("http://" + "a" * 3000, "longer than 2,048 bytes"),
        ("http://ex\udcffample.org/", "control character"),
    ],
)
def test_malformed_urls_are_refused(fetcher: Fetcher, url: str, message: str) -> None:
    with pytest.raises(InvalidReferenceError, match=message):
        fetcher.fetch(item(url))


def test_an_unknown_host_is_named(fetcher: Fetcher) -> None:
    with pytest.raises(TransferError, match=r"no address found for pictures\.invalid"):
        fetcher.fetch(item("http://pictures.invalid/a.jpg"))


# --- Addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"])
def test_private_addresses_are_refused_unless_allowed(server: PictureServer, host: str) -> None:
    before = sum(server.requests.values())
    with (
        make_fetcher(allow_private_addresses=False) as fetcher,
        pytest.raises(AddressRefusedError, match="SEARCHDB_ALLOW_PRIVATE_ADDRESSES=1") as caught,
    ):
        fetcher.fetch(item(server.url("/ok.jpg", host=host)))
    assert host.strip("[]") in str(caught.value)
    assert not caught.value.retryable
    assert sum(server.requests.values()) == before


@pytest.mark.parametrize(
    ("address", "is_refused"),
    [
        ("93.184.215.14", False),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", False),
        ("64:ff9b::93.184.215.14", False),
        ("10.0.0.1", True),
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("169.254.169.254", True),
        ("0.0.0.0", True),
        ("224.0.0.1", True),
        ("255.255.255.255", True),
        ("::", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fec0::1", True),
        ("fd00::1", True),
        ("ff0e::1", True),
        ("::ffff:10.0.0.1", True),
        ("::10.0.0.1", True),
        ("64:ff9b::10.0.0.1", True),
        ("64:ff9b:1::1", True),
        ("2002:0a00:0001::1", True),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", True),
    ],
)
def test_which_addresses_are_public(address: str, is_refused: bool) -> None:
    assert connections.refused(address) is is_refused


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Make the resolver give these answers in turn and the last one for ever; return the hosts it was asked for."""
    asked: list[str] = []

    def answer(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        addresses = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(connections.socket, "getaddrinfo", answer)
    return asked


def test_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["93.184.215.14", "10.1.2.3"])
    with (
        make_fetcher(allow_private_addresses=False) as fetcher,
        pytest.raises(AddressRefusedError, match=r"pictures\.example is at 10\.1\.2\.3"),
    ):
        fetcher.fetch(item("http://pictures.example/a.jpg"))


def test_the_connection_goes_to_the_address_that_was_checked(
    server: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers differently the second time must not be asked a second time."""
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["93.184.215.14"])
    monkeypatch.setattr(connections, "refused", lambda address: address != "127.0.0.1")
    with make_fetcher(allow_private_addresses=False) as fetcher:
        url = f"http://pictures.example:{server.port}/ok.jpg"
        assert fetcher.fetch(item(url)).data == picture()
    assert asked == ["pictures.example"]
    assert server.headers["/ok.jpg"]["Host"] == f"pictures.example:{server.port}"


def test_redirects_are_held_to_the_same_addresses(server: PictureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "refused", lambda address: address != "127.0.0.1")
    with (
        make_fetcher(allow_private_addresses=False) as fetcher,
        pytest.raises(AddressRefusedError, match=r"169\.254\.169\.254"),
    ):
        fetcher.fetch(item(server.url("/redirect-to-metadata")))


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for pictures.example, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=pictures.example",
    ]
    command += ["-addext", "subjectAltName=DNS:pictures.example", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return certificate, key


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[PictureServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = PictureServer()
    server.wrap(context)
    with server:
        yield server


def test_tls_checks_the_name_in_the_url_and_honours_the_companys_authority(
    tls_server: PictureServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"])
    port = tls_server.port
    with make_fetcher() as fetcher, pytest.raises(TransferError, match=r"no secure connection to pictures\.example"):
        fetcher.fetch(item(f"https://pictures.example:{port}/ok.jpg"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with make_fetcher() as fetcher:
        assert fetcher.fetch(item(f"https://pictures.example:{port}/ok.jpg")).data == picture()
        with pytest.raises(TransferError, match=r"no secure connection to other\.example"):
            fetcher.fetch(item(f"https://other.example:{port}/ok.jpg"))


def test_the_deadline_holds_over_tls(
    tls_server: PictureServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"])
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with make_fetcher(deadline_s=1) as fetcher, pytest.raises(FetchTimeoutError, match="in all"):
        fetcher.fetch(item(f"https://pictures.example:{tls_server.port}/drip"))


# --- What it gives to the next stage --------------------------------------------------------------


def test_fetched_bytes_are_a_picture(server: PictureServer, fetcher: Fetcher) -> None:
    with Image.open(io.BytesIO(fetcher.fetch(item(server.url("/ok.png"))).data)) as image:
        assert image.size == (48, 32)


def test_limits_are_ordered() -> None:
    """A picture's deadline leaves room for a full read timeout and the longest Retry-After that is sat out."""
    assert fetch.CONNECT_TIMEOUT_S < fetch.DEADLINE_S
    assert fetch.READ_TIMEOUT_S + fetch.RETRY_AFTER_CAP_S < fetch.DEADLINE_S
