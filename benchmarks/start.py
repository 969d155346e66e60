"""How long do `searchdb --help` and a search for a cached text take, compared with bare Python?"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.report import interleaved, table
from searchdb.cli.demo import album_items
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.demo.album import draw_album

ROUNDS, QUICK_ROUNDS = 9, 5
IMAGES = 50
TEXT = "a boat at sunset"


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and a table of them."""
    commands = {
        "searchdb --help": ["-m", "searchdb", "--help"],
        "searchdb search, cached": ["-m", "searchdb", "search", TEXT, "--count", "5"],
        "bare python": ["-c", "pass"],
    }
    environment = os.environ | {"SEARCHDB_HOME": str(home), "SEARCHDB_MODEL": "demo"}
    environment.pop("DATABASE_URL", None)
    cpu: dict[str, list[float]] = {name: [] for name in commands}

    def run(name: str) -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *commands[name]], env=environment, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    # Keeps the embedded server running, as in any program that searches more than once.
    with SearchDB(Settings(home=home, model="demo", database_url=None)) as collection:
        draw_album(home / "album", IMAGES)
        collection.ingest(album_items(home / "album"))
        collection.search(TEXT)
        seconds = interleaved(
            {name: lambda name=name: run(name) for name in commands}, QUICK_ROUNDS if quick else ROUNDS
        )
    cpu_ms = {name: 1000 * sorted(taken)[len(taken) // 2] for name, taken in cpu.items()}
    figures = {
        "cli_start_ms": seconds["searchdb --help"] * 1000,
        "cli_start_cpu_ms": cpu_ms["searchdb --help"],
        "cli_search_ms": seconds["searchdb search, cached"] * 1000,
        "cli_search_cpu_ms": cpu_ms["searchdb search, cached"],
    }
    shown = {name: f"{value * 1000:.0f} ms, {cpu_ms[name]:.0f} ms of it CPU time" for name, value in seconds.items()}
    return figures, table("start", shown)
