"""The embedded server on a disk that is really full: searches work, an ingest ends with one line and goes on later."""

from __future__ import annotations

from pathlib import Path

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.full_disk import fill, small_disk
from tests.helpers.runs import Runs

MEGABYTES = 150


def test_an_ingest_onto_a_full_disk(short_home: Path, tmp_path: Path, album: Path, embedder: CLIPEmbedder) -> None:
    settings = Settings(home=short_home, model="demo")
    ingest = ("ingest", "files", str(album), "--limit", "60", "--chunk-size", "16", "--json")
    with small_disk(short_home, MEGABYTES), SearchDB(settings) as collection, Runs(settings, tmp_path) as runs:
        collection.embedder = embedder
        collection.ingest_files(album, limit=20)
        before = collection.store.counts()
        filler = fill(short_home)
        assert len(collection.search("a text that nobody has searched for", threshold=-1, count=3)) == 3
        run = runs.start(*ingest)
        assert run.wait() == 1
        [error] = [line for line in run.stderr.splitlines() if line.startswith("Error:")]
        assert "No space left on device" in error
        assert "Free some space on the database's machine" in error
        assert len(collection.search("another text that nobody has searched for", threshold=-1, count=3)) == 3
        assert collection.store.counts()["images"] >= before["images"]
        filler.unlink()
        report = runs.start(*ingest).report()
        assert report["done"] == report["total"] == 60
        counts = collection.store.counts()
        assert (counts["images"] + counts["failed"], counts["pending"]) == (60, 0)
