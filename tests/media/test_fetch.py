"""Fetching against a real server with real faults, and against real files."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import ssl
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from searchdb.errors import (
    AddressRefusedError,
    FetchError,
    FetchTimeoutError,
    FileUnreadableError,
    HTTPStatusError,
    InvalidReferenceError,
    NotAnImageError,
    TooManyBytesError,
    TooManyPixelsError,
    TooManyRedirectsError,
    TransferError,
)
from searchdb.media import fetch, safe_http
from searchdb.media.decode import decode
from searchdb.media.fetch import Fetcher
from searchdb.records import SourceItem
from tests.helpers.image_server import ImageServer, make_image
from tests.helpers.waiting import GIVE_UP_S

MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with ImageServer() as running:
        yield running


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    with make_fetcher() as made:
        yield made


def make_fetcher(**changes: Any) -> Fetcher:
    """Return a fetcher that may reach the test server and does not make tests wait."""
    quick = {"connect_timeout_s": 5, "read_timeout_s": 5, "deadline_s": 10, "attempts": 2, "backoff_s": 0.001}
    return Fetcher(**{"max_bytes": MAX_BYTES, "allow_private_addresses": True} | quick | changes)


def item(image: str | Path, *, rendition: str | None = None) -> SourceItem:
    return SourceItem(image=str(image), source="test", rendition=rendition)


def soon(condition: Callable[[], bool]) -> bool:
    """Wait until the condition holds; return whether it did within GIVE_UP_S seconds."""
    end = time.monotonic() + GIVE_UP_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


# --- Files ----------------------------------------------------------------------------------------


def test_reads_a_file_unchanged(fetcher: Fetcher, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(make_image())
    wanted = item(path)
    fetched = fetcher.fetch(wanted)
    assert fetched.data == make_image()
    assert fetched.item is wanted


def test_an_empty_file_is_fetched(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert fetcher.fetch(item(tmp_path / "empty")).data == b""


def test_the_size_limit_of_files_is_exact(fetcher: Fetcher, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(MAX_BYTES))
    assert len(fetcher.fetch(item(path)).data) == MAX_BYTES
    path.write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(TooManyBytesError, match="100,001 bytes, the limit is 100,000") as caught:
        fetcher.fetch(item(path))
    assert caught.value.size == MAX_BYTES + 1
    assert not caught.value.retryable


def test_a_file_larger_than_its_reported_size_is_limited_while_reading() -> None:
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
        (Path.mkdir, "not a regular file"),
        (_fifo, "not a regular file"),
        (_socket, "No such device"),
        (_broken_link, "No such file"),
    ],
    ids=["missing", "folder", "fifo", "socket", "broken link"],
)
def test_errors_for_unreadable_files_name_the_reason(
    fetcher: Fetcher, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "x")
    with pytest.raises(FileUnreadableError, match=message):
        fetcher.fetch(item(tmp_path / "x"))
    assert tmp_path / "x" not in [descriptor.resolve() for descriptor in Path("/proc/self/fd").iterdir()]


def test_a_file_without_permission_is_unreadable(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "x").touch(mode=0)
    if os.access(tmp_path / "x", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(FileUnreadableError, match="Permission denied"):
        fetcher.fetch(item(tmp_path / "x"))


@pytest.mark.parametrize("name", ["a\0b", "/dev/zero", "x" * 5000, "ftp://example.org/a.jpg"])
def test_invalid_paths_are_unreadable(fetcher: Fetcher, name: str) -> None:
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
def test_images_are_fetched_completely(server: ImageServer, fetcher: Fetcher, path: str) -> None:
    assert fetcher.fetch(item(server.url(path))).data == make_image()


def test_any_format_and_an_empty_body_are_fetched(server: ImageServer, fetcher: Fetcher) -> None:
    assert fetcher.fetch(item(server.url("/ok.png"))).data == make_image("PNG")
    assert fetcher.fetch(item(server.url("/ok.webp"))).data == make_image("WEBP")
    assert fetcher.fetch(item(server.url("/empty"))).data == b""
    assert fetcher.fetch(item(server.url("/html"))).data.startswith(b"<!DOCTYPE html>")


def test_a_redirect_may_name_a_path_with_a_space(server: ImageServer, fetcher: Fetcher) -> None:
    server.bodies["/a%20picture.jpg"] = make_image(seed=7)
    assert fetcher.fetch(item(server.url("/redirect-with-space"))).data == make_image(seed=7)


def test_requests_identify_searchdb(server: ImageServer, fetcher: Fetcher) -> None:
    fetcher.fetch(item(server.url("/ok.jpg")))
    headers = server.headers["/ok.jpg"]
    assert re.fullmatch(r"searchdb/\d[\w.+]* \([a-z ]+\)", headers["User-Agent"])
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("path", ["/set-cookie", "/redirect-and-set-cookie"])
def test_cookies_are_not_kept(server: ImageServer, fetcher: Fetcher, path: str) -> None:
    fetcher.fetch(item(server.url(path)))
    fetcher.fetch(item(server.url("/ok.jpg")))
    assert "Cookie" not in server.headers["/ok.jpg"]


def test_connections_are_reused(fetcher: Fetcher) -> None:
    with ImageServer() as server:
        server.redirects["/elsewhere"] = "/ok.jpg?seed=4"
        for path in (*(f"/ok.jpg?seed={seed}" for seed in range(4)), "/elsewhere"):
            fetcher.fetch(item(server.url(path)))
            with pytest.raises(HTTPStatusError):
                fetcher.fetch(item(server.url("/missing")))
        assert server.connections == 1
        assert server.hits["/ok.jpg?seed=3"] == 1
        assert server.requests["/ok.jpg"] == 5


def test_credentials_of_the_url_are_sent(server: ImageServer, fetcher: Fetcher) -> None:
    fetcher.fetch(item(f"http://ann:secret@127.0.0.1:{server.port}/ok.jpg"))
    assert server.headers["/ok.jpg"]["Authorization"].startswith("Basic ")


def test_credentials_do_not_follow_a_redirect_to_another_host(server: ImageServer, fetcher: Fetcher) -> None:
    server.redirects["/elsewhere"] = server.url("/ok.jpg", host="localhost")
    fetcher.fetch(item(f"http://ann:secret@127.0.0.1:{server.port}/elsewhere"))
    assert "Authorization" not in server.headers["/ok.jpg"]


@pytest.mark.parametrize(
    "url",
    [
        "http://ann:secret@{host}/404",
        "http://ann:secret@{host}/hang-up",
        "http://ann:secret@{host}/redirect-loop",
        "http://{host}/redirect-malformed",
        "http://{host}/to-ftp",
        "http://{host}/to-nowhere",
        "http://ann:secret@/x",
        "http://ann:se/secret@h/x",
        "http://ann:secret@\\/x",
        "http://ann:secret@h\u2100/x",
        "http://ann:secret@h:99999/x",
    ],
)
@pytest.mark.parametrize("as_rendition", [False, True])
def test_credentials_never_appear_in_messages(
    server: ImageServer, fetcher: Fetcher, caplog: pytest.LogCaptureFixture, url: str, as_rendition: bool
) -> None:
    server.redirects |= {"/to-ftp": "ftp://ann:secret@h/x", "/to-nowhere": "http://ann:secret@\\\\/"}
    url = url.format(host=f"127.0.0.1:{server.port}")
    wanted = item("https://pictures.example/a.jpg", rendition=url) if as_rendition else item(url)
    with caplog.at_level(logging.DEBUG), pytest.raises(FetchError) as caught:
        fetcher.fetch(wanted)
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown
    assert "secret" not in caplog.text


def test_a_rendition_is_fetched_instead_of_the_image(fetcher: Fetcher) -> None:
    with ImageServer() as server:
        wanted = item(server.url("/ok.png"), rendition=server.url("/ok.png?seed=3"))
        fetched = fetcher.fetch(wanted)
        assert fetched.data == make_image("PNG", seed=3)
        assert fetched.item is wanted
        assert server.hits == {"/ok.png?seed=3": 1}


def test_a_rendition_is_checked_by_the_same_rules(server: ImageServer, fetcher: Fetcher) -> None:
    with pytest.raises(InvalidReferenceError, match="begin with http"):
        fetcher.fetch(item(server.url("/ok.jpg"), rendition="file:///etc/passwd"))
    with make_fetcher(allow_private_addresses=False) as closed, pytest.raises(AddressRefusedError):
        closed.fetch(item("https://pictures.example/a.jpg", rendition=server.url("/ok.jpg")))


def test_proxies_and_netrc_of_the_environment_are_not_used(
    server: ImageServer, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.closed_port}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert fetcher.fetch(item(server.url("/ok.jpg"))).data == make_image()
    assert "Authorization" not in server.headers["/ok.jpg"]


def test_one_fetcher_serves_many_threads(server: ImageServer, fetcher: Fetcher) -> None:
    with ThreadPoolExecutor(16) as pool:
        wanted = [(seed, item(server.url(f"/ok.png?seed={seed}"))) for seed in range(64)]
        results = pool.map(lambda pair: fetcher.fetch(pair[1]).data == make_image("PNG", seed=pair[0]), wanted)
        assert all(results)


def test_hundreds_of_threads_can_fetch(server: ImageServer) -> None:
    with make_fetcher(per_host=200) as fetcher, ThreadPoolExecutor(200) as pool:
        wanted = [item(server.url(f"/ok.jpg?seed={seed}")) for seed in range(400)]
        assert all(fetched.data.startswith(b"\xff\xd8") for fetched in pool.map(fetcher.fetch, wanted))


# --- Host slots -----------------------------------------------------------------------------------


def test_images_in_flight_to_one_host_are_limited() -> None:
    with ImageServer() as server, make_fetcher(per_host=2) as fetcher, ThreadPoolExecutor(8) as pool:
        gated = [pool.submit(fetcher.fetch, item(server.url(f"/gated?n={n}"))) for n in range(6)]
        assert soon(lambda: server.requests["/gated"] == 2)
        # Another host name has its own slots.
        assert fetcher.fetch(item(server.url("/ok.jpg", host="localhost"))).data == make_image()
        time.sleep(0.1)
        assert server.requests["/gated"] == 2
        server.gate.set()
        assert all(future.result().data == make_image() for future in gated)
        assert server.requests["/gated"] == 6


def test_a_redirect_exchanges_the_hosts_slot() -> None:
    with ImageServer() as server, make_fetcher(per_host=1) as fetcher, ThreadPoolExecutor(2) as pool:
        server.redirects["/onward"] = server.url("/gated", host="localhost")
        redirected = pool.submit(fetcher.fetch, item(server.url("/onward")))
        assert soon(lambda: server.requests["/gated"] == 1)
        assert fetcher.fetch(item(server.url("/ok.jpg"))).data == make_image()
        waiting = pool.submit(fetcher.fetch, item(server.url("/ok.png", host="localhost")))
        time.sleep(0.1)
        assert server.requests["/ok.png"] == 0
        server.gate.set()
        assert redirected.result().data == make_image()
        assert waiting.result().data == make_image("PNG")


def test_redirects_within_one_host_need_only_one_slot(server: ImageServer) -> None:
    with make_fetcher(per_host=1) as fetcher:
        assert fetcher.fetch(item(server.url("/hops?left=5"))).data == make_image()


@pytest.mark.slow
def test_waiting_for_a_slot_does_not_count_against_the_deadline() -> None:
    with (
        ImageServer(delay_s=0.15) as server,
        make_fetcher(per_host=1, deadline_s=0.75) as fetcher,
        ThreadPoolExecutor(8) as pool,
    ):
        wanted = [item(server.url(f"/ok.jpg?seed={seed}")) for seed in range(8)]
        assert len(list(pool.map(fetcher.fetch, wanted))) == 8


def test_closing_cancels_the_wait_for_a_slot() -> None:
    with ImageServer() as server, ThreadPoolExecutor(4) as pool:
        fetcher = make_fetcher(per_host=1)
        holding = pool.submit(fetcher.fetch, item(server.url("/gated")))
        assert soon(lambda: server.requests["/gated"] == 1)
        waiting = [pool.submit(fetcher.fetch, item(server.url("/ok.jpg"))) for _ in range(3)]
        time.sleep(0.1)
        fetcher.close()
        for future in waiting:
            with pytest.raises(TransferError, match="searchdb is closing"):
                future.result(timeout=GIVE_UP_S)
        with pytest.raises(TransferError, match="searchdb is closing"):
            fetcher.fetch(item(server.url("/ok.jpg", host="localhost")))
        server.gate.set()
        assert holding.result().data == make_image()
        assert server.requests["/ok.jpg"] == 0


def test_only_hosts_in_use_are_kept_in_memory(server: ImageServer, fetcher: Fetcher) -> None:
    fetcher.fetch(item(server.url("/redirect")))
    for path in ("/404", "/hang-up"):
        with pytest.raises(FetchError):
            fetcher.fetch(item(server.url(path, host="localhost")))
    for number in range(100):
        with pytest.raises(FetchError):
            fetcher.fetch(item(f"http://127.0.0.1:{server.closed_port}/{number}"))
    assert not fetcher._slots._hosts


# --- HTTP that fails ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 206, 304, 403, 404, 410])
def test_final_statuses_are_not_retried(fetcher: Fetcher, status: int) -> None:
    with ImageServer() as server:
        with pytest.raises(HTTPStatusError, match=f"the server answered {status} ") as caught:
            fetcher.fetch(item(server.url(f"/{status}")))
        assert caught.value.status == status
        assert not caught.value.retryable
        assert server.requests[f"/{status}"] == 1


def test_content_that_is_not_an_image_is_not_retried(server: ImageServer, fetcher: Fetcher) -> None:
    """The Content-Type decides nothing: /html has text/html, and so has the image of /wrong-type."""
    with pytest.raises(NotAnImageError) as caught:
        decode(fetcher.fetch(item(server.url("/html"))), max_pixels=10_000)
    assert not caught.value.retryable
    assert decode(fetcher.fetch(item(server.url("/wrong-type"))), max_pixels=10_000).width == 48


@pytest.mark.slow
def test_a_short_retry_after_is_waited_for(fetcher: Fetcher) -> None:
    with ImageServer() as server:
        began = time.monotonic()
        assert fetcher.fetch(item(server.url("/429-retry-after-1"))).data == make_image()
        assert time.monotonic() - began >= 1
        assert server.requests["/429-retry-after-1"] == 2


def test_pauses_double_and_are_partly_random(server: ImageServer) -> None:
    pauses: list[float | None] = []

    class Watched(Fetcher):
        def _pause(self, attempt: int, error: FetchError) -> float | None:
            pauses.append(super()._pause(attempt, error))
            return 0

    with Watched(max_bytes=MAX_BYTES, allow_private_addresses=True, attempts=4, backoff_s=8) as fetcher:
        for _ in range(5):
            with pytest.raises(HTTPStatusError):
                fetcher.fetch(item(server.url("/500")))
    for attempt, longest in enumerate((8, 16, 32, 64)):
        of_attempt = [pause or 0 for pause in pauses[attempt::4]]
        assert all(longest / 2 <= pause <= longest for pause in of_attempt)
        assert len(set(of_attempt)) > 1


@pytest.mark.parametrize("path", ["/503-then-200", "/429-then-200", "/503-until-1999", "/half-then-ok"])
def test_temporary_faults_are_retried(fetcher: Fetcher, path: str) -> None:
    with ImageServer() as server:
        assert fetcher.fetch(item(server.url(path))).data == make_image()
        assert server.requests[path] == 2


@pytest.mark.parametrize("path", ["/500", "/503", "/half", "/half-chunked", "/reset", "/hang-up", "/garbage"])
def test_attempts_are_limited_and_the_failure_stays_retryable(path: str) -> None:
    with ImageServer() as server, make_fetcher(attempts=3) as fetcher:
        with pytest.raises(FetchError) as caught:
            fetcher.fetch(item(server.url(path)))
        assert caught.value.retryable
        assert server.requests[path] == 3


@pytest.mark.parametrize("path", ["/429-for-an-hour", "/503-until-2099"])
def test_a_retry_after_beyond_the_cap_is_not_waited_for(fetcher: Fetcher, path: str) -> None:
    with ImageServer() as server:
        with pytest.raises(HTTPStatusError, match=r"asks for a pause of [\d,]+ seconds") as caught:
            fetcher.fetch(item(server.url(path)))
        assert caught.value.retryable
        assert caught.value.retry_after_s
        assert caught.value.retry_after_s >= 3600
        assert server.requests[path] == 1


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/half", TransferError, r"the server sent \d+ of \d+ bytes"),
        ("/half-chunked", TransferError, "ended before the image was complete"),
        ("/hang-up", TransferError, "broke: Remote end closed connection without response"),
        ("/reset", TransferError, "broke: .*reset by peer"),
        ("/garbage", TransferError, "the connection to 127.0.0.1 broke"),
        ("/bad-gzip", TransferError, "not in the Content-Encoding it names"),
        ("/endless-chunk-size", FetchError, "127.0.0.1|ended before"),
        ("/endless", TooManyBytesError, "larger, the limit is 100,000 bytes"),
        ("/endless-chunks", TooManyBytesError, "larger, the limit is 100,000 bytes"),
        ("/too-long", TooManyBytesError, "999,999,999,999 bytes, the limit is 100,000 bytes"),
        ("/gzip-bomb", TooManyBytesError, "larger, the limit is 100,000 bytes"),
        ("/redirect-loop", TooManyRedirectsError, "more than 5 times, last to .*/redirect-loop"),
        ("/hops?left=6", TooManyRedirectsError, "more than 5 times"),
        ("/redirect-to-file", InvalidReferenceError, "redirected to file:///etc/passwd: it does not begin with http"),
        ("/redirect-malformed", InvalidReferenceError, r"redirected to http://\*\*\*@.*bad/: it is malformed"),
        ("/redirect-to-closed-port", TransferError, r"the connection was refused by 127.0.0.1:\d+"),
        ("/redirect-nowhere", HTTPStatusError, "answered 302"),
    ],
)
def test_errors_name_the_fault(
    server: ImageServer, fetcher: Fetcher, path: str, kind: type[FetchError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fetcher.fetch(item(server.url(path)))


def test_a_length_that_understates_the_body_ends_it(server: ImageServer, fetcher: Fetcher) -> None:
    assert fetcher.fetch(item(server.url("/understated"))).data == bytes(10)
    assert fetcher.fetch(item(server.url("/ok.jpg"))).data == make_image()


@pytest.mark.parametrize("path", ["/drip", "/drip-headers"])
def test_a_server_that_is_too_slow_is_not_retried(path: str) -> None:
    with ImageServer() as server, make_fetcher(attempts=3, slow_after_s=0.3, slowest_bytes_per_s=5000) as fetcher:
        message = r"the transfer was too slow: \d+ bytes in [\d.]+ seconds, the minimum is 5,000 a second"
        with pytest.raises(FetchTimeoutError, match=message) as caught:
            fetcher.fetch(item(server.url(path)))
        assert type(caught.value) is FetchTimeoutError
        assert caught.value.retryable
        assert server.requests[path] == 1
        assert fetcher.fetch(item(server.url("/ok.jpg"))).data == make_image()


@pytest.mark.slow
def test_one_byte_a_second_is_too_slow(server: ImageServer) -> None:
    with make_fetcher(slow_after_s=1) as fetcher, pytest.raises(FetchTimeoutError, match="minimum is 1,000 a second"):
        fetcher.fetch(item(server.url("/one-byte-a-second")))


def test_idle_connections_and_computing_servers_are_not_too_slow() -> None:
    with ImageServer(delay_s=0.2) as server, make_fetcher(slow_after_s=0.1, slowest_bytes_per_s=10**6) as fetcher:
        server.bodies["/large"] = bytes(MAX_BYTES)  # more than one read brings
        fetcher.fetch(item(server.url("/large")))
        time.sleep(0.2)
        assert len(fetcher.fetch(item(server.url("/large"))).data) == MAX_BYTES
        assert server.connections == 1


def test_a_server_above_the_minimum_speed_may_take_long(server: ImageServer) -> None:
    with (
        make_fetcher(slow_after_s=0.1, slowest_bytes_per_s=1, deadline_s=0.5) as fetcher,
        pytest.raises(FetchTimeoutError, match=r"was not complete after 0\.5 seconds in all"),
    ):
        fetcher.fetch(item(server.url("/drip")))


@pytest.mark.parametrize("path", ["/drip", "/drip-headers"])
def test_a_dripping_server_ends_at_the_deadline(server: ImageServer, path: str) -> None:
    with make_fetcher(deadline_s=0.3) as fetcher:
        with pytest.raises(FetchTimeoutError, match=r"was not complete after 0\.3 seconds in all") as caught:
            fetcher.fetch(item(server.url(path)))
        assert caught.value.retryable


def test_a_silent_server_ends_at_the_read_timeout_and_is_retried() -> None:
    with ImageServer() as server, make_fetcher(read_timeout_s=0.1, attempts=3) as fetcher:
        with pytest.raises(FetchTimeoutError, match=r"sent nothing for 0\.1 seconds"):
            fetcher.fetch(item(server.url("/silent")))
        assert server.requests["/silent"] == 3


def test_the_deadline_covers_all_attempts() -> None:
    with ImageServer() as server:
        with (
            make_fetcher(read_timeout_s=0.2, deadline_s=0.5, attempts=50) as fetcher,
            pytest.raises(FetchTimeoutError, match=r"was not complete after 0\.5 seconds in all"),
        ):
            fetcher.fetch(item(server.url("/silent")))
        assert server.requests["/silent"] < 10


def test_a_pause_beyond_the_deadline_is_not_started() -> None:
    with ImageServer() as server:
        with make_fetcher(backoff_s=60, deadline_s=5) as fetcher, pytest.raises(HTTPStatusError):
            fetcher.fetch(item(server.url("/503-then-200")))
        with make_fetcher(deadline_s=0.9) as fetcher, pytest.raises(HTTPStatusError):
            fetcher.fetch(item(server.url("/429-retry-after-1")))
        assert server.requests == {"/503-then-200": 1, "/429-retry-after-1": 1}


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


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"connect_timeout_s": 0.1}, r"no secure connection to 127\.0\.0\.1 within 0\.1 seconds"),
        ({"deadline_s": 0.1}, r"was not complete after 0\.1 seconds in all"),
    ],
)
def test_a_server_that_does_not_shake_hands_ends_at_the_connect_timeout(limits: dict[str, float], message: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with make_fetcher(**limits) as fetcher, pytest.raises(FetchTimeoutError, match=message):
            fetcher.fetch(item(f"https://127.0.0.1:{listening.getsockname()[1]}/"))


def test_closing_interrupts_a_pause(server: ImageServer) -> None:
    waiting = threading.Event()

    class Watched(Fetcher):
        def _pause(self, attempt: int, error: FetchError) -> float | None:
            waiting.set()
            return super()._pause(attempt, error)

    fetcher = Watched(max_bytes=MAX_BYTES, allow_private_addresses=True, backoff_s=40)
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fetcher.fetch, item(server.url("/500")))
        assert waiting.wait(GIVE_UP_S)
        fetcher.close()
        with pytest.raises(TransferError, match="closing"):
            failing.result()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "has no host"),
        ("http://a b/", "space"),
        ("http://host:99999/", "malformed host or port"),
        ("http://" + "a" * 70 + ".example/", "not a valid host name|cannot be requested"),
        ("http://" + "a" * 3000, "longer than 2,048 bytes"),
        ("http://ex\udcffample.org/", "control character"),
    ],
)
def test_malformed_urls_are_refused(fetcher: Fetcher, url: str, message: str) -> None:
    with pytest.raises(InvalidReferenceError, match=message):
        fetcher.fetch(item(url))


def test_the_error_for_an_unknown_host_names_it(fetcher: Fetcher) -> None:
    with pytest.raises(TransferError, match=r"no address found for pictures\.invalid"):
        fetcher.fetch(item("http://pictures.invalid/a.jpg"))


# --- Addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"])
def test_private_addresses_are_refused_unless_allowed(server: ImageServer, host: str) -> None:
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
        ("168.63.129.16", True),
        ("64:ff9b::168.63.129.16", True),
        ("100.100.100.200", True),
        ("fd00:ec2::254", True),
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
    assert safe_http.is_private_address(address) is is_refused


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Make the resolver give these answers in turn and repeat the last one; return the hosts asked for."""
    asked: list[str] = []

    def answer(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        addresses = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(safe_http.socket, "getaddrinfo", answer)
    return asked


def test_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["93.184.215.14", "10.1.2.3"])
    with (
        make_fetcher(allow_private_addresses=False) as fetcher,
        pytest.raises(AddressRefusedError, match=r"pictures\.example is at 10\.1\.2\.3"),
    ):
        fetcher.fetch(item("http://pictures.example/a.jpg"))


def test_the_connection_goes_to_the_address_that_was_checked(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers differently the second time must not be resolved a second time."""
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["93.184.215.14"])
    monkeypatch.setattr(safe_http, "is_private_address", lambda address: address != "127.0.0.1")
    with make_fetcher(allow_private_addresses=False) as fetcher:
        url = f"http://pictures.example:{server.port}/ok.jpg"
        assert fetcher.fetch(item(url)).data == make_image()
    assert asked == ["pictures.example"]
    assert server.headers["/ok.jpg"]["Host"] == f"pictures.example:{server.port}"


def test_a_resolver_that_does_not_answer_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """More such lookups than may run at once: further ones end, too, and once they end, others are made."""
    monkeypatch.setattr(safe_http, "_lookups", threading.BoundedSemaphore(2))
    answering = threading.Event()

    def answer(host: str, port: int, **_: Any) -> list[Any]:
        answering.wait(GIVE_UP_S)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(safe_http.socket, "getaddrinfo", answer)
    with make_fetcher(deadline_s=0.1, attempts=1) as fetcher:
        for _ in range(3):
            with pytest.raises(FetchTimeoutError, match=r"the lookup of slow\.example took too long"):
                fetcher.fetch(item("http://slow.example/a.jpg"))
    answering.set()
    patient = make_fetcher(deadline_s=GIVE_UP_S, attempts=1)
    with patient as fetcher, pytest.raises(TransferError, match="no address found"):
        fetcher.fetch(item("http://slow.example/a.jpg"))


def test_addresses_of_redirects_are_checked(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_http, "is_private_address", lambda address: address != "127.0.0.1")
    with (
        make_fetcher(allow_private_addresses=False) as fetcher,
        pytest.raises(AddressRefusedError, match=r"169\.254\.169\.254"),
    ):
        fetcher.fetch(item(server.url("/redirect-to-metadata")))


def test_every_host_of_a_chain_of_redirects_is_checked(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = "10.0.0.1" if host == "inside.example" else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(safe_http.socket, "getaddrinfo", answer)
    monkeypatch.setattr(safe_http, "is_private_address", lambda address: address != "127.0.0.1")
    server.redirects |= {
        "/first": server.url("/second", host="two.example"),
        "/second": server.url("/third", host="three.example"),
        "/third": server.url("/ok.jpg", host="four.example"),
    }
    with make_fetcher(allow_private_addresses=False) as fetcher:
        assert fetcher.fetch(item(server.url("/first", host="one.example"))).data == make_image()
        assert asked == ["one.example", "two.example", "three.example", "four.example"]
        server.redirects["/third"] = server.url("/ok.jpg", host="inside.example")
        with pytest.raises(AddressRefusedError, match=r"inside\.example is at 10\.0\.0\.1"):
            fetcher.fetch(item(server.url("/first", host="one.example")))


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for images.example, and its key."""
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
def tls_server(certificate: tuple[Path, Path]) -> Iterator[ImageServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = ImageServer()
    server.wrap(context)
    with server:
        yield server


def test_tls_checks_the_name_in_the_url_and_honours_a_private_authority(
    tls_server: ImageServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"])
    port = tls_server.port
    with make_fetcher() as fetcher, pytest.raises(TransferError, match=r"no secure connection to pictures\.example"):
        fetcher.fetch(item(f"https://pictures.example:{port}/ok.jpg"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with make_fetcher() as fetcher:
        assert fetcher.fetch(item(f"https://pictures.example:{port}/ok.jpg")).data == make_image()
        with pytest.raises(TransferError, match=r"no secure connection to other\.example"):
            fetcher.fetch(item(f"https://other.example:{port}/ok.jpg"))


def test_a_redirect_from_https_to_http_is_followed(
    server: ImageServer,
    tls_server: ImageServer,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"])
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    tls_server.redirects["/plain"] = server.url("/ok.jpg")
    with make_fetcher() as fetcher:
        assert fetcher.fetch(item(f"https://pictures.example:{tls_server.port}/plain")).data == make_image()


@pytest.mark.slow
def test_the_deadline_applies_over_tls(
    tls_server: ImageServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"])
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with make_fetcher(deadline_s=1) as fetcher, pytest.raises(FetchTimeoutError, match="in all"):
        fetcher.fetch(item(f"https://pictures.example:{tls_server.port}/drip"))


# --- The next stage -------------------------------------------------------------------------------


def test_fetched_bytes_can_be_decoded(server: ImageServer, fetcher: Fetcher) -> None:
    with Image.open(io.BytesIO(fetcher.fetch(item(server.url("/ok.png"))).data)) as image:
        assert image.size == (48, 32)


def test_sizes_are_read_before_decoding_and_orientation_is_applied_after(server: ImageServer, fetcher: Fetcher) -> None:
    upright = decode(fetcher.fetch(item(server.url("/exif-rotated.jpg?seed=2"))), max_pixels=10_000)
    assert (upright.width, upright.height) == (32, 48)
    huge = fetcher.fetch(item(server.url("/huge-png")))
    assert len(huge.data) < 200
    with pytest.raises(TooManyPixelsError, match="60,000 x 60,000"):
        decode(huge, max_pixels=10_000)


def test_limits_are_ordered() -> None:
    """The deadline leaves room for a full read timeout and the longest Retry-After that is waited for."""
    assert fetch.CONNECT_TIMEOUT_S < fetch.DEADLINE_S
    assert fetch.READ_TIMEOUT_S + fetch.RETRY_AFTER_CAP_S < fetch.DEADLINE_S
    assert fetch.SLOW_AFTER_S < fetch.DEADLINE_S
