"""`make bench`: runs benchmarks, each in a process and with a database of its own; prints tables, writes JSON."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import ingest, plots, scale, search, stages, start, variants, web
from benchmarks.report import machine

Measured = tuple[dict[str, float], str]


BENCHMARKS: Mapping[str, Callable[..., Measured]] = {
    "start": start.measure,
    "ingest": ingest.measure,
    "search": search.measure,
    "stages": stages.measure,
    "web": web.measure,
    "variants": variants.measure,
    "scale": scale.measure,
    "search-large": search.measure_large,
}
"""Each takes a folder of its own, and `quick`; it returns figures and a table of them."""
QUICK = ("start", "ingest", "search", "web")
"""What a quick run measures unless told: what is compared with something else."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} [default: all]")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there, among those of earlier runs"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw them there")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}, only {', '.join(BENCHMARKS)}")
    print(machine(), end="\n\n", flush=True)
    figures: dict[str, Any] = {}
    if chosen.json and chosen.json.exists():
        figures = json.loads(chosen.json.read_text(encoding="utf-8"))
    for name in chosen.names or (QUICK if chosen.quick else BENCHMARKS):
        home = Path(tempfile.mkdtemp(prefix="sdb-"))
        try:
            # What one leaves behind in its process, such as OpenMP's threads, would slow the next.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                measured, shown = process.submit(BENCHMARKS[name], home, quick=chosen.quick).result()
        finally:
            shutil.rmtree(home, ignore_errors=True)
        figures |= {"machine": machine(), **measured}
        print(shown, end="\n\n", flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if chosen.plots:
        for path in plots.draw(figures, chosen.plots):
            print(path)


if __name__ == "__main__":
    main()
