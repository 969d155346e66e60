"""Combined queries: how parts are weighed, on made-up vectors and on the demo album."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from searchdb.client import SearchDB
from searchdb.db.database import Database
from searchdb.db.tables import image_sample
from searchdb.embedder import Embedder
from searchdb.errors import ImageNotFoundError, QueryError
from searchdb.records import Hit
from searchdb.search import relevance
from searchdb.search.combination import IMAGE_SPREAD, TEXT_FACTOR, TEXT_SPREAD, UNWANTED_FACTOR, combine, unit, weigh
from searchdb.search.query import MAX_EXAMPLES, Query
from searchdb.search.searcher import Searcher
from tests.helpers.vectors import MODEL, fill

KINDS = 6
EACH = 30
STYLES = 20
FIRST = 10


class Cones:
    """Made-up vectors of images and texts of KINDS kinds in many styles, in two narrow cones, as CLIP's are.

    An image's similarities spread about four times as far as a text's.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        axes = np.linalg.qr(rng.normal(size=(512, 2 + KINDS + STYLES)))[0].T
        image_axis, text_axis, kinds, styles = axes[0], axes[1], axes[2 : 2 + KINDS], axes[2 + KINDS :] / STYLES**0.5
        self.kind = np.repeat(np.arange(KINDS), EACH)
        style_of_image = rng.normal(size=(KINDS * EACH, STYLES)) @ styles
        style_of_text = rng.normal(size=(KINDS, STYLES)) @ styles
        self.images = _units(image_axis + 0.35 * kinds[self.kind] + 0.7 * style_of_image)
        self.texts = _units(0.2 * image_axis + text_axis + 0.15 * kinds + 0.1 * style_of_text)

    def spreads(self, parts: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {name: float((self.images @ part).std()) for name, part in parts.items()}

    def first(self, parts: Mapping[str, np.ndarray], text_weight: float | None = None) -> np.ndarray:
        """Return the kinds of the first hits."""
        vector = combine(parts, weigh(self.spreads(parts), text_weight))
        return self.kind[np.argsort(-(self.images @ vector))[:FIRST]]

    def shares(self, text_weight: float | None) -> tuple[float, float]:
        """Return the shares of the text's and the image's kind among the first hits, for images with another text."""
        firsts = [
            (kind, other, self.first({"text": self.texts[kind], "image": self.images[other * EACH]}, text_weight))
            for kind in range(KINDS)
            for other in range(KINDS)
            if kind != other
        ]
        return (
            float(np.mean([first == kind for kind, _, first in firsts])),
            float(np.mean([first == other for _, other, first in firsts])),
        )


def _units(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def cones() -> Cones:
    return Cones()


# --- The arithmetic -----------------------------------------------------------------------------------


def test_each_part_moves_the_ranking_as_much_as_its_weight_says(cones: Cones) -> None:
    parts = {"text": cones.texts[0], "image": cones.images[-1]}
    spreads = cones.spreads(parts)
    assert spreads["image"] > 3 * spreads["text"]
    weights = weigh(spreads)
    moved = {name: weights[name] * spreads[name] for name in parts}
    assert moved["text"] == pytest.approx(TEXT_FACTOR * moved["image"])
    assert sum(weights.values()) == pytest.approx(1)


def test_text_and_image_both_count_where_a_plain_sum_shows_the_image_alone(cones: Cones) -> None:
    text, image = cones.shares(None)
    assert text >= 0.45
    assert image >= 0.2
    plain = []
    for kind in range(KINDS - 1):
        similarities = cones.images @ unit(cones.texts[kind] + cones.images[-1])
        plain.append(cones.kind[np.argsort(-similarities)[:FIRST]] == kind)
    assert np.mean(plain) <= 0.25


def test_the_text_weight_leads_from_the_image_to_the_text(cones: Cones) -> None:
    shares = [cones.shares(weight) for weight in (0, 0.4, 0.5, 0.6, 1)]
    assert shares[0][0] < 0.1
    assert shares[0][1] > 0.6
    assert shares[-1] == (1, 0)
    texts, images = zip(*shares, strict=True)
    assert list(texts) == sorted(texts)
    assert list(images) == sorted(images, reverse=True)
    assert shares[2] == cones.shares(None)


def test_what_is_not_wanted_counts_about_half() -> None:
    weights = weigh({"text": 0.02, "not": 0.01})
    assert weights["not"] * 0.01 == pytest.approx(-UNWANTED_FACTOR * weights["text"] * 0.02)
    assert sum(map(abs, weights.values())) == pytest.approx(1)
    weights = weigh({"like": 0.1, "unlike": 0.05})
    assert weights["unlike"] * 0.05 == pytest.approx(-UNWANTED_FACTOR * weights["like"] * 0.1)


def test_several_images_share_the_weight_of_one_and_so_do_several_unwanted_parts() -> None:
    spreads = {"text": 0.02, "image": 0.08, "like": 0.08, "not": 0.02, "unlike": 0.08}
    moved = {name: weight * spreads[name] for name, weight in weigh(spreads).items()}
    assert moved["image"] == pytest.approx(moved["like"])
    assert moved["text"] == pytest.approx(TEXT_FACTOR * (moved["image"] + moved["like"]))
    assert moved["unlike"] == pytest.approx(-UNWANTED_FACTOR * (moved["image"] + moved["like"]))
    assert moved["not"] == pytest.approx(TEXT_FACTOR * moved["unlike"])


def test_at_its_ends_the_text_weight_leaves_the_query_without_the_other_part() -> None:
    spreads = {"text": 0.02, "like": 0.08, "not": 0.03}
    for end, gone, left in ((0.0, "text", "like"), (1.0, "like", "text")):
        without = weigh({name: spread for name, spread in spreads.items() if name != gone})
        weights = weigh(spreads, end)
        assert weights.pop(gone) == 0
        assert weights == pytest.approx(without), left


def test_images_without_any_spread_give_a_vector(cones: Cones) -> None:
    parts = {"text": cones.texts[0], "image": cones.images[0]}
    weights = weigh(dict.fromkeys(parts, 0.0))
    assert np.linalg.norm(combine(parts, weights)) == pytest.approx(1)


def test_wanting_and_excluding_the_same_is_an_error(cones: Cones) -> None:
    parts = {"text": cones.texts[0], "not": cones.texts[0]}
    with pytest.raises(QueryError, match="cancel each other out"):
        combine(parts, weigh(cones.spreads(parts)))
    with pytest.raises(QueryError, match="cancel each other out"):
        unit(np.zeros(512, np.float32))


# --- The spreads, measured in the database -------------------------------------------------------------


class Unused:
    """A model that no query of vectors and ids needs."""

    identity = MODEL
    dimension = MODEL.dimension
    shortest_edge = 1

    def resize(self, image: Any) -> Any:
        raise AssertionError(image)

    embed_texts = embed_images = resize


def sampled(database: Database) -> int:
    with database.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(image_sample)) or 0


def test_spreads_are_measured_on_a_sample_that_is_drawn_when_it_is_missing(database: Database, cones: Cones) -> None:
    fill(database, cones.images)
    query = Query(vector=cones.texts[0], like=1)
    searcher = Searcher(database.engine, _model())
    weights = searcher.weights(query)
    assert sampled(database) == len(cones.images)
    expected = weigh(cones.spreads({"image": cones.texts[0], "like": cones.images[0]}))
    assert weights == pytest.approx(expected, rel=1e-3)


def test_a_small_collection_has_the_usual_spreads(database: Database, cones: Cones) -> None:
    fill(database, cones.images[: relevance.MIN_SAMPLE - 1])
    weights = Searcher(database.engine, _model()).weights(Query(like=[1, 2], unlike=3))
    assert weights == weigh({"like": IMAGE_SPREAD, "unlike": IMAGE_SPREAD})
    assert TEXT_SPREAD < IMAGE_SPREAD


def test_a_read_only_database_without_a_sample_has_the_usual_spreads(database: Database, cones: Cones) -> None:
    fill(database, cones.images)

    def refuse_writes(connection: sa.Connection) -> None:
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))

    event.listen(database.engine, "begin", refuse_writes)
    try:
        weights = Searcher(database.engine, _model()).weights(Query(like=1, unlike=40))
    finally:
        event.remove(database.engine, "begin", refuse_writes)
    assert weights == weigh({"like": IMAGE_SPREAD, "unlike": IMAGE_SPREAD})
    assert sampled(database) == 0


def _model() -> Embedder:
    return Unused()


# --- Searching the album ------------------------------------------------------------------------------


def ids(hits: Collection[Hit]) -> list[int]:
    return [hit.id for hit in hits]


def tagged(hits: Collection[Hit], tag: str) -> int:
    return sum(tag in hit.tags for hit in hits)


@pytest.fixture(scope="module")
def boats(demo_collection: SearchDB) -> list[int]:
    return ids(demo_collection.search("a boat", tag="boat", count=6))


def test_an_image_with_a_text_finds_images_of_both(demo_collection: SearchDB, boats: list[int]) -> None:
    firsts = [demo_collection.search("snow", like=boat, count=10) for boat in boats]
    by_text = [demo_collection.search("snow", exclude_id=boat, count=10) for boat in boats]
    assert sum(tagged(hits, "snow") for hits in firsts) >= 5 * len(boats)
    assert sum(tagged(hits, "boat") for hits in firsts) > 1.5 * sum(tagged(hits, "boat") for hits in by_text)


def test_the_text_weight_goes_from_the_image_to_the_text(demo_collection: SearchDB, boats: list[int]) -> None:
    liked = boats[0]
    at = {weight: demo_collection.search("snow", like=liked, text_weight=weight) for weight in (0.0, 0.5, 1.0)}
    assert ids(at[0.0]) == ids(demo_collection.search(like=liked))
    assert ids(at[0.5]) == ids(demo_collection.search("snow", like=liked))
    assert ids(at[1.0]) == ids(demo_collection.search("snow", exclude_id=liked))
    assert tagged(at[0.0], "snow") <= tagged(at[0.5], "snow") <= tagged(at[1.0], "snow")
    assert at[0.0][0].parts is not None


def test_liked_images_count_by_their_mean_and_are_no_hits(demo_collection: SearchDB, boats: list[int]) -> None:
    with demo_collection.database.connect() as connection:
        statement = sa.text("SELECT embedding FROM images WHERE id = ANY(:ids)")
        mean = np.mean([vector.to_numpy() for vector in connection.scalars(statement, {"ids": boats})], axis=0)
        nearest = sa.text("SELECT id, similarity FROM match_images(:v, -1, 300)")
        rows = [row for row in connection.execute(nearest, {"v": mean}) if row.id not in boats]
    hits = demo_collection.search(like=boats, threshold=-1, count=300)
    assert ids(hits) == [row.id for row in rows]
    assert [hit.similarity for hit in hits] == pytest.approx([row.similarity for row in rows], abs=1e-5)
    assert ids(demo_collection.search(like=[*boats, *boats], threshold=-1, count=300)) == ids(hits)
    assert ids(demo_collection.search(like=boats[:1])) == ids(demo_collection.search(like=boats[0]))


def test_disliked_images_lower_what_is_like_them(demo_collection: SearchDB, boats: list[int]) -> None:
    everything = demo_collection.search("a boat", count=20)
    at_night = [hit.id for hit in demo_collection.search("a boat at night", tag=["boat", "night"], count=3)]
    hits = demo_collection.search("a boat", unlike=at_night, count=20)
    assert not set(ids(hits)) & set(at_night)
    assert tagged(hits, "night") < tagged(everything, "night")
    assert tagged(hits, "boat") >= 15
    liked = [boat for boat in boats if boat not in at_night]
    both = demo_collection.search(like=liked, unlike=at_night, tag="boat", count=5)
    assert both
    assert not set(ids(both)) & {*liked, *at_night}
    assert all(hit.parts is not None and list(hit.parts) == ["like", "unlike"] for hit in both)


def test_relevance_is_about_the_text_alone(demo_collection: SearchDB) -> None:
    alone = {hit.id: hit.relevance for hit in demo_collection.search("snow", threshold=-1, count=300)}
    for hit in demo_collection.search("snow", like=[3, 4], unlike=5, exclude="a boat"):
        assert hit.relevance == pytest.approx(alone[hit.id], abs=1e-4)


def test_pages_of_a_query_with_many_examples_follow_each_other(demo_collection: SearchDB) -> None:
    liked, disliked = range(1, 41), range(41, 81)
    whole = ids(demo_collection.search(like=liked, unlike=disliked, threshold=-1, count=300))
    assert sorted(whole) == list(range(81, 301))
    pages = [
        number
        for offset in range(0, 240, 60)
        for number in ids(demo_collection.search(like=liked, unlike=disliked, threshold=-1, count=60, offset=offset))
    ]
    assert pages == whole


def test_a_combined_query_costs_one_statement_more_than_its_parts(demo_collection: SearchDB) -> None:
    def count(query: Query) -> int:
        statements: list[str] = []

        def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        demo_collection.searcher.search(query)
        event.listen(demo_collection.database.engine, "before_cursor_execute", record)
        try:
            demo_collection.searcher.search(query)
        finally:
            event.remove(demo_collection.database.engine, "before_cursor_execute", record)
        return len(statements)

    assert count(Query(like=3)) == 2
    assert count(Query(like=3, unlike=[4, 5])) == 3


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"unlike": 3}, None, "nothing to look for"),
        ({"like": []}, None, "nothing to look for"),
        ({"like": [3, 4], "unlike": [4]}, "unlike", "image 4 is in like and in unlike"),
        ({"like": range(1, MAX_EXAMPLES + 2)}, "like", "has 101 images, the limit is 100"),
        ({"like": 1, "unlike": range(2, MAX_EXAMPLES + 3)}, "unlike", "has 101 images, the limit is 100"),
        ({"text": "snow", "text_weight": 0.5}, "text_weight", "needs a text and an image"),
        ({"text": "snow", "exclude": "a boat", "text_weight": 0.5}, "text_weight", "needs a text and an image"),
        ({"like": 3, "text_weight": 0.5}, "text_weight", "needs a text and an image"),
        ({"text": "snow", "like": 3, "text_weight": 1.01}, "text_weight", "between 0 and 1"),
        ({"text": "snow", "like": 3, "text_weight": float("nan")}, "text_weight", "between 0 and 1"),
    ],
)
def test_what_cannot_be_combined_is_an_error(
    demo_collection: SearchDB, arguments: dict[str, Any], field: str | None, message: str
) -> None:
    with pytest.raises(QueryError, match=message) as raised:
        demo_collection.search(**arguments)
    assert raised.value.field == field


@pytest.mark.parametrize("arguments", [{"like": [3, 10**9]}, {"like": 3, "unlike": [10**9]}, {"like": [3, -1]}])
def test_an_unknown_example_is_an_error(demo_collection: SearchDB, arguments: dict[str, Any]) -> None:
    with pytest.raises(ImageNotFoundError, match=r"1000000000|-1"):
        demo_collection.search(**arguments)
