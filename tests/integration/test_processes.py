"""Whole runs in processes of their own, as a user starts them: a hostile folder, two at once, one killed."""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.hostile_files import KINDS, make_hostile_folder
from tests.helpers.runs import QUICK_RECOVERY, Runs, age_heartbeat
from tests.helpers.waiting import GIVE_UP_S, until
from tests.integration.conftest import PHOTOS

MEMORY_LIMIT_KB = 2 * 1024 * 1024

SLOW = f"""{QUICK_RECOVERY}
import time
import searchdb.ingest.preparation

decode = searchdb.ingest.preparation.decode

def decode_slowly(fetched, **options):
    time.sleep(0.5)
    return decode(fetched, **options)

searchdb.ingest.preparation.decode = decode_slowly
"""
"""An ingest that cannot end before it is stopped."""


def references(collection: SearchDB) -> list[str]:
    """Every reference the database knows, stored or failed, sorted."""
    with collection.database.connect() as connection:
        return list(
            connection.scalars(
                sa.text("SELECT image FROM images UNION ALL SELECT image FROM ingest_failures ORDER BY image")
            )
        )


def test_every_file_of_a_hostile_folder_becomes_a_row_or_a_named_failure(
    settings: Settings, collection: SearchDB, tmp_path: Path
) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    made = make_hostile_folder(folder, count=2 * len(KINDS))
    # A new interpreter: the memory of a forked one has another beginning.
    assert settings.database_url is not None
    environment = os.environ | {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "SEARCHDB_HOME": str(settings.home),
        "SEARCHDB_MODEL": "demo",
    }
    line = [sys.executable, "-m", "searchdb", "ingest", "files", str(folder), "--json"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=GIVE_UP_S)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    failed = sum(report["failed"].values())
    assert report["stored"] + failed == len(made)
    assert collection.store.counts() == {"images": report["stored"], "failed": failed, "pending": 0}
    assert report["stored"] > len(KINDS) // 2
    assert failed > len(KINDS) // 2
    assert all(failure.message for failure in collection.store.failures())
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < MEMORY_LIMIT_KB


def test_two_ingests_of_one_folder_at_once_store_each_image_once(
    runs: Runs, collection: SearchDB, photos: Path
) -> None:
    both = [runs.start("ingest", "files", str(photos), "--json", "--chunk-size", "8") for _ in range(2)]
    for run in both:
        report = run.report()
        assert report["stored"] + report["unchanged"] == PHOTOS
    assert len(references(collection)) == len(set(references(collection))) == PHOTOS


def test_the_next_run_completes_what_stopped_ones_began(runs: Runs, collection: SearchDB, photos: Path) -> None:
    command = ("ingest", "files", str(photos), "--chunk-size", "4")
    stored = 0
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        run = runs.start(*command, before=SLOW)
        until(functools.partial(lambda least: collection.store.counts()["images"] >= least, stored + 8), "images")
        run.send(how)
        status = run.wait()
        stored = collection.store.counts()["images"]
        assert stored < PHOTOS
        if how == signal.SIGKILL:
            age_heartbeat(collection, run)
        else:
            assert status not in (0, -how)
            assert "images are stored" in run.stderr
    report = runs.start("ingest", "files", str(photos), "--json", before=QUICK_RECOVERY).report()
    assert (report["stored"], report["unchanged"]) == (PHOTOS - stored, stored)
    assert len(references(collection)) == PHOTOS


def test_a_stopped_run_leaves_the_embedded_server_to_the_others(
    short_home: Path, tmp_path: Path, album: Path, embedder: CLIPEmbedder
) -> None:
    """`kill -9` of one process must not stop the server that another uses."""
    settings = Settings(home=short_home, model="demo")
    with SearchDB(settings) as collection, Runs(settings, tmp_path) as runs:
        collection.embedder = embedder
        stopped = runs.start("ingest", "files", str(album), "--chunk-size", "4")
        while collection.store.counts()["images"] < 4:
            assert stopped.process.poll() is None
            time.sleep(0.02)
        stopped.process.kill()
        stopped.process.wait()
        assert collection.store.counts()["images"] >= 4
        assert len(collection.search("a dog", threshold=-1, count=3)) == 3
