"""A user's SQL: the texts to embed, and its permissions."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db import user_sql as sql
from searchdb.db.database import open_database
from searchdb.db.user_sql import run_sql, texts_to_embed
from searchdb.errors import DatabaseError


@pytest.mark.parametrize(
    ("statement", "texts"),
    [
        ("SELECT * FROM match_images(text_embedding('a red car'), 0.1, 5)", ["a red car"]),
        ("SELECT * FROM search_images('it''s a dog', 0.2, 10)", ["it's a dog"]),
        ("SELECT * FROM search_images(query => 'named', match_count => 3)", ["named"]),
        ("SELECT public.Text_Embedding('qualified'::text)", ["qualified"]),
        ("WITH q AS (SELECT text_embedding('in a cte') AS v) SELECT * FROM images, q", ["in a cte"]),
        ("SELECT text_embedding('one') <=> text_embedding('two'), text_embedding('one')", ["one", "two"]),
        ("SELECT 'text_embedding(''quoted'')' -- text_embedding('comment')", []),
        ("SELECT text_embedding(description) FROM images", []),
        (
            "SELECT * FROM images WHERE id IN (SELECT id FROM search_images('in a sub-query', 0.2, 3))",
            ["in a sub-query"],
        ),
        ("SELECT * FROM images i, LATERAL search_images('lateral') s", ["lateral"]),
        (r"SELECT text_embedding(E'it\'s\ta \u0063at')", ["it's\ta cat"]),
        (r"SELECT text_embedding('a\b')", [r"a\b"]),
        ("SELECT text_embedding($$it's a dog$$), text_embedding($x$ $$ $x$)", [" $$ ", "it's a dog"]),
        ("SELECT text_embedding(query := 'named'), text_embedding(('bracketed'))", ["bracketed", "named"]),
        ("SELECT text_embedding(CAST('cast' AS text))", ["cast"]),
        ("SELECT text_embedding(NULL), text_embedding($1), text_embedding(5), text_embedding()", []),
        ("SELECT /* text_embedding('comment') */ text_embedding('text')", ["text"]),
        ("EXPLAIN (ANALYZE, BUFFERS) SELECT text_embedding('explained')", ["explained"]),
        ("explain analyze SELECT text_embedding('explained')", ["explained"]),
        ("CREATE VIEW boats AS SELECT * FROM search_images('a boat')", ["a boat"]),
        ("INSERT INTO mine SELECT id FROM search_images('a boat')", ["a boat"]),
        ("SELECT 1; SELECT text_embedding('second')", ["second"]),
        ("SELEKT nonsense (", []),
        ("", []),
    ],
)
def test_literal_texts(statement: str, texts: list[str]) -> None:
    assert sorted(texts_to_embed(statement)) == texts


def test_rows_come_with_their_columns(demo_collection: SearchDB) -> None:
    with demo_collection.database.connect() as connection:
        result = run_sql(connection, "SELECT 7 % 4 AS rest, '100%' AS text, NULL AS nothing")
    assert (result.columns, result.rows) == (["rest", "text", "nothing"], [(3, "100%", None)])


@pytest.mark.parametrize("statement", ["DELETE FROM images", "COMMIT; DELETE FROM images", "DROP TABLE images"])
def test_nothing_is_changed_unless_writing_is_allowed(demo_collection: SearchDB, statement: str) -> None:
    before = demo_collection.store.counts()
    with demo_collection.database.connect() as connection, pytest.raises(DatabaseError):
        run_sql(connection, statement)
    assert demo_collection.store.counts() == before


def test_writing_when_allowed(collection: SearchDB) -> None:
    with collection.database.connect() as connection:
        assert run_sql(connection, "CREATE TABLE mine (n int)", write=True).rows == []
        assert run_sql(connection, "INSERT INTO mine VALUES (5) RETURNING n", write=True).rows == [(5,)]
    with collection.database.connect() as connection:
        assert connection.scalar(sa.text("SELECT n FROM mine")) == 5


def test_writing_does_not_override_a_read_only_database(settings: Settings) -> None:
    url = settings.url()
    assert url is not None
    read_only = url.update_query_dict({"options": "-c default_transaction_read_only=on"})
    protected = settings.model_copy(update={"database_url": SecretStr(libpq_url(read_only))})
    with (
        open_database(protected) as database,
        database.connect() as connection,
        pytest.raises(DatabaseError, match="may only read"),
    ):
        run_sql(connection, "DELETE FROM images", write=True)


def test_errors_have_postgresqls_message_and_hint(demo_collection: SearchDB) -> None:
    with demo_collection.database.connect() as connection, pytest.raises(DatabaseError, match="Run: searchdb embed"):
        run_sql(connection, "SELECT text_embedding('never ' || 'seen')")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT text_embedding('a boat'), " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT text_embedding('a boat'), 1 WHERE " + "NOT " * 100_000 + "true",
        "SELECT '" + " " * 1_000_000 + "text_embedding",
        "EXPLAIN " + "(" * 1_000_000 + "text_embedding",
        "SELECT text_embedding('a boat'), x" + "[1]" * 5000,
    ],
    ids=["parentheses", "not", "spaces", "explain", "subscripts"],
)
def test_what_is_too_complex_for_the_parser_is_left_to_postgresql(statement: str) -> None:
    assert texts_to_embed(statement) == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT repeat('[', 1000000)::jsonb", "stack depth limit exceeded. The statement is nested too deeply"),
        ("SELECT " + "(" * 30_000 + "1" + ")" * 30_000, "memory exhausted .* The statement is nested too deeply"),
    ],
    ids=["stack", "grammar"],
)
def test_nesting_beyond_postgresqls_limits_has_advice(demo_collection: SearchDB, statement: str, message: str) -> None:
    with demo_collection.database.connect() as connection, pytest.raises(DatabaseError, match=message):
        run_sql(connection, statement)


def test_several_statements_are_refused(demo_collection: SearchDB) -> None:
    with (
        demo_collection.database.connect() as connection,
        pytest.raises(DatabaseError, match="only one statement"),
    ):
        run_sql(connection, "SELECT 1; SELECT 2", write=True)


def test_a_statement_beyond_the_time_limit_is_cancelled(
    demo_collection: SearchDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "STATEMENT_TIMEOUT_S", 1.5)  # after twice as long, another limit ends the session
    with demo_collection.database.connect() as connection:
        with pytest.raises(
            DatabaseError, match=r"longer than 1\.5 s: ask for less, or use `searchdb db shell`"
        ) as caught:
            run_sql(connection, "SELECT pg_sleep(60)")
        assert caught.value.sqlstate == "57014"
        assert run_sql(connection, "SELECT current_setting('statement_timeout')").rows == [("1500ms",)]
    with demo_collection.database.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_setting('statement_timeout')")) == "0"


def test_a_null_text_and_a_parameter(demo_collection: SearchDB) -> None:
    with demo_collection.database.connect() as connection:
        assert run_sql(connection, "SELECT text_embedding(NULL)").rows == [(None,)]
        with pytest.raises(DatabaseError, match="parameter"):
            run_sql(connection, "SELECT text_embedding($1)")


def test_text_that_only_looks_like_a_placeholder(demo_collection: SearchDB) -> None:
    with demo_collection.database.connect() as connection:
        assert run_sql(connection, "SELECT '%s :name %(x)s', E'\\x41' -- 100%").rows == [("%s :name %(x)s", "A")]
