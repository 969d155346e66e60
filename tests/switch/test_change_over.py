"""The change-over to another model: what it changes, and what searches see of it."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.config import Settings
from searchdb.db.counts import RowCount, count_rows
from searchdb.db.database import Database
from searchdb.db.functions import outdated_functions
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.schema import outdated_objects
from searchdb.db.stored_models import stored_models
from searchdb.db.switch_tables import switch_failures, unembedded_images
from searchdb.db.vectors import VectorColumn, column_of, current_column
from searchdb.errors import DatabaseError, SwitchError, SwitchIncompleteError
from searchdb.index.build import build_index
from searchdb.index.status import index_status
from searchdb.records import ModelIdentity
from searchdb.repair import repair
from searchdb.switch import obstacles, state
from searchdb.switch.abort import abort_switch
from searchdb.switch.change_over import NOT_NULL_CHECK, change_over
from searchdb.switch.finish import finish
from searchdb.switch.forget import forget_model
from tests.helpers.cli import output, run
from tests.helpers.two_models import begin, fill_column, images_of, random_units, store_texts
from tests.helpers.waiting import until

ROWS = 400
QUERY = "a boat"
OLD = ModelIdentity(name="old", weights_sha256=b"1" * 32, dimension=512)
WIDER = ModelIdentity(name="wider", weights_sha256=b"2" * 32, dimension=768)
SAME_WIDTH = ModelIdentity(name="same", weights_sha256=b"3" * 32, dimension=512)


def prepared(database: Database, model: ModelIdentity) -> tuple[OpenSwitch, list[int]]:
    """Return a switch that is ready for the change-over, and the ids of the images."""
    ids = images_of(database, OLD, random_units(ROWS, OLD.dimension, seed=1))
    store_texts(database, 1, {QUERY: random_units(1, OLD.dimension, seed=2)[0]})
    switch = begin(database, model)
    vectors = random_units(ROWS, model.dimension, seed=3)
    fill_column(database, switch.column, dict(zip(ids, vectors, strict=True)))
    store_texts(database, switch.model_id, {QUERY: random_units(1, model.dimension, seed=4)[0]})
    build_index(database.engine, column=switch.column)
    return switch, ids


def answer(database: Database, sql: str = f"SELECT image FROM search_images('{QUERY}', -1, 20)") -> list[str]:
    with database.begin() as connection:
        return list(connection.scalars(text(sql)))


def exact(database: Database, column: VectorColumn) -> list[str]:
    statement = (
        f"SELECT image FROM images WHERE {column.name} IS NOT NULL ORDER BY {column.name} <=> "
        f"(SELECT embedding FROM query_embeddings WHERE embedding_model_id = {column.model_id}) + 0 LIMIT 20"
    ).replace(" + 0", "")
    with database.begin() as connection:
        connection.execute(text("SET LOCAL enable_indexscan = off"))
        return list(connection.scalars(text(statement)))


@pytest.mark.parametrize("model", [WIDER, SAME_WIDTH], ids=lambda model: model.name)
def test_forth_and_back_and_forth(database: Database, model: ModelIdentity) -> None:
    switch, _ = prepared(database, model)
    old, new = answer(database), exact(database, switch.column)
    assert old != new

    report = change_over(database, switch)
    assert (report.moved, report.attempts) == (0, 1)
    assert answer(database) == new
    assert finish(database) is True
    assert finish(database) is False
    assert change_over(database, switch).attempts == 0
    with database.connect() as connection:
        current = current_column(connection)
        assert (current.model_id, current.dimension) == (switch.model_id, model.dimension)
        assert column_of(connection, 1) == VectorColumn.beside(1, OLD.dimension)
        assert outdated_objects(connection, "public") == []
        assert outdated_functions(connection, "public") == []
        assert index_status(connection).valid
        assert connection.scalars(text("SELECT DISTINCT embedding_model_id FROM images")).all() == [switch.model_id]

    back = begin(database, OLD)
    assert change_over(database, back).moved == 0
    assert finish(database) is True
    assert answer(database) == old
    again = begin(database, model)
    change_over(database, again)
    finish(database)
    assert answer(database) == new


def test_the_status_is_that_of_one_moment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    switch, _ = prepared(database, WIDER)
    # As if the reader had come after that wait.
    monkeypatch.setattr("searchdb.switch.change_over.wait_for_older_snapshots", lambda *_, **__: None)
    changing = threading.Thread(target=change_over, args=(database, switch))

    def waits() -> bool:
        with database.connect() as connection:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'images'::regclass"
            return bool(connection.scalar(text(waiting)))

    def count(connection: Connection, table: sa.Table) -> RowCount:
        if changing.ident is None:
            changing.start()
        until(lambda: waits() or not changing.is_alive(), "the change-over, or its wait for the reader")
        return count_rows(connection, table)

    monkeypatch.setattr(state, "count_rows", count)
    with database.connect() as connection:
        status = state.switch_status(connection)
    changing.join()
    assert status is not None
    assert (status.images, status.done) == (ROWS, ROWS)
    with database.connect() as connection:
        after = state.switch_status(connection)
        assert current_column(connection).model_id == switch.model_id
    assert after is None or after.done == ROWS


def test_settings_and_properties_move_with_the_column(database: Database) -> None:
    switch, _ = prepared(database, WIDER)
    with database.begin() as connection:
        connection.execute(text("ALTER FUNCTION match_images(vector, float8, int) SET hnsw.ef_search = 111"))
        new = f"match_images_{switch.model_id}(vector, float8, int)"
        for setting in ("ivfflat.probes = 7", "hnsw.ef_search = 222"):
            connection.execute(text(f"ALTER FUNCTION {new} SET {setting}"))
        connection.execute(text("ALTER TABLE images ALTER COLUMN embedding SET STATISTICS 77"))
    change_over(database, switch)
    with database.connect() as connection:
        status = index_status(connection)
        assert (status.ef_search, status.probes) == (222, 7)
        kept = index_status(connection, column_of(connection, 1))
        assert kept.ef_search == 111
        columns = connection.execute(
            text(
                "SELECT attname, attstattarget, attnotnull, atttypmod FROM pg_attribute "
                "WHERE attrelid = 'images'::regclass AND attname ~ '^embedding(_[0-9]+)?$' ORDER BY attname"
            )
        ).all()
        assert [tuple(row) for row in columns] == [("embedding", None, False, 768), ("embedding_1", 77, False, 512)]
        assert connection.scalar(text("SELECT to_regprocedure(:name)"), {"name": new}) is None
    finish(database)
    with database.connect() as connection:
        assert connection.scalar(
            text("SELECT attnotnull FROM pg_attribute WHERE attrelid = 'images'::regclass AND attname = 'embedding'")
        )


def test_no_row_is_written(database: Database) -> None:
    switch, _ = prepared(database, WIDER)
    files = "SELECT pg_relation_filenode(oid) FROM pg_class WHERE relname ~ '^images_embedding|^images$' ORDER BY 1"
    with database.connect() as connection:
        before = connection.scalars(text(files)).all()
        reads = connection.scalar(text("SELECT pg_current_wal_insert_lsn()"))
        tuples = connection.scalars(text("SELECT xmin::text FROM images ORDER BY id")).all()
    change_over(database, switch)
    with database.connect() as connection:
        after = connection.scalars(text(files)).all()
        assert set(after) < set(before)  # less the index of what was missing
        assert connection.scalars(text("SELECT xmin::text FROM images ORDER BY id")).all() == tuples
        written = connection.scalar(
            text("SELECT pg_current_wal_insert_lsn() - CAST(:before AS pg_lsn)"), {"before": reads}
        )
        assert written is not None
        assert written < 600_000  # of the catalog


def test_images_that_failed_move_with_all_their_metadata(database: Database) -> None:
    switch, ids = prepared(database, WIDER)
    failed = ids[:3]
    with database.begin() as connection:
        connection.execute(
            text("UPDATE images SET country = 'Peru', metadata = '{\"a\": 1}' WHERE id = ANY (:i)"), {"i": failed}
        )
        connection.execute(
            text(f"UPDATE images SET {switch.column.name} = NULL WHERE id = ANY (:ids)"), {"ids": failed}
        )
        before = connection.execute(text("SELECT * FROM images WHERE id = :id"), {"id": failed[0]}).mappings().one()
    with pytest.raises(SwitchIncompleteError, match=r"3 images and 0 texts"):
        change_over(database, switch)
    with database.begin() as connection:
        connection.execute(
            sa.insert(switch_failures),
            [
                {"image_id": each, "embedding_model_id": switch.model_id, "error": "HTTPStatusError", "message": "404"}
                for each in failed
            ],
        )
    assert change_over(database, switch).moved == 3
    with database.connect() as connection:
        moved = connection.execute(sa.select(unembedded_images).order_by(unembedded_images.c.id)).mappings().all()
        assert [row["id"] for row in moved] == failed
        assert [row["error"] for row in moved] == ["HTTPStatusError"] * 3
        for name in ("image", "country", "metadata", "embedding_model_id", "ingested_at"):
            assert moved[0][name] == before[name], name
        assert np.array_equal(moved[0]["embedding"], before["embedding"].to_numpy())
        assert connection.scalar(text("SELECT count(*) FROM images")) == ROWS - 3
        assert connection.scalar(text("SELECT count(*) FROM switch_failures")) == 0


def test_texts_that_are_missing_are_embedded_or_refused(database: Database) -> None:
    switch, _ = prepared(database, WIDER)
    store_texts(database, 1, {"new": random_units(1, OLD.dimension)[0]})
    with pytest.raises(SwitchIncompleteError, match=r"0 images and 1 texts"):
        change_over(database, switch)

    def embed(connection: sa.Connection) -> None:
        vector = random_units(1, WIDER.dimension)[0]
        statement = "INSERT INTO query_embeddings (embedding_model_id, query, embedding) VALUES (:id, 'new', :vector)"
        connection.execute(text(statement), {"id": switch.model_id, "vector": vector})

    change_over(database, switch, embed_texts=embed)
    assert len(answer(database, "SELECT image FROM search_images('new', -1, 5)")) == 5


def test_without_an_index_it_is_refused(database: Database) -> None:
    switch, _ = prepared(database, WIDER)
    with database.begin() as connection:
        connection.execute(text(f"DROP INDEX {switch.column.index}"))
    with pytest.raises(SwitchError, match="no valid index"):
        change_over(database, switch)


def test_a_view_of_the_vectors_is_named(database: Database) -> None:
    switch, _ = prepared(database, WIDER)
    with database.begin() as connection:
        connection.execute(text("CREATE VIEW mine AS SELECT id, embedding FROM images"))
    with pytest.raises(SwitchError, match="view mine depends"):
        change_over(database, switch)


def test_a_collection_without_its_current_index_is_switched(database: Database) -> None:
    switch, _ = prepared(database, WIDER)
    with database.begin() as connection:
        connection.execute(text("DROP INDEX images_embedding_idx"))
    change_over(database, switch)
    finish(database)
    with database.connect() as connection:
        assert index_status(connection).valid
        kept = column_of(connection, 1)
        assert kept is not None
        assert index_status(connection, kept).method is None


@pytest.mark.parametrize("point", ["validate", "set_not_null", "analyze"])
def test_a_finish_that_was_interrupted_is_repeated(database: Database, point: str) -> None:
    switch, _ = prepared(database, WIDER)
    change_over(database, switch)
    with database.begin() as connection:
        if point != "validate":
            connection.execute(text(f"ALTER TABLE images VALIDATE CONSTRAINT {NOT_NULL_CHECK}"))
        if point == "analyze":
            connection.execute(text("ALTER TABLE images ALTER COLUMN embedding SET NOT NULL"))
            connection.execute(text(f"ALTER TABLE images DROP CONSTRAINT {NOT_NULL_CHECK}"))
    assert finish(database) is True
    with database.connect() as connection:
        assert open_switch(connection) is None
        assert outdated_objects(connection, "public") == []
        check = text("SELECT count(*) FROM pg_constraint WHERE conname = :name")
        assert connection.scalar(check, {"name": NOT_NULL_CHECK}) == 0
    assert finish(database) is False


def test_a_kept_column_is_repaired(database: Database, settings: Settings) -> None:
    switch, _ = prepared(database, WIDER)
    change_over(database, switch)
    finish(database)
    old = VectorColumn.beside(1, OLD.dimension)
    for damage in (
        f"DROP FUNCTION {old.function}(vector, float8, int)",
        f"ALTER FUNCTION {old.function}(vector, float8, int) RESET search_path",
        f"ALTER TABLE images DROP CONSTRAINT {old.norm_check}",
        f"DROP INDEX {old.index}",
    ):
        with database.begin() as connection:
            connection.execute(text(damage))
        assert len(repair(settings).restored) == 1, damage
        assert repair(settings).restored == [], damage
    with database.connect() as connection:
        assert index_status(connection, old).valid
        found = connection.scalar(
            text(f"SELECT count(*) FROM {old.function}((SELECT {old.name}::vector FROM images LIMIT 1), -1, 10)")
        )
        assert found == 10


def test_forget_needs_the_owner(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    switch, _ = prepared(database, WIDER)
    change_over(database, switch)
    finish(database)
    monkeypatch.setattr(obstacles, "owner", lambda _connection: "keeper")
    with pytest.raises(DatabaseError, match="forgetting a model needs the owner of the tables: connect as keeper"):
        forget_model(database, OLD.name)


def test_forget(database: Database) -> None:
    switch, _ = prepared(database, WIDER)
    with pytest.raises(SwitchError, match="open"):
        forget_model(database, WIDER.name)
    with pytest.raises(SwitchError, match="current"):
        forget_model(database, OLD.name)
    with pytest.raises(SwitchError, match="no model x"):
        forget_model(database, "x")
    change_over(database, switch)
    finish(database)
    before = answer(database)
    with database.connect() as connection:
        assert [(each.identity.name, each.kept) for each in stored_models(connection)] == [
            (WIDER.name, True),
            (OLD.name, True),
        ]
    report = forget_model(database, OLD.name)
    assert report.texts == 1
    assert report.index_bytes > 0
    assert report.vector_bytes > ROWS * 2048
    with database.connect() as connection:
        assert column_of(connection, 1) is None
        assert [each.kept for each in stored_models(connection)] == [True, False]
        assert connection.scalar(text("SELECT to_regprocedure('match_images_1(vector, float8, int)')")) is None
        assert outdated_objects(connection, "public") == []
    assert answer(database) == before
    with pytest.raises(SwitchError, match="not kept any more"):
        forget_model(database, OLD.name)


def test_forget_by_weights(database: Database) -> None:
    """Of two models with one name, such as of a folder that was trained again, the weights tell which is meant."""
    switch, ids = prepared(database, WIDER)
    change_over(database, switch)
    finish(database)
    again = ModelIdentity(name=WIDER.name, weights_sha256=b"4" * 32, dimension=64)
    switch = begin(database, again)
    fill_column(database, switch.column, dict(zip(ids, random_units(ROWS, 64), strict=True)))
    build_index(database.engine, column=switch.column)
    store_texts(database, switch.model_id, {QUERY: random_units(1, 64)[0]})
    change_over(database, switch)
    finish(database)
    assert forget_model(database, OLD.name).model == OLD.name
    switch = begin(database, OLD)
    fill_column(database, switch.column, dict(zip(ids, random_units(ROWS, OLD.dimension), strict=True)))
    build_index(database.engine, column=switch.column)
    store_texts(database, switch.model_id, {QUERY: random_units(1, OLD.dimension)[0]})
    change_over(database, switch)
    finish(database)
    with pytest.raises(SwitchError, match=f"name the weights, {again.short_weights} or {WIDER.short_weights}"):
        forget_model(database, WIDER.name)
    assert forget_model(database, WIDER.short_weights).model == WIDER.name
    assert forget_model(database, WIDER.name).model == WIDER.name
    with database.connect() as connection:
        assert [each.kept for each in stored_models(connection)] == [True, False, False]


def test_an_abort_tells_whether_vectors_are_kept(database: Database, settings: Settings) -> None:
    """Those of a model that was the current one before are."""
    switch, _ = prepared(database, WIDER)
    change_over(database, switch)
    finish(database)
    begin(database, OLD)
    result = run(settings, "model", "switch", "--abort")
    output(result)
    assert "its vectors are kept" in result.stderr
    assert "`searchdb model forget old`" in result.stderr
    with database.connect() as connection:
        assert column_of(connection, 1) is not None
    begin(database, SAME_WIDTH)
    result = run(settings, "model", "switch", "--abort", "--json")
    assert json.loads(output(result)) == {"aborted": "same", "kept": False}
    assert result.stderr == "the switch to same was ended, and its vectors were dropped\n"


def test_what_uses_a_column_is_named_before_the_column_is_dropped(database: Database) -> None:
    switch, _ = prepared(database, WIDER)

    def make_view(column: str) -> None:
        with database.begin() as connection:
            connection.execute(text(f"CREATE VIEW mine AS SELECT id, {column} FROM images"))

    def drop_view() -> None:
        with database.begin() as connection:
            connection.execute(text("DROP VIEW mine"))

    make_view(switch.column.name)
    with pytest.raises(SwitchError, match=f"view mine depends on images.{switch.column.name}, .*: drop it first"):
        abort_switch(database)
    with database.connect() as connection:
        assert open_switch(connection) == switch  # untouched
    drop_view()
    change_over(database, switch)
    finish(database)
    make_view("embedding_1")
    with pytest.raises(SwitchError, match=r"view mine depends on images.embedding_1, .*: drop it first"):
        forget_model(database, OLD.name)
    drop_view()
    forget_model(database, OLD.name)
