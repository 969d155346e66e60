"""The status page: what it tells, and what it keeps to itself."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from flask.testing import FlaskClient

from searchdb.client import SearchDB
from searchdb.config import UPLOADS, Settings
from searchdb.db.database import Database, open_database
from searchdb.db.tables import folder_watches, ingest_failures
from searchdb.media.bounded_folder import BoundedFolder
from searchdb.media.embed import CLIPEmbedder
from searchdb.search.query_cache import QueryCache
from searchdb.status import collection_status
from searchdb.watch.registry import Registration, WatchState, WatchStatus, read_watches
from tests.helpers.waiting import until
from web.page.status import bars

if TYPE_CHECKING:
    from tests.helpers.stored_images import StoredImages


def watches(database: Database) -> list[WatchStatus]:
    with database.connect() as connection:
        return read_watches(connection)


def fail(database: Database, image: str, error: str) -> None:
    row = {"image": image, "source": "files", "error": error, "message": f"{image} is bad", "retryable": False}
    with database.begin() as connection:
        connection.execute(sa.insert(ingest_failures).values(row))


def test_status_shows_counts_failures_by_cause_and_the_index(
    client: FlaskClient, stored_images: StoredImages, database: Database
) -> None:
    stored_images.add("a red boat")
    for n in range(3):
        fail(database, f"/home/anna/secret/{n}.jpg", "NotAnImageError")
    fail(database, "/home/anna/x.jpg", "<script>")
    page = client.get("/status").get_data(as_text=True)
    assert "<dt>image</dt><dd>1</dd>" in page
    assert "<dt>failed</dt><dd>4</dd>" in page
    assert "<dt>3</dt><dd>NotAnImageError" in page
    assert "The content is not in an image format that searchdb reads" in page
    assert "one list: every search is exact" in page
    assert "&lt;script&gt;" in page


def test_responses_reveal_nothing_of_the_server(
    client: FlaskClient, stored_images: StoredImages, database: Database
) -> None:
    stored_images.add("a red boat")
    fail(database, "/home/anna/secret/1.jpg", "NotAnImageError")
    page = client.get("/status").get_data(as_text=True)
    for private in ("anna", "secret", str(stored_images.folder), "postgresql://", "the private folder"):
        assert private not in page


def test_watched_folders_are_shown_by_name(client: FlaskClient, database: Database) -> None:
    problem = "/home/anna/secret/Photos does not exist"
    with Registration(database.engine, ["/home/anna/secret/Photos", "/mnt/Scans"]) as registration:
        registration.update(WatchState(waiting=2, problem=problem))
        until(lambda: watches(database)[0].problem == problem, "the record")
        page = client.get("/status").get_data(as_text=True)
    for shown in ("Watched folders", "<dt>Photos</dt>", "<dt>Scans</dt>", "not followed at the moment", "2 files are"):
        assert shown in page
    for private in ("anna", "secret", "/mnt", "does not exist", socket.gethostname()):
        assert private not in page.partition("Watched folders")[2].partition("</section>")[0]


def test_a_lost_watch_is_shown_for_a_day(client: FlaskClient, database: Database) -> None:
    with database.begin() as connection:
        row = {"host": "h", "pid": 1, "paths": ["/Photos"], "polling": False}
        ago = sa.text("now() - interval '2 minutes'")
        connection.execute(sa.insert(folder_watches).values(row | {"seen_at": ago}))
    assert [watch.lost for watch in watches(database)] == [True]
    assert "lost: its watch has ended" in client.get("/status").get_data(as_text=True)
    with database.begin() as connection:
        connection.execute(sa.update(folder_watches).values(seen_at=sa.text("now() - interval '2 days'")))
    assert watches(database) == []


def test_what_takes_space_is_shown(
    client: FlaskClient, collection: SearchDB, settings: Settings, embedder: CLIPEmbedder
) -> None:
    BoundedFolder(settings.home / UPLOADS, 10**9).write(settings.home / UPLOADS / "ab" / "abc.jpg", b"x" * 3_000_000)
    with collection.database.connect() as connection:
        QueryCache(embedder).embed(connection, ["a boat", "a tree"])
    space = {use.name: use for use in collection.status().space}
    assert space.keys() == {"uploads", "thumbnails", "cached texts", "database"}
    assert space["uploads"].bytes == 3_002_368
    assert space["uploads"].limit == settings.max_uploads_bytes
    assert 5_000 < space["cached texts"].bytes < 6_000
    assert space["thumbnails"].bytes == 0
    assert space["database"].bytes > 1_000_000
    page = client.get("/status").get_data(as_text=True)
    assert "<dt>uploads</dt><dd>3.0 of 10,737.4 MB</dd>" in page
    (settings.home / "uploads.total").unlink()  # as after an upgrade
    assert {use.name: use.bytes for use in collection.status().space}["uploads"] == 3_002_368


def test_an_embedded_server_shows_its_logs(short_home: Path) -> None:
    settings = Settings(database_url=None, home=short_home)
    with open_database(settings) as database:
        space = {use.name: use for use in collection_status(database, settings).space}
    assert 0 < space["server's log"].bytes < (space["server's log"].limit or 0) == 10 * 2**20
    assert 16 * 2**20 <= space["write-ahead log"].bytes < (space["write-ahead log"].limit or 0) == 2**30


def test_an_empty_collection_has_a_status(client: FlaskClient) -> None:
    page = client.get("/status").get_data(as_text=True)
    assert "<dt>images</dt><dd>0</dd>" in page
    assert "No searches yet" in page


def test_both_curves_are_plotted(demo_client: FlaskClient) -> None:
    demo_client.get("/?q=a+boat+near+a+pier")
    page = demo_client.get("/status").get_data(as_text=True)
    assert page.count('class="plot"') == 2
    assert "300 in the last run" in page


def test_bars_are_in_percent_of_the_highest() -> None:
    assert [(bar.x, bar.height) for bar in bars([1.0, 0.0, 4.0])] == [(0, 25.0), (2, 100.0)]
    assert bars([]) == bars([0.0]) == []
