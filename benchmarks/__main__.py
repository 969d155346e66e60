"""`make bench`: runs every benchmark on a database of its own, prints tables, and writes JSON if asked."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from benchmarks import ingest, search, start
from searchdb.collection import SearchDB
from searchdb.config import Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    chosen = parser.parse_args()
    figures: dict[str, float] = {}
    home = Path(tempfile.mkdtemp(prefix="sdb-"))
    try:
        with SearchDB(Settings(home=home, model="demo", database_url=None)) as collection:
            parts = [
                lambda: start.measure(),
                lambda: ingest.measure(collection, home / "album", quick=chosen.quick),
                lambda: search.measure(collection.database, quick=chosen.quick),
            ]
            for part in parts:
                measured, shown = part()
                figures |= measured
                print(shown, end="\n\n", flush=True)
                collection.store.delete_source("files")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
