"""The page works with a role that may only SELECT, made by the SQL in docs/operations.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db import best_effort
from searchdb.db.database import Database
from searchdb.db.tables import image_sample, query_embeddings, relevance_scale
from searchdb.errors import DatabaseError
from searchdb.index.build import build_index
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import Hit
from searchdb.search.query_cache import QueryCache
from searchdb.search.searcher import Query, Searcher
from tests.helpers.album import copy_album
from tests.helpers.statements import executed_on
from web import create_app
from web.backend import EXTENSION

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
ROLE = "searchdb_reader"
WRITES = (
    "INSERT INTO images (image) VALUES ('/x')",
    "UPDATE images SET description = 'mine'",
    "DELETE FROM images",
    "TRUNCATE query_embeddings",
    "CREATE TABLE mine (id int)",
    "DROP TABLE images",
    "ALTER FUNCTION match_images SET ivfflat.probes = 1",
)


def documented_sql() -> list[str]:
    """Return the statements in the chapter on the read-only role."""
    [block] = [each for each in re.findall(r"```sql\n(.*?)```", OPERATIONS, re.DOTALL) if f"CREATE ROLE {ROLE}" in each]
    return [statement.strip() for statement in block.split(";") if statement.strip()]


@dataclass(frozen=True, kw_only=True)
class ReadOnlyApp:
    """A collection with the album, and the application that connects as the read-only role."""

    owner: Database
    settings: Settings
    app: Flask

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def rows(self, table: sa.Table) -> int:
        with self.owner.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.fixture
def read_only(
    settings: Settings, database: Database, demo_collection: SearchDB, embedder: CLIPEmbedder, admin: sa.Engine
) -> Iterator[ReadOnlyApp]:
    copy_album(demo_collection, database)
    with database.begin() as connection:
        for statement in documented_sql():
            connection.exec_driver_sql(statement)
    url = settings.url()
    assert url is not None
    reading = settings.model_copy(
        update={"database_url": Settings(database_url=libpq_url(url.set(username=ROLE))).database_url}
    )
    app = create_app(reading, embedder=embedder)
    app.testing = True
    yield ReadOnlyApp(owner=database, settings=reading, app=app)
    app.extensions[EXTENSION].close()
    with database.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {ROLE}")
        connection.exec_driver_sql(f"DROP ROLE {ROLE}")


def test_every_page_is_served(read_only: ReadOnlyApp) -> None:
    client = read_only.client
    for path in (
        "/",
        "/?q=a+red+car",
        "/?q=a+red+car&tag=boat",
        "/images/1",
        "/images/1/thumbnail",
        "/readyz",
        "/metrics",
    ):
        assert client.get(path).status_code == 200, path
    paths = {rule.rule for rule in read_only.app.url_map.iter_rules()}
    for path in {"/status", "/api/search?q=a+red+car", "/api/images/1", "/api/random"}:
        if path.partition("?")[0] in paths:
            assert client.get(path).status_code == 200, path


def test_cached_and_new_texts_find_the_same_as_for_the_owner(read_only: ReadOnlyApp, embedder: CLIPEmbedder) -> None:
    searcher = Searcher(read_only.owner.engine, embedder)
    cached = searcher.search(Query(text="a red car"), count=5)
    reader = read_only.app.extensions[EXTENSION].searcher
    assert_alike(reader.search(Query(text="a red car"), count=5), cached)
    before = read_only.rows(query_embeddings)
    new = [reader.search(Query(text="a boat at sunset"), count=5) for _ in range(2)]
    assert read_only.rows(query_embeddings) == before
    assert new[0] == new[1]
    assert_alike(new[0], searcher.search(Query(text="a boat at sunset"), count=5))


def assert_alike(hits: Sequence[Hit], others: Sequence[Hit]) -> None:
    """The hits are the same, and so is their relevance but for rounding: sums on either side of a connection differ."""
    assert [hit.id for hit in hits] == [hit.id for hit in others]
    assert [hit.relevance for hit in hits] == pytest.approx([hit.relevance for hit in others], abs=1e-5)


def test_relevance_is_measured_even_if_it_cannot_be_stored(read_only: ReadOnlyApp, embedder: CLIPEmbedder) -> None:
    with read_only.owner.begin() as connection:
        connection.execute(sa.delete(relevance_scale))
    reader = read_only.app.extensions[EXTENSION].searcher
    measured = reader.search(Query(text="a red car"), count=5)
    assert read_only.rows(relevance_scale) == 0
    assert measured[0].relevance is not None
    with executed_on(read_only.app.extensions[EXTENSION].database().engine) as statements:
        again = [reader.search(Query(text=text), count=5) for text in ("a red car", "a boat at night")]
    assert again[0] == measured
    assert not any("image_sample" in statement for statement, _ in statements), "it is kept in memory"
    owner = Searcher(read_only.owner.engine, embedder)
    assert_alike(measured, owner.search(Query(text="a red car"), count=5))
    assert_alike(again[1], owner.search(Query(text="a boat at night"), count=5))
    assert read_only.rows(relevance_scale) == 1
    assert_alike(reader.search(Query(text="a red car"), count=5), measured)


def test_what_is_kept_in_memory_is_measured_again_after_a_while(
    read_only: ReadOnlyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    with read_only.owner.begin() as connection:
        connection.execute(sa.delete(relevance_scale))
    monkeypatch.setattr("searchdb.search.relevance.KEPT_S", 0.0)
    reader = read_only.app.extensions[EXTENSION].searcher
    with executed_on(read_only.app.extensions[EXTENSION].database().engine) as statements:
        for text in ("a red car", "a boat"):
            reader.search(Query(text=text), count=5)
    assert sum("FROM image_sample" in statement for statement, _ in statements) >= 2


def test_without_a_sample_the_reader_draws_its_own(read_only: ReadOnlyApp) -> None:
    with read_only.owner.begin() as connection:
        connection.execute(sa.delete(image_sample))
        connection.execute(sa.delete(relevance_scale))
    [hit] = read_only.app.extensions[EXTENSION].searcher.search(Query(text="a red car"), count=1)
    assert hit.relevance is not None
    assert (read_only.rows(image_sample), read_only.rows(relevance_scale)) == (0, 0)


def test_the_owners_index_build_measures_the_scale_for_readers(read_only: ReadOnlyApp, embedder: CLIPEmbedder) -> None:
    with read_only.owner.begin() as connection:
        connection.execute(sa.delete(relevance_scale))
    build_index(read_only.owner.engine, cache=lambda: QueryCache(embedder))
    assert read_only.rows(relevance_scale) == 1
    engine = read_only.app.extensions[EXTENSION].database().engine
    with executed_on(engine) as statements:
        [hit] = read_only.app.extensions[EXTENSION].searcher.search(Query(text="a red car"), count=1)
    assert hit.relevance is not None
    assert not any(statement.startswith(("INSERT", "DELETE")) for statement, _ in statements)


def test_writing_is_retried_after_a_while(read_only: ReadOnlyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = read_only.app.extensions[EXTENSION].searcher
    before = read_only.rows(query_embeddings)
    reader.search(Query(text="a striped cat"))
    with read_only.owner.begin() as connection:
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
    reader.search(Query(text="a striped dog"))
    assert read_only.rows(query_embeddings) == before
    monkeypatch.setattr(best_effort, "RETRY_WRITES_AFTER_S", 0.0)
    reader.search(Query(text="a striped kite"))
    assert read_only.rows(query_embeddings) == before + 1


def test_nothing_can_be_written(read_only: ReadOnlyApp) -> None:
    for statement in WRITES:
        with read_only.app.extensions[EXTENSION].database().connect() as connection:
            with pytest.raises(DatabaseError) as caught:
                connection.exec_driver_sql(statement)
            assert caught.value.sqlstate == "42501", statement


def test_a_read_only_transaction_is_enough(settings: Settings, database: Database, embedder: CLIPEmbedder) -> None:
    """The default of a standby server."""
    with database.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {database.url.database} SET default_transaction_read_only = on")
    with Database(settings) as standby:
        vectors = Searcher(standby.engine, embedder).embed(["a boat"])
        assert vectors.shape == (1, 512)
        with standby.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(query_embeddings)) == 0


def test_a_write_that_fails_otherwise_is_an_error(database: Database, embedder: CLIPEmbedder) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE query_embeddings ADD CONSTRAINT no_boats CHECK (query <> 'a boat')")
    with pytest.raises(DatabaseError, match="no_boats"):
        Searcher(database.engine, embedder).embed(["a boat"])
