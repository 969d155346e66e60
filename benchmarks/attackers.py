"""Clients of a server under attack: those that attack it, and visitors whose answers are timed."""

from __future__ import annotations

import io
import itertools
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

BOMB_SIDE, BOMB_SCANS = 8000, 1000
FLOAT_SIDE = 10_000
TIMEOUT_S = 45.0
"""Seconds without an answer after which a client gives up: the server's waits and deadlines are shorter together."""
PAUSE_S = 0.5
"""Seconds until a refused client asks again: refusals are cheap for the server, but clients share its processors."""
END_S = 5.0
"""Seconds that unfinished requests get when the attack is over; what has no answer then is not counted."""

FIRST_OF_MANY = 1000
"""Numbers below are those of clients that keep their address."""

_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)
_addresses = itertools.count()


@dataclass(kw_only=True)
class Seen:
    """What clients saw: seconds and statuses by what they asked for."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, status: str, seconds: float) -> None:
        with self.lock:
            self.seconds.setdefault(what, []).append(seconds)
            self.statuses[what, status] += 1


class Attack:
    """Threads that ask for something until they are told to stop.

    Args:
        port: of the server.
        many_addresses: whether each request comes from an address of its own, so that no limit of a client is reached.
    """

    def __init__(self, port: int, *, many_addresses: bool = True) -> None:
        self.port = port
        self._many_addresses = many_addresses
        self.seen = Seen()
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []

    def repeat(self, count: int, run: Callable[[int], object]) -> None:
        """Run a function again and again in `count` threads, with the number of a client of its own."""

        def again(number: int) -> None:
            while not self.over.is_set():
                with suppress(OSError):
                    run(number)

        for _ in range(count):
            thread = threading.Thread(target=again, args=[len(self._threads) + 1], daemon=True)
            self._threads.append(thread)
            thread.start()

    def ask(
        self, what: str, number: int, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> None:
        """Send a whole request, and note what comes of it."""
        started = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S, source_address=self._source(number))
        with closing(connection):
            try:
                connection.request(method, path, body or None, {"Content-Type": kind} if body else {})
                response = connection.getresponse()
                response.read()
                status = str(response.status)
                if status == "503" and response.getheader("Retry-After") is None:
                    status = "503 without Retry-After"
            except (OSError, HTTPException) as exc:
                status = type(exc).__name__
        self.seen.add(what, status, time.perf_counter() - started)
        if not status.startswith("2"):
            self.over.wait(PAUSE_S)

    def hold(self, what: str, number: int, sent: bytes, *, reads_nothing: bool = False) -> None:
        """Send a request, or a part of one, and wait until the server answers or ends the connection."""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S, self._source(number)) as client:
            client.sendall(sent)
            started = time.perf_counter()
            events = select.poll()
            # A client that reads nothing waits for the end of the connection only.
            events.register(client, _HUNG_UP if reads_nothing else select.POLLIN)
            while not events.poll(1000):
                if self.over.is_set():
                    return
            try:
                data = client.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except OSError:
                data = b""
            status = "closed" if reads_nothing or not data else data[9:12].decode("latin-1")
        self.seen.add(what, status, time.perf_counter() - started)

    def end(self) -> None:
        """Stop, and wait a little for what is under way."""
        self.over.set()
        until = time.monotonic() + END_S
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))

    def _source(self, number: int) -> tuple[str, int]:
        return address(next(_addresses) + FIRST_OF_MANY if self._many_addresses else number), 0


def address(number: int) -> str:
    """Return the address of a client: all of 127.0.0.0/8 is this machine on Linux."""
    if sys.platform != "linux":
        return "127.0.0.1"
    return f"127.{number // 62_500 % 250}.{number // 250 % 250}.{number % 250 + 2}"


def progressive_bomb() -> bytes:
    """Return a progressive JPEG whose last scan is repeated: each takes a pass over all pixels."""
    file = io.BytesIO()
    Image.new("RGB", (BOMB_SIDE, BOMB_SIDE)).save(file, "JPEG", progressive=True, quality=1)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * BOMB_SCANS + b"\xff\xd9"


def float_tiff() -> bytes:
    """Return a small TIFF that takes 400 MB as floats."""
    file = io.BytesIO()
    Image.new("F", (FLOAT_SIDE, FLOAT_SIDE)).save(file, "TIFF", compression="tiff_lzw")
    return file.getvalue()


def form(data: bytes) -> tuple[bytes, str]:
    """Return a form with a file, and its content type."""
    head = b'--X\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head + data + b"\r\n--X--\r\n", "multipart/form-data; boundary=X"


class _Trickle(BaseHTTPRequestHandler):
    """Sends an image at one byte a second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b"\xff")
                time.sleep(1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


@contextmanager
def slow_server() -> Iterator[str]:
    """Serve an image at one byte a second; yield its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Trickle)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a.jpg"
    finally:
        server.shutdown()
        server.server_close()
