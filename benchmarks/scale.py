"""Do memory and rate stay constant while tens of thousands of images are ingested?

`searchdb ingest urls` runs in a separate process, on distinct images from a server on this machine, with the demo's
small CLIP. The database records when each chunk was done; the process's memory is sampled from outside. The second
quarter of the references is compared with the last, because the first includes loading the model and queueing the
references.
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
from benchmarks.server import image_server
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import ingest_chunks

REFERENCES, QUICK_REFERENCES = 50_000, 2_000
MILESTONES = (1_000, 10_000, 50_000)
"""Numbers of references at which the peak memory is reported: it should not grow with them."""
SAMPLE_S = 0.25
"""Seconds between two samples of the memory: several per quarter, even of a quick run."""
STALL_S = 120.0
"""A run without a finished chunk for this long counts as hung; the first chunk includes loading the model."""
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: `finished` holds (time, references done by then), `memory` (time, bytes), with times in Unix seconds."""

    seconds: float
    finished: Sequence[tuple[float, int]]
    memory: Sequence[tuple[float, int]]

    def quarters(self) -> list[float]:
        """Return the five times at which 0, 25, 50, 75 and 100 % of the references were done."""
        moments, done = zip(*self.finished, strict=True)
        return [float(moment) for moment in np.interp(np.linspace(0, done[-1], 5), (0, *done), (moments[0], *moments))]

    def rate(self, quarter: int) -> float:
        """Return the references per second in a quarter, 0 to 3."""
        begin, end = self.quarters()[quarter : quarter + 2]
        return self.finished[-1][1] / 4 / (end - begin)

    def resident(self, quarter: int) -> float:
        """Return the median memory in a quarter, 0 to 3, in bytes."""
        begin, end = self.quarters()[quarter : quarter + 2]
        return statistics.median(size for moment, size in self.memory if begin <= moment <= end)

    def peak(self, references: int) -> float:
        """Return the peak memory until this number of references was done, in bytes."""
        until = next(moment for moment, done in self.finished if done >= references)
        return max(size for moment, size in self.memory if moment <= until)


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and a table of them."""
    count = QUICK_REFERENCES if quick else REFERENCES
    with SearchDB(Settings(home=home, model="demo", database_url=None)) as collection, image_server() as url:
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
        "images/s": f"{figures['ingest_scale_rate']:.0f} overall, from the start of the command to its end",
        "by quarters": ", ".join(f"{run.rate(quarter):.0f}" for quarter in range(4)),
        "last / second quarter": f"{figures['ingest_scale_steadiness']:.2f}",
        "memory by quarters": ", ".join(f"{run.resident(quarter) / MIB:.0f}" for quarter in range(4)) + " MB",
        "last / second quarter's": f"{figures['ingest_scale_memory_growth']:.2f}",
        "peak memory until": ", ".join(
            f"{milestone:,} {run.peak(milestone) / MIB:.0f} MB" for milestone in MILESTONES if milestone <= count
        ),
    }
    return figures, table(f"scale, {count:,} images from a server on this machine, the demo's model", shown)


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
    # To files: a pipe that is not read would block the process.
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
                        raise RuntimeError(f"no chunk was finished for {STALL_S:g} seconds; see {log}")
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
    """Return the resident memory of a process in bytes; None once it has ended."""
    pages = Path(f"/proc/{pid}/statm")
    try:
        if pages.exists():
            return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return int(shown.stdout) * 1024 if shown.stdout.strip() else None
