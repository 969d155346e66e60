"""Runs benchmarks for `make bench`, each in a separate process with a separate database; prints tables, writes JSON."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import (
    attack,
    change,
    ingest,
    million,
    plots,
    quality,
    scale,
    search,
    stages,
    start,
    variants,
    video,
    web,
)
from benchmarks.report import machine

Measured = tuple[dict[str, float], str]


BENCHMARKS: Mapping[str, Callable[..., Measured]] = {
    "start": start.measure,
    "ingest": ingest.measure,
    "search": search.measure,
    "stages": stages.measure,
    "web": web.measure,
    "video": video.measure,
    "attack": attack.measure,
    "variants": variants.measure,
    "scale": scale.measure,
    "change": change.measure,
    "search-large": search.measure_large,
    "million": million.measure,
}
"""Each takes an empty folder and `quick`, and returns figures and a table of them."""
QUICK = ("start", "ingest", "search", "web")
"""The default of a quick run: the benchmarks that compare searchdb with something else."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(BENCHMARKS)} [default: all]; or quality FILE.npz..., which measures your own vectors",
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--rows", type=int, metavar="N", help="images of the benchmark million [default: 1,000,000]")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="update this file with the figures; those of other benchmarks stay"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write plots to this folder")
    chosen = parser.parse_args()
    if chosen.names[:1] == ["quality"]:
        sys.exit(quality.main(chosen.names[1:]))
    if unknown := [name for name in chosen.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    print(machine(), end="\n\n", flush=True)
    figures: dict[str, Any] = {}
    if chosen.json and chosen.json.exists():
        figures = json.loads(chosen.json.read_text(encoding="utf-8"))
    for name in chosen.names or (QUICK if chosen.quick else BENCHMARKS):
        home = Path(tempfile.mkdtemp(prefix="sdb-"))
        try:
            # A separate process each: leftovers such as OpenMP's threads would slow down the next benchmark.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                sizes = {"rows": chosen.rows} if name == "million" else {}
                measured, shown = process.submit(BENCHMARKS[name], home, quick=chosen.quick, **sizes).result()
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
