"""Relevance tells what is in the collection from what is not, for any text, and at a bounded cost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import image_sample, images, relevance_scale
from searchdb.demo.composition import KINDS, SETTINGS
from searchdb.errors import BusyError, QueryError
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import Hit, ModelIdentity
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.image_sample import MIN_SAMPLE, refresh_sample
from searchdb.search.searcher import Query, Searcher
from tests.helpers.album import copy_album
from tests.helpers.waiting import GIVE_UP_S

REMOVED = ("cat", "boat", "umbrella", "moon", "banana", "kite")
UNKNOWN = ("a submarine", "tax invoice", "a helicopter", "an electric guitar", "quarterly sales spreadsheet", "xyzzy")


@dataclass
class Counting:
    """The small CLIP, which counts the texts that it embeds."""

    embedder: CLIPEmbedder
    texts: int = 0

    @property
    def identity(self) -> ModelIdentity:
        return self.embedder.identity

    @property
    def dimension(self) -> int:
        return self.embedder.dimension

    @property
    def shortest_edge(self) -> int:
        return self.embedder.shortest_edge

    def resize(self, image: Image.Image) -> Image.Image:
        return self.embedder.resize(image)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += len(texts)
        return self.embedder.embed_texts(texts)

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        return self.embedder.embed_images(images)


def best(searcher: Searcher, text: str) -> float:
    hits = searcher.search(Query(text=text), threshold=-1, count=1)
    assert hits[0].relevance is not None
    return hits[0].relevance


def area_under_curve(present: Sequence[float], absent: Sequence[float]) -> float:
    """Return the probability that a query for something present scores above one for something absent."""
    pairs = np.subtract.outer(present, absent)
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


@pytest.mark.slow
def test_absent_things_score_clearly_below_present_ones(
    demo_collection: SearchDB, database: Database, embedder: CLIPEmbedder
) -> None:
    searcher = Searcher(database.engine, embedder)
    present: list[float] = []
    absent: list[float] = []
    unknown: list[float] = []
    for kind in REMOVED:
        copy_album(demo_collection, database, without=kind)
        present += [best(searcher, f"a {other}") for other in KINDS if other != kind]
        absent.append(best(searcher, f"a {kind}"))
        unknown += [best(searcher, text) for text in UNKNOWN]
    assert area_under_curve(present, absent) >= 0.95
    assert area_under_curve(present, unknown) >= 0.95
    assert np.median(present) > 0.85
    assert np.median(absent) < 0.7
    assert max(unknown) < 0.3


def test_an_absent_thing_has_only_irrelevant_hits(demo_collection: SearchDB) -> None:
    assert all(relevance_of(hit) < 0.3 for hit in demo_collection.search("a submarine", threshold=-1, count=40))
    assert all(relevance_of(hit) > 0.7 for hit in demo_collection.search("a cat", count=5))


def relevance_of(hit: Hit) -> float:
    assert hit.relevance is not None
    return hit.relevance


@pytest.mark.parametrize("setting", ["sea", "snow"])
def test_what_all_images_show_is_relevant(
    demo_collection: SearchDB, database: Database, embedder: CLIPEmbedder, setting: str
) -> None:
    copy_album(demo_collection, database, only=setting)
    searcher = Searcher(database.engine, embedder)
    there = best(searcher, setting)
    assert there > 0.8
    assert there > max(best(searcher, other) for other in SETTINGS if other != setting)


def test_relevance_nearly_follows_similarity(demo_collection: SearchDB) -> None:
    hits = demo_collection.search("a red car", threshold=-1, count=300)
    ranks = np.argsort(np.argsort([(hit.similarity, relevance_of(hit)) for hit in hits], axis=0), axis=0)
    assert np.corrcoef(ranks, rowvar=False).min() > 0.9  # Spearman's correlation
    assert all(0 < relevance_of(hit) < 1 for hit in hits)


@pytest.mark.parametrize("text", ["🎉🎉🎉", "кошка", "猫", "lkj qwpoe zxmn", "!!!", "a"])
def test_what_the_model_cannot_read_is_not_certain(demo_collection: SearchDB, text: str) -> None:
    assert all(relevance_of(hit) < 0.9 for hit in demo_collection.search(text, threshold=-1, count=300))


def test_a_minimum_relevance_is_applied(demo_collection: SearchDB) -> None:
    hits = demo_collection.search("a dog", threshold=-1, count=300)
    for least in (0.3, 0.7):
        expected = [hit for hit in hits if relevance_of(hit) >= least]
        assert 0 < len(expected) < 300
        assert demo_collection.search("a dog", min_relevance=least, threshold=-1, count=300) == expected
    assert demo_collection.search("a submarine", min_relevance=0.5, threshold=-1) == []


def test_with_several_parts_relevance_is_about_the_text(demo_collection: SearchDB) -> None:
    alone = {hit.id: hit for hit in demo_collection.search("a dog", threshold=-1, count=300)}
    hits = demo_collection.search("a dog", like=3, exclude="night", threshold=-1, count=300)
    assert len(hits) == 299
    for hit in hits:
        assert hit.parts is not None
        assert hit.parts["text"] == pytest.approx(alone[hit.id].similarity, abs=1e-6)
        assert hit.relevance == pytest.approx(alone[hit.id].relevance, abs=1e-6)
    expected = [hit.id for hit in hits if relevance_of(hit) >= 0.6]
    least = demo_collection.search("a dog", like=3, exclude="night", threshold=-1, count=300, min_relevance=0.6)
    assert [hit.id for hit in least] == expected


def test_without_a_text_hits_have_no_relevance(demo_collection: SearchDB) -> None:
    assert {hit.relevance for hit in demo_collection.search(like=3, exclude="snow")} == {None}
    with pytest.raises(QueryError, match="min_relevance needs a text"):
        demo_collection.search(like=3, min_relevance=0.5)
    with pytest.raises(QueryError, match="between 0 and 1"):
        demo_collection.search("a dog", min_relevance=1.5)


def test_few_images_have_no_relevance(demo_collection: SearchDB, database: Database, embedder: CLIPEmbedder) -> None:
    copy_album(demo_collection, database)
    with database.begin() as connection:
        few = sa.select(images.c.id).order_by(images.c.id).limit(MIN_SAMPLE - 1)
        connection.execute(sa.delete(images).where(images.c.id.not_in(few)))
    searcher = Searcher(database.engine, embedder)
    hits = searcher.search(Query(text="a dog"), threshold=-1, count=50)
    assert [hit.relevance for hit in hits] == [None] * (MIN_SAMPLE - 1)
    with pytest.raises(QueryError, match="less than 20 images"):
        searcher.search(Query(text="a dog"), threshold=-1, min_relevance=0.5)


def test_a_missing_sample_is_drawn_and_the_words_embedded_once(
    demo_collection: SearchDB, database: Database, embedder: CLIPEmbedder
) -> None:
    copy_album(demo_collection, database)
    with database.begin() as connection:
        connection.execute(sa.delete(image_sample))
    counting = Counting(embedder)
    searcher = Searcher(database.engine, counting)
    first = searcher.search(Query(text="a dog"))
    asked = counting.texts
    assert searcher.search(Query(text="a dog")) == first
    assert counting.texts == asked
    assert (count(database, image_sample), count(database, relevance_scale)) == (300, 1)


def test_while_the_scale_is_measured_other_searches_have_hits_without_relevance(
    demo_collection: SearchDB, database: Database, embedder: CLIPEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_album(demo_collection, database)
    monkeypatch.setattr("searchdb.search.image_sample.MEASURE_WAIT_S", 0.05)
    gate = Gate(embedder)
    searcher = Searcher(database.engine, gate, everyday_texts=("slow", *EVERYDAY_TEXTS))  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(searcher.search, Query(text="a boat"))
        gate.reached.wait(GIVE_UP_S)
        assert {hit.relevance for hit in searcher.search(Query(text="a cat"))} == {None}
        with pytest.raises(BusyError):
            searcher.search(Query(text="a cat"), min_relevance=0.5)
        gate.opened.set()
        assert None not in {hit.relevance for hit in first.result(GIVE_UP_S)}
    assert None not in {hit.relevance for hit in searcher.search(Query(text="a cat"))}


class Gate:
    """The small CLIP, which waits at the text "slow"."""

    def __init__(self, embedder: CLIPEmbedder) -> None:
        self._embedder = embedder
        self.reached, self.opened = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        if "slow" in texts:
            self.reached.set()
            assert self.opened.wait(GIVE_UP_S)
        return self._embedder.embed_texts(texts)


def test_the_sample_is_deleted_with_its_images_and_drawn_again(
    demo_collection: SearchDB, database: Database, embedder: CLIPEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_album(demo_collection, database)
    searcher = Searcher(database.engine, embedder)
    searcher.search(Query(text="a dog"))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        refresh_sample(connection)
    assert (count(database, image_sample), count(database, relevance_scale)) == (300, 0)
    with database.begin() as connection:
        connection.execute(sa.delete(images).where(images.c.id % 3 > 0))
    assert count(database, image_sample) == count(database, images) < 150
    with database.begin() as connection:
        some = sa.select(image_sample.c.image_id).limit(60)
        connection.execute(sa.delete(image_sample).where(image_sample.c.image_id.in_(some)))
    searcher.search(Query(text="a dog"))
    assert count(database, image_sample) == count(database, images)


def test_a_cached_background_is_not_used_with_a_new_sample(
    demo_collection: SearchDB, database: Database, settings: Settings, embedder: CLIPEmbedder
) -> None:
    def relevances(searcher: Searcher) -> list[float | None]:
        return [hit.relevance for hit in searcher.search(Query(text="a dog"), threshold=-1)]

    copy_album(demo_collection, database)
    searcher = Searcher(database.engine, embedder)
    before = relevances(searcher)
    assert relevances(searcher) == before
    copy_album(demo_collection, database, without="night")
    after = relevances(searcher)
    assert after != before
    with Database(settings) as other:  # as in another process, with nothing cached
        assert relevances(Searcher(other.engine, embedder)) == pytest.approx(after, abs=1e-5)


def count(database: Database, table: sa.Table) -> int:
    with database.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_an_empty_collection_has_nothing_to_judge_by(database: Database, embedder: CLIPEmbedder) -> None:
    assert Searcher(database.engine, embedder).search(Query(text="a dog"), min_relevance=0.5) == []


def test_identical_images(database: Database, embedder: CLIPEmbedder) -> None:
    vector = embedder.embed_texts(["a dog"])[0]
    common = {"source": "test", "sha256": b"", "width": 1, "height": 1, "byte_size": 1, "embedding": vector}
    with database.begin() as connection:
        common["embedding_model_id"] = claim_model(connection, embedder.identity)
        connection.execute(sa.insert(images), [{**common, "image": f"/{n}"} for n in range(MIN_SAMPLE)])
    hits = Searcher(database.engine, embedder).search(Query(text="a dog"), threshold=-1, count=50)
    assert len(hits) == MIN_SAMPLE
    assert all(0 <= relevance_of(hit) <= 1 for hit in hits)
