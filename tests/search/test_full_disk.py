"""Searches on a full disk: what only makes later searches faster is not written."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.db.database import Database
from searchdb.db.tables import image_sample, query_embeddings, relevance_scale
from searchdb.index.recall import measure_recall
from searchdb.media.embed import CLIPEmbedder
from searchdb.search.searcher import Query, Searcher
from tests.helpers.full_disk import refuse_writes
from tests.helpers.stored_images import StoredImages

CACHES = ("query_embeddings", "image_sample", "relevance_scale")


@pytest.fixture
def filled(tmp_path_factory: pytest.TempPathFactory, database: Database, embedder: CLIPEmbedder) -> Database:
    """A collection large enough for relevance, whose caches are empty."""
    stored = StoredImages(tmp_path_factory.mktemp("images"), database, embedder)
    for n in range(24):
        stored.add(f"image {n} of a boat")
    with database.begin() as connection:
        for cache in (query_embeddings, image_sample, relevance_scale):
            connection.execute(sa.delete(cache))
    return database


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "58030", "55P03", "40001"])
def test_searches_do_without_their_caches(
    filled: Database, embedder: CLIPEmbedder, caplog: pytest.LogCaptureFixture, sqlstate: str
) -> None:
    expected = Searcher(filled.engine, embedder).search(Query(text="a boat"), count=3)
    with filled.begin() as connection:
        for cache in (query_embeddings, image_sample, relevance_scale):
            connection.execute(sa.delete(cache))
    refuse_writes(filled, *CACHES, sqlstate=sqlstate)
    caplog.set_level(logging.WARNING)
    searcher = Searcher(filled.engine, embedder)
    for _ in range(2):
        assert [hit.id for hit in searcher.search(Query(text="a boat"), count=3)] == [hit.id for hit in expected]
    assert searcher.search(Query(text="a boat", exclude="a tree", like=[expected[0].id]), count=3)
    assert searcher.embed(["a new text"]).shape == (1, 512)
    warnings = [record for record in caplog.records if "not cached" in record.getMessage()]
    assert len(warnings) == (1 if sqlstate[:2] in ("53", "58") else 0)


def test_an_ingest_whose_index_cannot_be_built_is_complete(
    collection: SearchDB, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, album: object
) -> None:
    def rebuild(engine: sa.Engine, **_: object) -> bool:
        with engine.begin() as connection:
            connection.exec_driver_sql("DO $$ BEGIN RAISE 'no space' USING ERRCODE = '53100'; END $$")
        return True

    monkeypatch.setattr("searchdb.ingesting.rebuild_if_stale", rebuild)
    report = collection.ingest_files(str(album), limit=5)
    assert report.done == 5
    assert report.stored
    assert not report.index_rebuilt
    assert "the vector index was not rebuilt: the disk of the database is full: no space" in caplog.text


@pytest.mark.parametrize("sqlstate", ["53100", "42501", "25006"])
def test_recall_is_measured_even_if_it_cannot_be_stored(filled: Database, sqlstate: str) -> None:
    refuse_writes(filled, "index_recalls", sqlstate=sqlstate)
    assert measure_recall(filled.engine, sample=5).recalls
