"""Connecting to PostgreSQL: one-line errors, masked passwords, schema checks, safe migrations."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.connections import POOL_OVERFLOW, POOL_SIZE, Timeouts
from searchdb.db.database import Database, open_database
from searchdb.db.schema import SCHEMA_REVISION, migrate, schema_revision
from searchdb.errors import DatabaseError, DatabaseUnavailableError, SchemaError
from tests.helpers.waiting import GIVE_UP_S

ROOT = Path(__file__).parents[2]


def test_the_error_for_an_unreachable_server_is_one_line_without_password(tmp_path: Path) -> None:
    settings = Settings(database_url="postgresql://me:hunter2@127.0.0.1:9/db", home=tmp_path)
    with pytest.raises(DatabaseUnavailableError, match=r"127\.0\.0\.1") as caught:
        open_database(settings)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.url == "postgresql://me:***@127.0.0.1:9/db"


def test_a_database_that_does_not_exist_is_unavailable(settings: Settings) -> None:
    url = settings.url()
    assert url is not None
    missing = libpq_url(url.set(database="nowhere"))
    with pytest.raises(DatabaseUnavailableError, match='"nowhere" does not exist'):
        open_database(Settings(database_url=missing))


def test_a_statement_that_fails_is_our_error_with_its_code(database: Database) -> None:
    with database.connect() as connection, pytest.raises(DatabaseError, match="division by zero") as caught:
        connection.execute(sa.text("SELECT 1 / 0"))
    assert caught.value.sqlstate == "22012"


def test_after_a_vain_wait_for_a_connection_nobody_waits_until_one_is_free(settings: Settings) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(open_database(settings, Timeouts(pool=0.05)))
        held = [stack.enter_context(database.connect()) for _ in range(POOL_SIZE + POOL_OVERFLOW)]
        with pytest.raises(PoolTimeoutError):
            database.engine.connect()
        database.engine.pool._timeout = GIVE_UP_S  # type: ignore[attr-defined]  # what a vain wait would now take
        for _ in range(3):
            with pytest.raises(PoolTimeoutError, match="in use for a while"):
                database.engine.connect()
        held[0].close()
        stack.enter_context(database.connect())
        waiting = threading.Thread(target=lambda: stack.enter_context(database.connect()))
        waiting.start()  # now there is hope again: it waits
        held[1].close()
        waiting.join(GIVE_UP_S)
        assert not waiting.is_alive()


@pytest.mark.parametrize("opened", ["before", "after"])
def test_connections_that_threads_still_use_are_closed_when_they_come_back(settings: Settings, opened: str) -> None:
    database = open_database(settings)
    with ExitStack() as held:
        if opened == "after":
            database.close()
        connection = held.enter_context(database.engine.connect())
        driver = connection.connection.driver_connection
        assert driver is not None
        database.close()
        assert not driver.closed, "its statement goes on"
    assert driver.closed


def test_the_code_works_with_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_REVISION


def test_an_external_database_is_not_migrated_automatically(empty_settings: Settings) -> None:
    with pytest.raises(SchemaError, match="searchdb db migrate"):
        open_database(empty_settings)
    with Database(empty_settings) as database, database.connect() as connection:
        assert schema_revision(connection) is None


@pytest.mark.slow
def test_the_embedded_database_is_migrated_when_opened(short_home: Path) -> None:
    with open_database(Settings(home=short_home)) as database, database.connect() as connection:
        assert database.embedded
        assert schema_revision(connection) == SCHEMA_REVISION


def test_a_newer_schema_asks_for_a_newer_searchdb(settings: Settings) -> None:
    with Database(settings) as database:
        with database.begin() as connection:
            connection.execute(sa.text("UPDATE searchdb_version SET version_num = '9999'"))
        with pytest.raises(SchemaError, match="upgrade searchdb"):
            open_database(settings)
        with pytest.raises(SchemaError, match="upgrade searchdb"):
            migrate(database)


def test_concurrent_migrations(empty_settings: Settings) -> None:
    failures: list[BaseException] = []

    def migrate_once() -> None:
        try:
            with Database(empty_settings) as database:
                migrate(database)
        except BaseException as exc:  # noqa: BLE001 - any error must fail the test
            failures.append(exc)

    threads = [threading.Thread(target=migrate_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with open_database(empty_settings) as database, database.connect() as connection:
        assert schema_revision(connection) == SCHEMA_REVISION


def test_an_owner_without_superuser_rights_can_migrate_if_the_extension_exists(
    empty_settings: Settings, admin: sa.Engine
) -> None:
    url = empty_settings.url()
    assert url is not None
    with admin.connect() as connection:
        connection.execute(sa.text("DROP ROLE IF EXISTS plain_owner"))
        connection.execute(sa.text("CREATE ROLE plain_owner LOGIN"))
        connection.execute(sa.text(f"ALTER DATABASE {url.database} OWNER TO plain_owner"))
    plain = libpq_url(url.set(username="plain_owner"))
    with Database(Settings(database_url=plain)) as database, pytest.raises(DatabaseError, match="permission denied"):
        migrate(database)
    with Database(empty_settings) as database, database.begin() as connection:
        connection.execute(sa.text("CREATE EXTENSION vector"))
    with Database(Settings(database_url=plain)) as database:
        migrate(database)
        with database.connect() as connection:
            assert schema_revision(connection) == SCHEMA_REVISION
            assert connection.scalar(sa.text("SELECT current_user")) == "plain_owner"
