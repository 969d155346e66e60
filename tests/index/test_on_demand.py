"""A collection that was filled by COPY gets its index when searches meet it: in the background, and by its owner."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from searchdb.client import LONG_LIVED_S, SearchDB
from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.tables import ingest_pending, procrastinate_workers, relevance_scale
from searchdb.errors import DatabaseError
from searchdb.index.on_demand import CHECK_EVERY_S, FAILED_PAUSE_S, IndexWatch, rebuild_on_demand
from searchdb.index.status import IndexStatus, index_status
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.cli import run
from tests.helpers.vectors import clustered
from web import create_app
from web.backend import EXTENSION

pytestmark = pytest.mark.usefixtures("quick_graphs")


def copy_rows(database: Database, embedder: CLIPEmbedder, rows: int = 1000) -> None:
    """Store images by COPY, as a person with psql does."""
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO embedding_models (name, weights_sha256, current) VALUES (%s, %s, true)",
            (embedder.identity.name, embedder.identity.weights_sha256),
        )
        model = connection.exec_driver_sql("SELECT id FROM embedding_models").scalar_one()
        driver = connection.connection.driver_connection
        assert driver is not None
        columns = "image, source, embedding, embedding_model_id, sha256, width, height, byte_size"
        with driver.cursor() as cursor, cursor.copy(f"COPY images ({columns}) FROM STDIN") as copy:
            for number, vector in enumerate(clustered(rows)):
                copy.write_row((f"/{number}", "copied", str(vector.tolist()), model, b"", 1, 1, 1))


def state_of(database: Database) -> IndexStatus:
    with database.begin() as connection:
        return index_status(connection)


def test_the_page_builds_the_index_at_the_first_search(
    database: Database, settings: Settings, embedder: CLIPEmbedder
) -> None:
    copy_rows(database, embedder)
    assert state_of(database).stale
    app = create_app(settings, embedder=embedder)
    backend = app.extensions[EXTENSION]
    assert app.test_client().get("/?q=a+dog&threshold=-1").status_code == 200
    backend.index_watch.rebuilder.join()
    state = state_of(database)
    assert (state.stale, state.method, state.rows_at_build, state.tuned_since_build) == (False, "hnsw", 1000, True)
    with database.begin() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(relevance_scale)) == 1
    backend.close()


def test_searches_check_once_in_a_while(database: Database) -> None:
    now, checks = 100.0, 0

    def check(_engine: sa.Engine) -> bool:
        nonlocal checks
        checks += 1
        return False

    watch = IndexWatch(after_s=50, clock=lambda: now)
    for now, expected in ((100, 0), (149, 0), (150, 1), (151, 1), (150 + CHECK_EVERY_S, 2)):
        watch.searched(database.engine, check)
        watch.rebuilder.join()
        assert checks == expected, now


def test_a_failed_build_is_not_repeated_at_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    now, checks = 0.0, 0

    def fail(_engine: sa.Engine) -> bool:
        nonlocal checks
        checks += 1
        raise DatabaseError("could not extend file: no space left on device")

    watch = IndexWatch(clock=lambda: now)
    for now, expected in ((0, 1), (CHECK_EVERY_S, 1), (FAILED_PAUSE_S, 2)):
        watch.searched(database.engine, fail)
        watch.rebuilder.join()
        assert checks == expected, now
    assert "the vector index was not rebuilt: could not extend file" in caplog.text


def test_a_program_builds_it_only_if_it_is_long_lived(
    database: Database, settings: Settings, embedder: CLIPEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_rows(database, embedder)
    now = 0.0
    watches: list[IndexWatch] = []

    def make(*, after_s: float) -> IndexWatch:
        watches.append(IndexWatch(after_s=after_s, clock=lambda: now))
        return watches[0]

    monkeypatch.setattr("searchdb.client.IndexWatch", make)
    with SearchDB(settings) as collection:
        for now, stale in ((0.0, True), (LONG_LIVED_S, False)):  # noqa: B007 - the clock reads it
            collection.search("a dog", threshold=-1)
            watches[0].rebuilder.join()
            assert state_of(database).stale == stale


def test_one_search_by_the_command_line_says_what_to_do(
    database: Database, settings: Settings, embedder: CLIPEmbedder
) -> None:
    copy_rows(database, embedder)
    result = run(settings, "search", "a dog", "--threshold", "-1", "--json")
    assert result.exit_code == 0
    assert "does not fit the 1,000 images: run `searchdb index build`" in result.stderr
    assert "index build" not in result.stdout
    assert state_of(database).stale


def test_an_ingest_at_work_builds_it_itself(database: Database, embedder: CLIPEmbedder) -> None:
    copy_rows(database, embedder)
    with database.begin() as connection:
        connection.execute(sa.insert(ingest_pending).values(image="/x", source="files", item={}, job_id=1, run_ids=[]))
        connection.execute(sa.insert(procrastinate_workers).values(last_heartbeat=sa.func.now()))
    assert not rebuild_on_demand(database.engine)
    assert state_of(database).stale
    with database.begin() as connection:  # the worker has died
        connection.execute(
            sa.update(procrastinate_workers).values(last_heartbeat=sa.func.now() - sa.text("interval '1 minute'"))
        )
    assert rebuild_on_demand(database.engine)
    assert not state_of(database).stale


def test_nothing_is_tried_on_a_read_only_database(
    database: Database, settings: Settings, embedder: CLIPEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    copy_rows(database, embedder)
    with database.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {database.url.database} SET default_transaction_read_only = on")
    with Database(settings) as standby:
        assert not rebuild_on_demand(standby.engine)
    assert caplog.text == ""
