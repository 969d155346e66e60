"""Rebuilds of a stale vector index, in the foreground and in the background."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.cli.index_prose import index_details
from searchdb.config import Settings
from searchdb.db.connections import Timeouts
from searchdb.db.database import Database, open_database
from searchdb.errors import ModelUnavailableError
from searchdb.index import rebuild
from searchdb.index.build import build_index
from searchdb.index.policy import fit_ef_search
from searchdb.index.rebuild import BackgroundRebuilder, rebuild_if_stale
from searchdb.index.status import IndexStatus, index_status
from searchdb.records import ModelIdentity
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.query_cache import QueryCache
from tests.helpers.vectors import MODEL, cache_texts, clustered, fill, real_like, real_like_texts, recall
from tests.helpers.waiting import GIVE_UP_S, until
from web.page.index_facts import index_facts


def state_of(database: Database) -> IndexStatus:
    with database.connect() as connection:
        return index_status(connection)


pytestmark = pytest.mark.usefixtures("quick_graphs")


def test_the_index_is_rebuilt_when_stale_and_only_then(database: Database) -> None:
    assert not rebuild_if_stale(database.engine)
    fill(database, clustered(1000))
    build_index(database.engine, method="ivfflat")
    assert not rebuild_if_stale(database.engine)
    fill(database, clustered(999, seed=1), first=1000)
    assert not rebuild_if_stale(database.engine)
    fill(database, clustered(1, seed=2), first=1999)
    assert rebuild_if_stale(database.engine)
    assert state_of(database).rows_at_build == 2000


def test_a_rebuild_waits_for_locks_however_short_the_limits_of_its_connections(
    database: Database, settings: Settings
) -> None:
    """As on those of the page, whose limits are for visitors."""
    fill(database, clustered(1000))
    waits = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    built: list[bool] = []
    with open_database(settings, Timeouts(statement=5, lock=0.01)) as limited:
        rebuilding = threading.Thread(target=lambda: built.append(rebuild_if_stale(limited.engine)))
        with database.begin() as writer, database.connect() as observer:
            writer.execute(sa.text("UPDATE images SET description = 'being written' WHERE id = 1"))
            rebuilding.start()
            until(lambda: _count_and_end(observer, waits), "the build to wait for the writer")
        rebuilding.join(GIVE_UP_S)
    assert built == [True]
    assert state_of(database).rows_at_build == 1000


def _count_and_end(connection: sa.Connection, statement: sa.TextClause) -> int:
    """Return a count, in a transaction of its own."""
    found = connection.scalar(statement)
    connection.rollback()
    return found or 0


def test_a_rebuild_takes_the_best_method_unless_a_person_chose_one(database: Database) -> None:
    fill(database, clustered(1000))
    assert rebuild_if_stale(database.engine)
    state = state_of(database)
    assert (state.method, state.value_type, state.chosen) == ("hnsw", "halfvec", False)
    build_index(database.engine, method="ivfflat", value_type="vector")
    fill(database, clustered(1000, seed=1), first=1000)
    assert rebuild_if_stale(database.engine)
    state = state_of(database)
    assert (state.method, state.value_type, state.chosen, state.rows_at_build) == ("ivfflat", "vector", True, 2000)


def test_a_graph_is_tuned_again_when_the_rows_have_doubled(database: Database) -> None:
    cache_texts(database, real_like_texts(50))
    fill(database, real_like(1000))
    assert rebuild_if_stale(database.engine)
    first = state_of(database).tuned
    assert first is not None
    fill(database, real_like(1000, seed=1), first=1000)
    assert state_of(database).outgrown_tuning
    assert not rebuild_if_stale(database.engine)
    state = state_of(database)
    assert state.tuned is not None
    assert (state.rows_at_build, state.tuned.row_count, state.outgrown_tuning) == (1000, 2000, False)
    assert state.setting == state.tuned.setting


def test_a_rebuild_tunes_itself_on_the_stored_texts(database: Database) -> None:
    vectors = real_like(2000)
    cache_texts(database, real_like_texts(100))
    fill(database, vectors)
    assert rebuild_if_stale(database.engine)
    state = state_of(database)
    assert state.tuned is not None
    assert (state.tuned.kind, state.tuned.target, state.tuned.queries) == ("text", 0.98, 100)
    assert state.tuned_since_build
    assert state.setting == state.tuned.setting
    assert (state.recall_of("text") or 0) >= 0.98
    assert (state.recall_of("pictures") or 0) >= 0.98
    assert recall(database, vectors, real_like_texts(100, seed=7)) >= 0.97  # texts that it was not tuned with


def test_a_rebuild_without_texts_is_generous_and_does_not_claim_a_recall_for_texts(database: Database) -> None:
    vectors = real_like(1500)
    fill(database, vectors)
    assert rebuild_if_stale(database.engine)
    state = state_of(database)
    assert state.setting >= fit_ef_search(1500)
    assert state.recall_of("text") is None
    assert state.to_json()["recall"]["text"] is None
    details = dict(index_details(state))
    assert details["text"].startswith("recall not measured for texts")
    assert "on stored images alone" in details["tuned"]
    assert "on stored images alone" in dict(index_facts(state))["tuned"]
    assert recall(database, vectors, real_like_texts(50)) >= 0.97


class Texts:
    """A model of texts alone, which counts the texts it embeds."""

    shortest_edge = 224
    dimension = 512

    def __init__(self, identity: ModelIdentity = MODEL) -> None:
        self.identity = identity
        self.embedded = 0

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.embedded += len(texts)
        return real_like_texts(len(texts), seed=3)

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        raise NotImplementedError

    def resize(self, image: Image.Image) -> Image.Image:
        raise NotImplementedError


def test_a_rebuild_embeds_the_everyday_texts_where_few_are_stored(database: Database) -> None:
    fill(database, real_like(1000))
    model = Texts()
    assert rebuild_if_stale(database.engine, cache=lambda: QueryCache(model))
    assert model.embedded == len(EVERYDAY_TEXTS)
    assert not rebuild_if_stale(database.engine, cache=lambda: QueryCache(model))
    state = state_of(database)
    assert state.tuned is not None
    assert (state.tuned.kind, state.tuned.queries) == ("text", len(EVERYDAY_TEXTS))
    cache_texts(database, real_like_texts(100))
    other = Texts()
    assert build_index(database.engine, cache=lambda: QueryCache(other)) is not None
    assert other.embedded == 0


def test_a_model_that_is_missing_or_not_the_collections_prevents_no_build(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> QueryCache:
        raise ModelUnavailableError("some/model", "there is no network")

    def another() -> QueryCache:
        return QueryCache(Texts(ModelIdentity(name="another", weights_sha256=b"o" * 32, dimension=512)))

    fill(database, real_like(1000))
    for cache in (missing, another):
        caplog.clear()
        built = build_index(database.engine, cache=cache)
        assert built is not None
        assert built.recall_of("text") is None
        assert "the everyday texts, to tune the index with, were not embedded" in caplog.text


def test_requests_during_a_rebuild_lead_to_one_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, calls = 0, 0, 0
    started, proceed = threading.Event(), threading.Event()

    def rebuild_slowly(_engine: sa.Engine) -> bool:
        nonlocal running, most, calls
        running, calls = running + 1, calls + 1
        most = max(most, running)
        started.set()
        proceed.wait(GIVE_UP_S)
        running -= 1
        return True

    monkeypatch.setattr(rebuild, "rebuild_if_stale", rebuild_slowly)
    rebuilder = BackgroundRebuilder()
    rebuilder.request(database.engine)
    assert started.wait(GIVE_UP_S)
    for _ in range(20):
        rebuilder.request(database.engine)
    proceed.set()
    rebuilder.join()
    assert most == 1
    assert calls == 2  # for the first request, and once for all that came during it


def test_a_stale_index_is_rebuilt_in_the_background(database: Database) -> None:
    fill(database, clustered(1000))
    with database.connect() as connection:
        assert index_status(connection).stale
    rebuilder = BackgroundRebuilder()
    rebuilder.request(database.engine)
    rebuilder.join()
    with database.connect() as connection:
        assert not index_status(connection).stale
