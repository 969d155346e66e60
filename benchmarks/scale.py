"""Do memory and rate stay as they are while tens of thousands of pictures come in?

`searchdb ingest urls` runs as a user runs it, in a process of its own, on distinct pictures from a server on this
machine, with the demo's small CLIP. When each chunk was done is in the database; the process's memory is looked at
from outside. The second quarter of the references is compared with the last: in the first, the model is loaded and the
references are being queued.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from benchmarks.report import table
from benchmarks.server import picture_server
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import ingest_chunks

REFERENCES, QUICK_REFERENCES = 50_000, 2_000
MILESTONES = (1_000, 10_000, 50_000)
"""References until which the largest memory is told: it shall not grow with what has been done."""
SAMPLE_S = 0.25
"""Between two looks at the memory: even a quick run's quarters get several."""
STALL_S = 120.0
"""Without a finished chunk for so long the run is taken to hang; the first one includes loading the model."""
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: `finished` are (moment, references done by then), `memory` (moment, bytes), moments in Unix time."""

    seconds: float
    finished: Sequence[tuple[float, int]]
    memory: Sequence[tuple[float, int]]

    def quarters(self) -> list[float]:
        """Return the five moments that lie around the quarters: when 0, 25, 50, 75 and 100 % were done."""
        moments, done = zip(*self.finished, strict=True)
        return [float(moment) for moment in np.interp(np.linspace(0, done[-1], 5), (0, *done), (moments[0], *moments))]

    def rate(self, quarter: int) -> float:
        """Return the references a second in a quarter, 0 to 3."""
        begin, end = self.quarters()[quarter : quarter + 2]
        return self.finished[-1][1] / 4 / (end - begin)

    def resident(self, quarter: int) -> float:
        """Return the median memory in a quarter, 0 to 3, in bytes."""
        begin, end = self.quarters()[quarter : quarter + 2]
        return statistics.median(size for moment, size in self.memory if begin <= moment <= end)

    def peak(self, references: int) -> float:
        """Return the largest memory until so many references were done, in bytes."""
        until = next(moment for moment, done in self.finished if done >= references)
        return max(size for moment, size in self.memory if moment <= until)


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and a table of them."""
    count = QUICK_REFERENCES if quick else REFERENCES
    with SearchDB(Settings(home=home, model="demo", database_url=None)) as collection, picture_server() as url:
        references = home / "references.txt"
        references.write_text("".join(f"{url}/{n}.jpg\n" for n in range(count)), encoding="utf-8")
        run = _ingest(collection, references)
        counts = collection.store.counts()
    if counts != {"images": count, "failed": 0, "pending": 0}:
        raise RuntimeError(f"of {count:,} references there are {counts}")
    figures = {
        "ingest_scale_references": float(count),
        "ingest_scale_rate": count / run.seconds,
        "ingest_scale_steadiness": run.rate(3) / run.rate(1),
        "ingest_scale_memory_growth": run.resident(3) / run.resident(1),
        **{
            f"ingest_peak_mib_{milestone // 1000}k": run.peak(milestone) / MIB
            for milestone in MILESTONES
            if milestone <= count
        },
    }
    shown = {
        "pictures/s": f"{figures['ingest_scale_rate']:.0f} in all, from the command's start to its end",
        "by quarters": ", ".join(f"{run.rate(quarter):.0f}" for quarter in range(4)),
        "last / second quarter": f"{figures['ingest_scale_steadiness']:.2f}",
        "memory by quarters": ", ".join(f"{run.resident(quarter) / MIB:.0f}" for quarter in range(4)) + " MB",
        "last / second quarter's": f"{figures['ingest_scale_memory_growth']:.2f}",
        "memory at most until": ", ".join(
            f"{milestone:,} {run.peak(milestone) / MIB:.0f} MB" for milestone in MILESTONES if milestone <= count
        ),
    }
    return figures, table(f"scale, {count:,} pictures from a server on this machine, the demo's model", shown)


def _ingest(collection: SearchDB, references: Path) -> Run:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | {
        "SEARCHDB_HOME": str(collection.settings.home),
        "SEARCHDB_MODEL": "demo",
        "SEARCHDB_ALLOW_PRIVATE_ADDRESSES": "1",
    }
    command = [sys.executable, "-m", "searchdb", "ingest", "urls", str(references), "--json"]
    report, log = references.with_suffix(".json"), references.with_suffix(".log")
    memory: list[tuple[float, int]] = []
    began = time.perf_counter()
    # Into files: a pipe that nobody empties would stop it.
    with (
        report.open("w") as out,
        log.open("w") as err,
        subprocess.Popen(command, env=environment, stdout=out, stderr=err) as process,
    ):
        try:
            alive, looked = time.monotonic(), 0
            while process.poll() is None:
                if size := _resident(process.pid):
                    memory.append((time.time(), size))
                if time.monotonic() - alive > STALL_S:
                    chunks = len(_finished(collection))
                    if chunks == looked:
                        raise RuntimeError(f"nothing was finished for {STALL_S:g} seconds; see {log}")
                    alive, looked = time.monotonic(), chunks
                time.sleep(SAMPLE_S)
        finally:
            process.kill()
    seconds = time.perf_counter() - began
    if process.returncode != 0 or json.loads(report.read_text())["failed"]:
        raise RuntimeError(f"the run ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Run(seconds=seconds, finished=_finished(collection), memory=memory)


def _finished(collection: SearchDB) -> list[tuple[float, int]]:
    done = sa.func.sum(ingest_chunks.c.stored).over(order_by=(ingest_chunks.c.finished_at, ingest_chunks.c.id))
    statement = sa.select(sa.func.extract("epoch", ingest_chunks.c.finished_at), done).order_by(done)
    with collection.database.connect() as connection:
        return [(float(moment), int(count)) for moment, count in connection.execute(statement)]


def _resident(pid: int) -> int | None:
    """Return the bytes of memory that a process occupies, None once it has ended."""
    pages = Path(f"/proc/{pid}/statm")
    try:
        if pages.exists():
            return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return int(shown.stdout) * 1024 if shown.stdout.strip() else None
