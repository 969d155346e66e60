"""The embedded server's reader: what a statement, a condition and the page may do, and how its role is repaired."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from searchdb.cli import cli
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db import user_sql
from searchdb.db.database import Database, open_database
from searchdb.db.driver_errors import QUERY_CANCELED
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.embedded_programs import program_path
from searchdb.db.embedded_reader import READER
from searchdb.db.reading import traceless
from searchdb.db.user_sql import run_sql
from searchdb.errors import DatabaseError, QueryError
from searchdb.repair import repair
from searchdb.search.filters import Filters
from tests.helpers.album import copy_album
from web import create_app
from web.backend import EXTENSION

FOLDER = "{folder}"

ATTACKS = (
    # programs and files of the server
    f"COPY (SELECT 1) TO PROGRAM 'touch {FOLDER}/made'",
    f"COPY (SELECT 1) TO '{FOLDER}/made'",
    "COPY images FROM PROGRAM 'true'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_read_binary_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT * FROM pg_stat_file('PG_VERSION')",
    "SELECT * FROM pg_ls_logdir()",
    "SELECT * FROM pg_ls_waldir()",
    "SELECT pg_current_logfile()",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT * FROM pg_file_settings",
    "SHOW data_directory",
    "SHOW config_file",
    f"SELECT lo_export(1, '{FOLDER}/made')",
    "SELECT lo_import('/etc/passwd')",
    "LOAD '$libdir/vector'",
    "CREATE EXTENSION file_fdw",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    # the server's administration
    "SELECT pg_create_physical_replication_slot('mine')",
    "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
    "SELECT pg_reload_conf()",
    "SELECT pg_stat_reset()",
    "SELECT pg_stat_reset_shared('io')",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_promote()",
    "SELECT pg_backup_start('mine')",
    "SELECT pg_log_backend_memory_contexts(pg_backend_pid())",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "SET temp_file_limit = -1",
    "CHECKPOINT",
    "VACUUM images",
    "REINDEX TABLE images",
    # another role
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SELECT set_config('role', 'postgres', false)",
    "SELECT set_config('session_authorization', 'postgres', false)",
    "DO $$ BEGIN SET ROLE postgres; END $$",
    "DO $$ BEGIN COMMIT; SET ROLE postgres; END $$",
    "CREATE ROLE mine",
    f"ALTER ROLE {READER} SUPERUSER",
    f"ALTER ROLE {READER} PASSWORD 'mine'",
    f"ALTER ROLE {READER} SET default_transaction_read_only = off",
    f"GRANT pg_write_all_data TO {READER}",
    # the data
    "INSERT INTO images (image) VALUES ('mine')",
    "DELETE FROM images",
    "TRUNCATE images",
    "WITH gone AS (DELETE FROM images RETURNING id) SELECT * FROM gone",
    "EXPLAIN ANALYZE DELETE FROM images",
    "SELECT * FROM images FOR UPDATE",
    "LOCK TABLE images IN ACCESS EXCLUSIVE MODE",
    "SELECT setval('images_id_seq', 1)",
    "SELECT nextval('images_id_seq')",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'mine')",
    "SELECT query_to_xml('DELETE FROM images RETURNING id', true, true, '')",
    "DO $$ BEGIN DELETE FROM images; END $$",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SET TRANSACTION READ WRITE",
    "CREATE TABLE mine (n int)",
    "CREATE TEMPORARY TABLE mine (n int)",
    "SELECT 1 AS n INTO TEMPORARY mine",
    "CREATE VIEW mine AS SELECT 1",
    "DROP TABLE images",
    "COMMENT ON TABLE images IS 'mine'",
    "ALTER FUNCTION match_images SET ivfflat.probes = 1",
    "REFRESH MATERIALIZED VIEW images",
    "COMMIT; DELETE FROM images",
    "ROLLBACK; SET ROLE postgres",
)
"""What a superuser can do with one statement, or could if it were not in a read-only transaction."""
TRANSACTION_REFUSES = (
    f"ALTER ROLE {READER} PASSWORD",
    f"ALTER ROLE {READER} SET",
    "SELECT lo_create",
    "SELECT lo_from_bytea",
    "SELECT set_config('transaction_read_only'",
    "SET TRANSACTION READ WRITE",
)
"""Every role may do these, but not in a read-only transaction."""
TRACELESS = (
    "SELECT pg_advisory_lock(7)",
    "SELECT pg_advisory_lock(7) FROM nowhere",
    "SELECT pg_notify('mine', '')",
    "NOTIFY mine",
    "LISTEN mine",
    "SET work_mem = '1GB'",
    "SET default_transaction_read_only = off",
    "SELECT set_config('default_transaction_read_only', 'off', false)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "COMMIT",
    "ROLLBACK",
    "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
    "COMMIT AND CHAIN",
    "LOCK TABLE images IN ACCESS SHARE MODE",
)
"""What everyone may do in a read-only transaction, and would stay."""


DROP_ROLE = [f"DROP OWNED BY {READER}", f"DROP ROLE {READER}"]


def home() -> Path:
    return Path(tempfile.mkdtemp(prefix="sdb-"))


@pytest.fixture(scope="module")
def embedded() -> Iterator[Settings]:
    """An embedded server of its own, which other tests do not use as its superuser."""
    folder = home()
    settings = Settings(home=folder, model="demo")
    with open_database(settings) as database:
        with database.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA theirs")
            connection.exec_driver_sql("CREATE VIEW theirs.numbers AS SELECT generate_series(1, 3) AS n")
            connection.exec_driver_sql("CREATE FUNCTION theirs.two() RETURNS int LANGUAGE sql AS 'SELECT 2'")
        yield settings
    EmbeddedServer.at(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def database(embedded: Settings) -> Iterator[Database]:
    with open_database(embedded) as database:
        yield database


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--home", str(settings.home), "--model", "demo", *arguments], prog_name="searchdb")


@pytest.fixture
def untouched(database: Database) -> Iterator[None]:
    """After an attack the roles, the tables and the server's state are as before."""
    before = state(database)
    yield
    assert state(database) == before


def state(database: Database) -> list[object]:
    with database.connect() as connection:
        return [
            connection.exec_driver_sql(query).all()
            for query in (
                "SELECT rolname, rolsuper, rolconfig FROM pg_roles ORDER BY 1",
                "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
                "SELECT last_value, is_called FROM images_id_seq",
                "SELECT count(*) FROM pg_largeobject_metadata",
                "SELECT count(*) FROM pg_replication_slots",
                "SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()",
            )
        ]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.usefixtures("untouched")
def test_a_statement_may_only_read(database: Database, tmp_path: Path, attack: str) -> None:
    tmp_path.chmod(0o777)
    statement = attack.replace(FOLDER, str(tmp_path))
    with database.reader.connect() as connection:
        try:
            rows = run_sql(connection, statement).rows
        except DatabaseError:
            rows = []
    # VACUUM and a few others only warn, and pg_terminate_backend may find no session.
    assert not any(row[0] for row in rows), rows
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if not attack.startswith(TRANSACTION_REFUSES)])
@pytest.mark.usefixtures("untouched")
def test_the_role_is_enough_without_a_read_only_transaction(database: Database, tmp_path: Path, attack: str) -> None:
    tmp_path.chmod(0o777)
    with database.reader.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ WRITE")
        with pytest.raises(DatabaseError):
            connection.exec_driver_sql(attack.replace(FOLDER, str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("statement", TRACELESS)
def test_a_statement_leaves_nothing_in_the_session(database: Database, statement: str) -> None:
    with database.reader.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        connection.rollback()
        try:
            run_sql(connection, statement)
        except DatabaseError:
            assert "nowhere" in statement
        found = connection.exec_driver_sql(
            "SELECT pg_backend_pid(), current_setting('work_mem'), current_setting('default_transaction_read_only'), "
            "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' OR relation = 'images'::regclass), "
            "(SELECT count(*) FROM pg_cursors), (SELECT count(*) FROM pg_listening_channels()), "
            "pg_notification_queue_usage()"
        ).one()
    assert found == (pid, "4MB", "on", 0, 0, 0, 0.0)


@pytest.mark.slow
def test_sql_that_evades_the_time_limit_loses_its_session(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_sql, "STATEMENT_TIMEOUT_S", 0.5)
    catching = (
        "DO $$ BEGIN FOR i IN 1..20 LOOP BEGIN PERFORM pg_advisory_xact_lock(7), pg_sleep(1); "
        "EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"
    )
    with database.reader.connect() as connection, pytest.raises(DatabaseError, match="evaded its time limit") as caught:
        run_sql(connection, catching)
    assert caught.value.sqlstate == QUERY_CANCELED
    with database.reader.connect() as connection, pytest.raises(DatabaseError, match="evaded its time limit"):
        _without_limit(connection)
    with database.reader.connect() as connection:
        assert run_sql(connection, "SELECT pg_try_advisory_lock(7)").rows == [(True,)]


def _without_limit(connection: sa.Connection) -> None:
    """Turn off the limit of the next statement, as a condition can."""
    with traceless(connection, 0.5):
        connection.exec_driver_sql("SELECT set_config('statement_timeout', '0', true)").close()
        connection.exec_driver_sql("SELECT pg_sleep(10)").close()


def test_the_command_line_reads_with_the_role(embedded: Settings) -> None:
    for statement, shown in (
        ("SELECT current_user || '/' || session_user AS who", f"{READER}/{READER}"),
        ("SELECT sum(n) FROM theirs.numbers", "6"),
        ("SELECT theirs.two()", "2"),
        ("SELECT count(*) FROM search_images('a boat')", "0"),
    ):
        result = run(embedded, "sql", statement)
        assert (result.exit_code, shown in result.stdout, result.stderr) == (0, True, ""), result.output
    refused = run(embedded, "sql", "COPY (SELECT 1) TO PROGRAM 'true'")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "Error: permission denied to COPY to or from an external program: without `--write` a statement may only read, "
        "with it it runs as the owner\n"
    )
    written = run(embedded, "sql", "--write", "SELECT current_user")
    assert "postgres" in written.stdout


def test_a_condition_reads_with_the_role(embedded: Settings, demo_collection: SearchDB) -> None:
    with SearchDB(embedded) as collection:
        copy_album(demo_collection, collection.database)
        with pytest.raises(QueryError, match="pg_read_file: a condition may only read"):
            collection.search("a boat", where="pg_read_file('/etc/passwd') <> ''")
        with pytest.raises(QueryError, match="permission denied for sequence"):
            collection.search("a boat", where="nextval('images_id_seq') > 0")
        with pytest.raises(QueryError, match="pg_read_file"):
            collection.searcher.facets(Filters(where="pg_read_file('/etc/passwd') <> ''"))
        hits = collection.search("a boat", where=f"current_user = '{READER}' AND pg_advisory_lock(7) IS NOT NULL")
        assert len(hits) == 10
        with collection.database.reader.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").scalar() == 0
        with collection.database.connect() as connection:
            texts = sa.text("SELECT array_agg(query) FROM query_embeddings WHERE query = 'a boat'")
            assert connection.scalar(texts) == ["a boat"], "stored by the owner's connection"
    result = run(embedded, "search", "a boat", "--where", "pg_ls_dir('.') IS NOT NULL")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "damage",
    [
        DROP_ROLE,
        [f"ALTER ROLE {READER} SUPERUSER CREATEROLE"],
        [f"ALTER ROLE {READER} NOLOGIN PASSWORD 'x' CONNECTION LIMIT 1 VALID UNTIL '2020-01-01'"],
        [f"REVOKE pg_read_all_data FROM {READER}"],
        [f"GRANT pg_write_all_data TO {READER}"],
        [f"GRANT pg_read_all_data TO {READER} WITH INHERIT FALSE"],
        [f"GRANT INSERT ON images TO {READER}", f"GRANT CREATE ON SCHEMA public TO {READER}"],
        [f"ALTER ROLE {READER} SET default_transaction_read_only = off"],
        [f"ALTER ROLE {READER} IN DATABASE postgres SET temp_file_limit = -1"],
        ["CREATE TABLE lost (n int)", f"ALTER TABLE lost OWNER TO {READER}"],
        ["GRANT TEMPORARY ON DATABASE postgres TO PUBLIC"],
    ],
)
def test_a_changed_role_is_repaired(embedded: Settings, database: Database, damage: list[str]) -> None:
    before = role(database)
    for way in (lambda: open_database(embedded).close(), lambda: repair(embedded)):
        with database.begin() as connection:
            for statement in damage:
                connection.exec_driver_sql(statement)
        assert role(database) != before
        way()
        assert role(database) == before
        with database.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS lost")


def role(database: Database) -> tuple[object, ...]:
    with database.connect() as connection:
        attributes = connection.exec_driver_sql(
            "SELECT rolcanlogin, rolsuper, rolcreaterole, rolconnlimit, coalesce(rolvaliduntil, 'infinity')::text, "
            f"rolpassword FROM pg_authid WHERE rolname = '{READER}'"
        ).all()
        settings = connection.exec_driver_sql(
            f"SELECT setdatabase, setconfig FROM pg_db_role_setting WHERE setrole = to_regrole('{READER}')"
        ).all()
        grants = connection.exec_driver_sql(
            "SELECT roleid::regrole::text, inherit_option FROM pg_auth_members "
            f"WHERE member = to_regrole('{READER}') ORDER BY 1"
        ).all()
        uses = connection.exec_driver_sql(
            f"SELECT classid, objid FROM pg_shdepend WHERE refobjid = to_regrole('{READER}') "
            "AND classid <> 'pg_auth_members'::regclass"
        ).all()
        temporary = connection.exec_driver_sql("SELECT datacl::text FROM pg_database WHERE datname = 'postgres'").all()
    return attributes, settings, grants, uses, temporary


def drop_role(connection: sa.Connection) -> None:
    for statement in DROP_ROLE:
        connection.exec_driver_sql(statement)


def test_several_processes_open_a_home_without_the_role_at_once(embedded: Settings, database: Database) -> None:
    with database.begin() as connection:
        drop_role(connection)
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: open_database(embedded), range(6)))
    for each in opened:
        with each.reader.connect() as connection:
            assert connection.exec_driver_sql("SELECT current_user").scalar_one() == READER
        each.close()


def test_a_read_only_database_has_its_reader(embedded: Settings, database: Database) -> None:
    setting = "ALTER DATABASE postgres {} default_transaction_read_only"
    with database.begin() as connection:
        connection.exec_driver_sql(f"{setting.format('SET')} = on")
        drop_role(connection)
    try:
        with open_database(embedded) as opened, opened.reader.connect() as connection:
            assert run_sql(connection, "SELECT current_user").rows == [(READER,)]
    finally:
        with database.begin() as connection:
            connection.exec_driver_sql("SET TRANSACTION READ WRITE")
            connection.exec_driver_sql(setting.format("RESET"))


def test_a_dump_does_not_name_the_role(embedded: Settings, database: Database) -> None:
    dumped = subprocess.run(
        [program_path("pg_dump"), "--schema-only", database.libpq_url], capture_output=True, text=True, check=True
    ).stdout
    assert "CREATE TABLE public.images" in dumped
    assert READER not in dumped


def test_the_page_reads_with_the_role_and_writes_as_the_owner(
    embedded: Settings, demo_collection: SearchDB, database: Database
) -> None:
    with database.begin() as connection:
        if not connection.exec_driver_sql("SELECT count(*) FROM images").scalar_one():
            connection.commit()
            copy_album(demo_collection, database)
    app = create_app(embedded, embedder=demo_collection.embedder)
    app.testing = True
    backend = app.extensions[EXTENSION]
    try:
        client = app.test_client()
        for path in (
            "/", "/?q=a+red+car", "/images/1", "/status", "/readyz", "/metrics",
            "/api/search?q=a+text+only+of+the+page", "/api/images/1", "/api/random",
        ):  # fmt: skip
            assert client.get(path).status_code == 200, path
        with backend.database().reader.connect() as connection:
            assert connection.exec_driver_sql("SELECT current_user").scalar_one() == READER
        with database.connect() as connection:
            used = connection.exec_driver_sql(
                f"SELECT count(*) FILTER (WHERE usename = '{READER}') > 0, count(*) FROM pg_stat_activity "
                "WHERE application_name = 'searchdb page'"
            ).one()
            stored = "SELECT count(*) FROM query_embeddings WHERE query = 'a text only of the page'"
            assert connection.exec_driver_sql(stored).scalar_one() == 1
        assert used[0]
    finally:
        backend.close()
