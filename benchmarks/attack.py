"""Do other visitors get answers while hostile and slow clients attack, and does the server recover afterwards?

The real server with the demo's collection is attacked in all ways at once: URLs of a slow server, bodies and headers
that never end, readers that do not read, images that are costly to decode, texts to embed, connections that do
nothing, and searches while the table is locked. Beside it, other clients ask for /healthz and for searches whose text
is cached.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.report import table
from benchmarks.vectors import connect
from searchdb.cli.demo import album_items
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.demo.album import draw_album

SECONDS, QUICK_SECONDS = 120.0, 30.0
IMAGES = 300
LARGE_SIDE = 4000
"""Pixels: as BMP, 48 MB, which no buffer on the way takes."""
BOMB_SIDE, BOMB_SCANS = 8000, 1000
FLOAT_SIDE = 10_000
SLOW_FETCHES, SLOW_BODIES, SLOW_HEADERS, SLOW_READERS, SILENT = 8, 40, 40, 30, 100
UPLOADERS, EMBEDDERS, LOCKED_SEARCHES = 3, 4, 24
LOCKED_PART = (0.3, 0.6)
"""When the table is locked, as shares of the attack."""
CHECK_EVERY_S = 0.25
TIMEOUT_S = 120.0
END_S = 10.0
"""Seconds that unfinished requests get when the attack is over; what has no answer then is not counted."""
RECOVERY_S = 60.0
"""Seconds in which everything must work again."""
MIB = 2**20
TEXTS = ("a red car", "a boat at sunset", "a cat in the snow")


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
    """Threads that ask for something until they are told to stop."""

    def __init__(self, port: int) -> None:
        self.port = port
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
        """Send a whole request from the address of the client, and note what comes of it."""
        started = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S, source_address=(address(number), 0))
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
            self.over.wait(0.2)

    def hold(self, what: str, number: int, sent: bytes) -> None:
        """Send a part of a request, read nothing, and wait until the server ends the connection."""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S, (address(number), 0)) as client:
            client.sendall(sent)
            started = time.perf_counter()
            while not self.over.wait(0.5):
                client.setblocking(False)
                try:
                    data = client.recv(100, socket.MSG_PEEK)
                    if not sent.endswith(b"\r\n\r\n") or b"Content-Length" in sent or not data:
                        break
                except BlockingIOError:
                    pass
                except OSError:
                    data = b""
                    break
            else:
                return
            status = data[9:12].decode("latin-1") or "closed"
        self.seen.add(what, status, time.perf_counter() - started)

    def end(self) -> None:
        self.over.set()
        until = time.monotonic() + END_S
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and tables of them."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with SearchDB(Settings(home=home, model="demo", database_url=None)) as collection:
        draw_album(home / "album", IMAGES)
        collection.ingest(album_items(home / "album"))
        large = home / "large"
        large.mkdir()
        Image.effect_noise((LARGE_SIDE, LARGE_SIDE), 60).convert("RGB").save(large / "large.bmp")
        collection.ingest_files(large)
        for text in TEXTS:
            collection.search(text)
        with connect(collection.database) as connection:
            row = connection.execute("SELECT id FROM images WHERE image LIKE '%large.bmp'").fetchone()
            assert row is not None
        with _slow_server() as slow_url, _served(home, collection.database.libpq_url) as (port, server):
            return _attack(collection, port, server, slow_url, row[0], seconds)


def _attack(
    collection: SearchDB, port: int, server: psutil.Process, slow_url: str, large: int, seconds: float
) -> tuple[dict[str, float], str]:
    workers = {child.pid for child in server.children()}
    idle = _resident(server)
    attack, visitors = Attack(port), Attack(port)
    peak = idle
    bomb, tiff, url = progressive_bomb(), float_tiff(), json.dumps({"url": slow_url}).encode()
    texts = json.dumps({"texts": [f"text number {n} of an attack" for n in range(64)]}).encode()
    head = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    file = b"GET /images/%d/file HTTP/1.1\r\nHost: localhost\r\n\r\n" % large

    visitors.repeat(1, lambda n: (visitors.ask("/healthz", n, "GET", "/healthz"), time.sleep(CHECK_EVERY_S)))
    visitors.repeat(1, lambda n: (visitors.ask("/readyz", n, "GET", "/readyz"), time.sleep(CHECK_EVERY_S)))
    for text in TEXTS:
        path = f"/api/search?q={text.replace(' ', '+')}&count=10"
        visitors.repeat(
            1, lambda n, path=path: (visitors.ask("cached search", n, "GET", path), time.sleep(CHECK_EVERY_S))
        )
    attack.repeat(SLOW_FETCHES, lambda n: attack.ask("slow URL", n, "POST", "/api/search", url))
    attack.repeat(SLOW_BODIES, lambda n: attack.hold("body without data", n, head + b"Content-Length: 1000\r\n\r\n"))
    attack.repeat(SLOW_HEADERS, lambda n: attack.hold("half a header", n, head + b"X: "))
    attack.repeat(SLOW_READERS, lambda n: attack.hold("slow reader", n, file))
    attack.repeat(SILENT, lambda n: attack.hold("silent connection", n, b""))
    attack.repeat(EMBEDDERS, lambda n: attack.ask("64 texts", n, "POST", "/api/embeddings", texts))
    for what, data in (("progressive JPEG", bomb), ("float TIFF", tiff)):
        form, kind = _form(data)
        attack.repeat(UPLOADERS, lambda n, w=what, f=form, k=kind: attack.ask(w, n, "POST", "/api/search", f, k))
    began = time.monotonic()
    locking = threading.Thread(target=_lock_table, args=[collection, attack, began, seconds])
    locking.start()
    while time.monotonic() - began < seconds:
        peak = max(peak, _resident(server))
        time.sleep(0.1)
    attack.over.set()
    recovered = _recovery(port)
    attack.end()
    locking.join()
    visitors.end()
    peak = max(peak, _resident(server))
    restarts = len({child.pid for child in server.children()} - workers)
    return _report(attack.seen, visitors.seen, seconds, peak - idle, restarts, recovered)


def _lock_table(collection: SearchDB, attack: Attack, began: float, seconds: float) -> None:
    """Lock the table for a part of the attack, and have clients search meanwhile."""
    first, last = (began + share * seconds for share in LOCKED_PART)
    time.sleep(max(first - time.monotonic(), 0))
    searches = Attack(attack.port)
    with connect(collection.database) as connection, connection.transaction():
        connection.execute("LOCK TABLE images IN ACCESS EXCLUSIVE MODE")
        searches.seen = attack.seen
        searches.repeat(
            LOCKED_SEARCHES, lambda n: searches.ask("search of the locked table", n, "GET", "/api/search?q=a+boat")
        )
        time.sleep(max(last - time.monotonic(), 0))
    searches.end()


def _recovery(port: int) -> float:
    """Return the seconds until three searches in a row are answered, or RECOVERY_S."""
    began, good = time.monotonic(), 0
    while good < 3 and time.monotonic() - began < RECOVERY_S:
        check = Attack(port)
        check.ask("search", 200, "GET", "/api/search?q=a+red+car")
        good = good + 1 if check.seen.statuses["search", "200"] else 0
    return time.monotonic() - began


def _report(
    attack: Seen, visitors: Seen, seconds: float, memory: float, restarts: int, recovered: float
) -> tuple[dict[str, float], str]:
    statuses = attack.statuses + visitors.statuses
    wrong = sum(count for (_, status), count in statuses.items() if re.match(r"5(?!03$)|503 ", status))
    figures: dict[str, float] = {
        "attack_seconds": seconds,
        "attack_5xx_but_503": float(wrong),
        "attack_memory_mib": memory / MIB,
        "attack_worker_restarts": float(restarts),
        "attack_recovery_s": recovered,
    }
    shown: dict[str, str] = {}
    for what, taken in visitors.seconds.items():
        name = what.strip("/").replace(" ", "_")
        taken = sorted(taken)
        p99 = taken[min(int(0.99 * len(taken)), len(taken) - 1)]
        figures[f"attack_{name}_p99_s"], figures[f"attack_{name}_max_s"] = p99, taken[-1]
        shown[what] = (
            f"p50 {1000 * statistics.median(taken):,.0f} ms, p99 {1000 * p99:,.0f} ms, max {1000 * taken[-1]:,.0f} ms; "
            f"{_counts(visitors.statuses, what)}"
        )
    for what in attack.seconds:
        shown[what] = _counts(attack.statuses, what)
    shown["5xx but 503 with Retry-After"] = f"{wrong:,}"
    shown["memory above idle, all processes"] = f"{memory / MIB:,.0f} MiB"
    shown["workers that were replaced"] = f"{restarts}"
    shown["searches work again after"] = f"{recovered:.1f} s"
    return figures, table(f"all attacks at once, {seconds:.0f} s, statuses and how often", shown)


def _counts(statuses: Counter[tuple[str, str]], what: str) -> str:
    return ", ".join(f"{status} x {count:,}" for (name, status), count in sorted(statuses.items()) if name == what)


def address(number: int) -> str:
    """Return the address of a client: all of 127.0.0.0/8 is this machine on Linux."""
    return f"127.0.0.{number % 250 + 2}" if sys.platform == "linux" else "127.0.0.1"


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


def _form(data: bytes) -> tuple[bytes, str]:
    head = b'--X\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head + data + b"\r\n--X--\r\n", "multipart/form-data; boundary=X"


def _resident(server: psutil.Process) -> int:
    """Return the resident memory of the server's processes, in bytes."""
    total = 0
    for process in (server, *server.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


@contextmanager
def _served(home: Path, database_url: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run `searchdb serve`; yield its port and process once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "SEARCHDB_HOME": str(home),
        "SEARCHDB_MODEL": "demo",
        "SEARCHDB_ALLOW_PRIVATE_ADDRESSES": "1",
    }
    with (home / "attack.log").open("w") as log:
        command = [sys.executable, "-m", "searchdb", "serve", f"--port={port}"]
        server = subprocess.Popen(command, env=environment, stderr=log)
        try:
            until = time.monotonic() + TIMEOUT_S
            while not _is_ready(port):
                if time.monotonic() > until or server.poll() is not None:
                    raise RuntimeError("the server did not become ready")
                time.sleep(0.2)
            yield port, psutil.Process(server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(TIMEOUT_S)


def _is_ready(port: int) -> bool:
    check = Attack(port)
    check.over.set()  # do not wait after a failure
    check.ask("/readyz", 200, "GET", "/readyz")
    return bool(check.seen.statuses["/readyz", "200"])


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
def _slow_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Trickle)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a.jpg"
    finally:
        server.shutdown()
        server.server_close()
