"""A user's SQL: which texts it needs embedded, and what it may do."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from searchdb.collection import SearchDB
from searchdb.errors import DatabaseError
from searchdb.sql import literal_texts, run


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
        ("SELEKT nonsense (", []),
        ("", []),
    ],
)
def test_literal_texts(statement: str, texts: list[str]) -> None:
    assert sorted(literal_texts(statement)) == texts


def test_rows_come_with_their_columns(demo_collection: SearchDB) -> None:
    with demo_collection.database.connect() as connection:
        result = run(connection, "SELECT 7 % 4 AS rest, '100%' AS text, NULL AS nothing")
    assert (result.columns, result.rows) == (["rest", "text", "nothing"], [(3, "100%", None)])


@pytest.mark.parametrize("statement", ["DELETE FROM images", "COMMIT; DELETE FROM images", "DROP TABLE images"])
def test_nothing_is_changed_unless_writing_is_allowed(demo_collection: SearchDB, statement: str) -> None:
    before = demo_collection.store.counts()
    with demo_collection.database.connect() as connection, pytest.raises(DatabaseError):
        run(connection, statement)
    assert demo_collection.store.counts() == before


def test_writing_when_allowed(collection: SearchDB) -> None:
    with collection.database.connect() as connection:
        assert run(connection, "CREATE TABLE mine (n int)", write=True).rows == []
        assert run(connection, "INSERT INTO mine VALUES (5) RETURNING n", write=True).rows == [(5,)]
    with collection.database.connect() as connection:
        assert connection.scalar(sa.text("SELECT n FROM mine")) == 5


def test_an_error_is_postgresqls_own_with_its_hint(demo_collection: SearchDB) -> None:
    with demo_collection.database.connect() as connection, pytest.raises(DatabaseError, match="Run: searchdb embed"):
        run(connection, "SELECT text_embedding('never ' || 'seen')")
