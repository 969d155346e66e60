"""Behind PgBouncer in transaction mode, where every transaction may run in another server process."""

from __future__ import annotations

import configparser
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.connections import Timeouts, behind_pooler
from searchdb.db.database import Database, open_database
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.user_sql import run_sql
from searchdb.errors import DatabaseError, DatabaseUnavailableError
from searchdb.ingest.store import Store
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.cli import output, run
from tests.helpers.pgbouncer import pgbouncer, through
from tests.helpers.waiting import GIVE_UP_S
from web import create_app
from web.backend import EXTENSION, TIMEOUTS

THREADS = 12
REQUESTS = 300


@pytest.fixture(scope="module")
def bouncer(server: EmbeddedServer) -> Iterator[Path]:
    with pgbouncer(server) as folder:
        yield folder


@pytest.fixture
def pooled(bouncer: Path, settings: Settings) -> Settings:
    return through(bouncer, settings)


def test_the_documented_configuration(server: EmbeddedServer, settings: Settings) -> None:
    """With our own socket and accounts."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    (block,) = [each for each in re.findall(r"```ini\n(.*?)```", page, re.DOTALL) if "[pgbouncer]" in each]
    options = configparser.ConfigParser()
    options.read_string(block)
    assert options["pgbouncer"]["pool_mode"] == "transaction"
    kept = (f"{name} = {options['pgbouncer'][name]}" for name in ("default_pool_size", "max_client_conn"))
    with pgbouncer(server, "\n".join(kept)) as folder, open_database(through(folder, settings)) as database:
        assert database.behind_pooler


def test_a_direct_connection_prepares_statements_unless_that_is_off(settings: Settings) -> None:
    with Database(settings) as database:
        assert not database.behind_pooler
        assert database.driver_arguments()["prepare_threshold"] == 5
    with Database(settings.model_copy(update={"prepared_statements": "off"})) as database:
        assert not database.behind_pooler
        assert database.driver_arguments()["prepare_threshold"] is None
        with database.connect() as connection:
            for _ in range(10):
                connection.execute(sa.text("SELECT 1"))
            assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar() == 0


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_pooler_is_detected(server: EmbeddedServer, settings: Settings, mode: str) -> None:
    with pgbouncer(server, mode=mode) as folder, open_database(through(folder, settings)) as database:
        assert database.behind_pooler
        assert database.driver_arguments()["prepare_threshold"] is None


def test_no_request_fails(
    bouncer: Path, demo_settings: Settings, embedder: CLIPEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a request may wait for more than a second for a connection.
    monkeypatch.setattr("web.backend.TIMEOUTS", replace(TIMEOUTS, pool=GIVE_UP_S, statement=GIVE_UP_S))
    app = create_app(through(bouncer, demo_settings), embedder=embedder)
    app.testing = True
    paths = ("/?q=a+boat", "/api/search?q=a+red+car", "/images/5", "/?q=snow&tag=boat", "/api/random", "/status")

    def ask(number: int) -> tuple[str, int]:
        path = paths[number % len(paths)]
        return path, app.test_client().get(path).status_code

    # Fill the caches first: concurrent requests for a value that is not cached yet may get 503 on a busy machine.
    answers = [ask(number) for number in range(len(paths))]
    with ThreadPoolExecutor(THREADS) as pool:
        answers += pool.map(ask, range(REQUESTS))
    app.extensions[EXTENSION].close()
    assert {answer for answer in answers if answer[1] != 200} == set()


def test_a_collection_is_filled_searched_and_emptied(pooled: Settings, album: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in sorted(album.glob("*.jpg"))[:8]:
        shutil.copy(image, folder)
    (folder / "bad.jpg").write_text("bad")
    assert "the schema is at" in run(pooled, "db", "migrate").stderr
    assert run(pooled, "ingest", "files", folder, "--json", "--enqueue-only").exit_code == 0
    assert '"stored": 8' in output(run(pooled, "worker", "--drain", "--json"))
    assert "images    8" in output(run(pooled, "status"))
    assert "0.jpg" in output(run(pooled, "search", "a boat", "--count", "8"))
    assert run(pooled, "sql", "SELECT * FROM search_images('a red car', -1, 3)").exit_code == 0
    assert "cleared 1" in run(pooled, "failures", "clear").stderr


def test_the_extension_may_be_in_another_schema(bouncer: Path, empty_settings: Settings, album: Path) -> None:
    """The search_path of one transaction does not hold in the next."""
    with Database(empty_settings) as database, database.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA extensions")
        connection.exec_driver_sql("CREATE EXTENSION vector SCHEMA extensions")
    pooled = through(bouncer, empty_settings)
    assert "the schema is at" in run(pooled, "db", "migrate").stderr
    stored = json.loads(output(run(pooled, "ingest", "files", album, "--limit", "9", "--json")))["stored"]
    assert stored
    with open_database(pooled) as database:
        for _ in range(5):
            with database.begin() as connection:
                assert len(connection.exec_driver_sql("SELECT embedding <=> embedding FROM images").all()) == stored
    assert run(pooled, "search", "a boat").exit_code == 0
    refused = run(pooled, "index", "build", "--lists", "2")
    assert refused.exit_code == 1
    assert "SET search_path = public, extensions" in refused.stderr


def test_the_time_limit_is_that_of_a_transaction(pooled: Settings) -> None:
    """Set for the session, it would reach another client of the same server process."""
    with open_database(pooled, Timeouts(statement=0.2, lock=0.1)) as limited, open_database(pooled) as unlimited:
        for _ in range(5):
            with limited.begin() as connection:
                assert connection.scalar(sa.text("SHOW statement_timeout")) == "200ms"
                assert connection.scalar(sa.text("SHOW lock_timeout")) == "100ms"
            with unlimited.begin() as connection:
                assert connection.scalar(sa.text("SHOW statement_timeout")) == "0"
                assert connection.scalar(sa.text("SHOW lock_timeout")) == "0"
        assert list(Store(limited.engine).failures()) == []
        with limited.connect() as connection, pytest.raises(DatabaseError) as caught:
            connection.execute(sa.text("SELECT pg_sleep(10)"))
        assert caught.value.sqlstate == "57014"


def test_an_index_is_built_and_its_lock_and_settings_stay_with_the_build(pooled: Settings, settings: Settings) -> None:
    with SearchDB(pooled) as collection:
        built = collection.build_index(lists=3)
        assert built is not None
        assert (built.lists, built.valid, built.building) == (3, True, None)
    with Database(settings) as direct, direct.connect() as connection:
        held = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' "
        assert connection.exec_driver_sql(f"{held} AND datname = current_database()").scalar() == 0
    with Database(pooled) as database:
        for _ in range(5):
            with database.connect() as connection:
                assert connection.scalar(sa.text("SHOW maintenance_work_mem")) == "64MB"


def test_one_build_at_a_time(pooled: Settings, database: Database) -> None:
    from searchdb.index.status import BUILD_LOCK_KEY

    with SearchDB(pooled) as collection:
        with database.begin() as other:
            other.execute(sa.select(sa.func.pg_advisory_xact_lock(BUILD_LOCK_KEY)))
            assert collection.build_index(lists=3) is None
        assert collection.build_index(lists=3) is not None


def test_a_users_statement_is_a_single_one(pooled: Settings) -> None:
    with open_database(pooled) as database:
        for _ in range(20):
            with database.connect() as connection:
                assert behind_pooler(connection)
                assert run_sql(connection, "SELECT 1 AS one, '50%' AS half").rows == [(1, "50%")]
            with database.connect() as connection, pytest.raises(DatabaseError, match="only one statement"):
                run_sql(connection, "COMMIT; DELETE FROM images")


def test_a_refused_startup_parameter_is_explained(bouncer: Path, pooled: Settings) -> None:
    url = pooled.url()
    assert url is not None
    options = Settings(database_url=f"{libpq_url(url)}&options=-cjit%3Doff")
    with pytest.raises(DatabaseUnavailableError, match=r"options .*ignore_startup_parameters"):
        open_database(options)
    assert bouncer.exists()


def test_a_startup_parameter_that_pgbouncer_ignores(server: EmbeddedServer, settings: Settings) -> None:
    with pgbouncer(server, "ignore_startup_parameters = options") as folder:
        url = through(folder, settings).url()
        assert url is not None
        with open_database(Settings(database_url=f"{libpq_url(url)}&options=-cjit%3Doff")) as database:
            assert database.behind_pooler
