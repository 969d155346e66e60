"""Do other visitors get answers while hostile and slow clients attack, and does the server recover afterwards?

The real server with the demo's collection is attacked in all ways at once: URLs of a slow server, bodies and headers
that never end, readers that do not read, images that are costly to decode, texts to embed, connections that do
nothing, and searches while the table is locked. Beside it, other clients ask for /healthz and for searches whose text
is cached.
"""

from __future__ import annotations

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.attackers import Attack, Seen, float_tiff, form, progressive_bomb, slow_server
from benchmarks.report import table
from benchmarks.vectors import connect
from searchdb.cli.demo import album_items
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.demo.album import draw_album

SECONDS, QUICK_SECONDS = 120.0, 30.0
IMAGES = 100
LARGE_SIDE = 4000
"""Pixels: as BMP, 48 MB, which no buffer on the way takes."""
SLOW_FETCHES, SLOW_BODIES, SLOW_HEADERS, SLOW_READERS, SILENT = 8, 40, 40, 30, 100
UPLOADERS, EMBEDDERS, LOCKED_SEARCHES = 3, 4, 24
LOCKED_PART = (0.3, 0.6)
"""When the table is locked, as shares of the attack."""
CHECK_EVERY_S = 0.25
START_S, STOP_S = 90.0, 40.0
"""Longest waits for the server's start and end."""
RECOVERY_S = 30.0
"""Seconds in which everything must work again."""
MIB = 2**20
TARGETS = (
    ("attack_worker_restarts", 0, "workers that were replaced"),
    ("attack_5xx_but_503", 0, "5xx but 503 with Retry-After"),
    ("attack_visitors_without_answer", 0, "visitors' requests without an answer"),
    ("attack_memory_mib", 1_500_000_000 / MIB, "MiB above idle, all processes"),
    ("attack_healthz_max_s", 1.0, "seconds for /healthz, at most"),
    ("attack_cached_search_p99_s", 2.0, "seconds for cached searches of others, p99"),
    ("attack_recovery_s", RECOVERY_S - 1, "seconds until searches by text and by image work again"),
)
"""Figures, the highest values that they should have, and what they are."""
TEXTS = ("a red car", "a boat at sunset", "a cat in the snow")


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and tables of them."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with SearchDB(Settings(home=home, model="demo", database_url=None)) as collection:
        draw_album(home / "album", IMAGES)
        collection.ingest(album_items(home / "album"))
        large = home / "large"
        large.mkdir()
        Image.new("RGB", (LARGE_SIDE, LARGE_SIDE), "orange").save(large / "large.bmp")
        collection.ingest_files(large)
        for text in TEXTS:
            collection.search(text)
        with connect(collection.database) as connection:
            row = connection.execute("SELECT id FROM images WHERE image LIKE '%large.bmp'").fetchone()
            assert row is not None
        with slow_server() as slow_url, _served(home, collection.database.libpq_url) as (port, server):
            image = next((home / "album").glob("*.jpg")).read_bytes()
            return _attack(collection, port, server, slow_url, row[0], image, seconds)


def _attack(
    collection: SearchDB,
    port: int,
    server: psutil.Process,
    slow_url: str,
    large: int,
    image: bytes,
    seconds: float,
) -> tuple[dict[str, float], str]:
    workers = {child.pid for child in server.children()}
    idle = _resident(server)
    attack, visitors = Attack(port), Attack(port, many_addresses=False)
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
    attack.repeat(SLOW_READERS, lambda n: attack.hold("slow reader", n, file, reads_nothing=True))
    attack.repeat(SILENT, lambda n: attack.hold("silent connection", n, b""))
    attack.repeat(EMBEDDERS, lambda n: attack.ask("64 texts", n, "POST", "/api/embeddings", texts))
    for what, data in (("progressive JPEG", bomb), ("float TIFF", tiff)):
        body, kind = form(data)
        attack.repeat(UPLOADERS, lambda n, w=what, f=body, k=kind: attack.ask(w, n, "POST", "/api/search", f, k))
    began = time.monotonic()
    locking = threading.Thread(target=_lock_table, args=[collection, attack, began, seconds])
    locking.start()
    while time.monotonic() - began < seconds:
        peak = max(peak, _resident(server))
        time.sleep(CHECK_EVERY_S)
    attack.over.set()
    recovered = _recovery(port, image)
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


def _recovery(port: int, image: bytes) -> float:
    """Return the seconds until three searches in a row are answered, by a text and by an image, or RECOVERY_S."""
    began, good = time.monotonic(), 0
    while good < 3 and time.monotonic() - began < RECOVERY_S:
        check = Attack(port)
        check.ask("search", 0, "GET", "/api/search?q=a+red+car")
        check.ask("search", 0, "POST", "/api/search", *form(image))
        good = good + 1 if check.seen.statuses["search", "200"] == 2 else 0
    return time.monotonic() - began


def _report(
    attack: Seen, visitors: Seen, seconds: float, memory: float, restarts: int, recovered: float
) -> tuple[dict[str, float], str]:
    statuses = attack.statuses + visitors.statuses
    no_answer = sum(count for (_, status), count in visitors.statuses.items() if not status[0].isdigit())
    wrong = sum(count for (_, status), count in statuses.items() if re.match(r"5(?!03$)|503 ", status))
    figures: dict[str, float] = {
        "attack_seconds": seconds,
        "attack_5xx_but_503": float(wrong),
        "attack_visitors_without_answer": float(no_answer),
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
    verdicts = {
        what: f"{figures[name]:,.1f}, at most {most:,.0f}: {'met' if figures[name] <= most else 'MISSED'}"
        for name, most, what in TARGETS
    }
    figures["attack_targets_missed"] = float(sum(figures[name] > most for name, most, _ in TARGETS))
    tables = table(f"all attacks at once, {seconds:.0f} s, statuses and how often", shown), table("targets", verdicts)
    return figures, "\n\n".join(tables)


def _counts(statuses: Counter[tuple[str, str]], what: str) -> str:
    return ", ".join(f"{status} x {count:,}" for (name, status), count in sorted(statuses.items()) if name == what)


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
            until = time.monotonic() + START_S
            while not _is_ready(port):
                if time.monotonic() > until or server.poll() is not None:
                    raise RuntimeError("the server did not become ready")
                time.sleep(0.2)
            yield port, psutil.Process(server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                for each in (*psutil.Process(server.pid).children(recursive=True), server):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()


def _is_ready(port: int) -> bool:
    check = Attack(port)
    check.over.set()  # do not wait after a failure
    check.ask("/readyz", 0, "GET", "/readyz")
    return bool(check.seen.statuses["/readyz", "200"])
