"""Searches the demo collection by text, image, stored image, and combinations of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from sqlalchemy import event

from searchdb.client import SearchDB
from searchdb.config import QUERY_CACHE_SHARE, Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database
from searchdb.db.tables import embedding_models, query_embeddings
from searchdb.errors import ImageNotFoundError, ModelMismatchError, QueryError
from searchdb.media.embed import DEMO_FOLDER
from searchdb.records import Hit
from searchdb.search.query_cache import ROW_BYTES, QueryCache
from searchdb.search.searcher import MAX_HITS, MAX_QUERY_CHARACTERS, Query, Searcher


def tagged(hits: list[Hit], *tags: str) -> int:
    return sum(set(tags) <= set(hit.tags) for hit in hits)


def test_a_text_finds_what_it_names(demo_collection: SearchDB) -> None:
    hits = demo_collection.search("a boat at sunset", count=5)
    assert len(hits) == 5
    assert tagged(hits, "boat", "sunset") >= 4
    similarities = [hit.similarity for hit in hits]
    assert similarities == sorted(similarities, reverse=True)
    assert all(-1 <= similarity <= 1 for similarity in similarities)


def test_an_image_finds_itself_first_by_file_by_object_and_by_id(demo_collection: SearchDB) -> None:
    stored = demo_collection.searcher.get(7)
    by_file = demo_collection.search(image=stored.image, count=3)
    assert by_file[0].id == 7
    assert by_file[0].similarity == pytest.approx(1, abs=1e-4)
    # Similarities, not ids: ids depend on the order of ingest, and two images may be equally similar to a third.
    similarities = [hit.similarity for hit in by_file]
    with Image.open(stored.image) as image:
        by_object = demo_collection.search(image=image, count=3)
    assert by_object[0].id == 7
    # On processors with bfloat16 an image's vector depends a little on the images that it was embedded with.
    assert [hit.similarity for hit in by_object] == pytest.approx(similarities, abs=3e-3)
    by_id = demo_collection.search(like=7, count=3)
    assert 7 not in [hit.id for hit in by_id]
    assert [hit.similarity for hit in by_id[:2]] == pytest.approx(similarities[1:], abs=3e-3)


def test_excluded_content_ranks_lower(demo_collection: SearchDB) -> None:
    everywhere = demo_collection.search("a house", count=20)
    not_snow = demo_collection.search("a house", exclude="snow", count=20)
    assert tagged(not_snow, "snow") < max(1, tagged(everywhere, "snow"))


def test_pages_follow_each_other(demo_collection: SearchDB) -> None:
    whole = [hit.id for hit in demo_collection.search("a dog", threshold=-1, count=60)]
    pages = [
        hit.id
        for offset in range(0, 60, 20)
        for hit in demo_collection.search("a dog", threshold=-1, count=20, offset=offset)
    ]
    assert pages == whole
    assert len(set(whole)) == 60


def test_the_threshold_is_the_least_similarity(demo_collection: SearchDB) -> None:
    hits = demo_collection.search("a dog", threshold=-1, count=10)
    boundary = hits[4].similarity
    assert [hit.id for hit in demo_collection.search("a dog", threshold=boundary)] == [hit.id for hit in hits[:5]]
    assert demo_collection.search("a dog", threshold=1) == []


def test_a_repeated_text_costs_no_model_call(demo_collection: SearchDB) -> None:
    class Broken:
        identity = demo_collection.embedder.identity
        dimension = demo_collection.embedder.dimension
        shortest_edge = demo_collection.embedder.shortest_edge

        def resize(self, image: Image.Image) -> Image.Image:
            raise AssertionError(f"the model was asked for {image}")

        def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
            raise AssertionError(f"the model was asked for {texts}")

        def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
            raise AssertionError(f"the model was asked for {images}")

    first = demo_collection.search("a kite in the desert")
    again = Searcher(demo_collection.database.engine, Broken()).search(Query(text="  a kite in the desert "))
    assert again == first


def test_each_part_of_a_query_is_explained(demo_collection: SearchDB) -> None:
    with Image.open(demo_collection.searcher.get(9).image) as image:
        hits = demo_collection.search("a red car", image=image, like=3, exclude="snow", unlike=8, count=5)
        by_image = {hit.id: hit.similarity for hit in demo_collection.search(image=image, threshold=-1, count=300)}
    by_text = {hit.id: hit.similarity for hit in demo_collection.search("a red car", threshold=-1, count=300)}
    by_excluded = {hit.id: hit.similarity for hit in demo_collection.search("snow", threshold=-1, count=300)}
    by_id = {hit.id: hit.similarity for hit in demo_collection.search(like=3, threshold=-1, count=300)}
    by_disliked = {hit.id: hit.similarity for hit in demo_collection.search(like=8, threshold=-1, count=300)}
    for hit in hits:
        expected = {"text": by_text[hit.id], "image": by_image[hit.id], "like": by_id[hit.id]}
        assert hit.parts == pytest.approx({**expected, "not": by_excluded[hit.id], "unlike": by_disliked[hit.id]})
    assert all(hit.parts is None for hit in demo_collection.search("a red car"))


def test_filters_by_their_names(demo_collection: SearchDB) -> None:
    hits = demo_collection.search("a boat", tag=["boat", "sunset"], orientation="landscape", threshold=-1, count=50)
    assert hits
    assert tagged(hits, "boat", "sunset") == len(hits)
    with pytest.raises(TypeError, match="colour"):
        demo_collection.search("a boat", colour="red")  # pyright: ignore[reportCallIssue]


def test_the_cache_is_bounded_and_the_least_recently_used_go_first(settings: Settings) -> None:
    ten_texts = 10 * (ROW_BYTES + 2 * len("text 0")) / QUERY_CACHE_SHARE
    with SearchDB(settings.model_copy(update={"max_cache_bytes": int(ten_texts)})) as collection:
        for n in range(10):
            collection.embed([f"text {n}"])
        with collection.database.begin() as connection:
            old = sa.update(query_embeddings).values(last_used_at=sa.func.now() - sa.text("interval '1 day'"))
            connection.execute(old.where(query_embeddings.c.query.in_([f"text {n}" for n in range(5)])))
        collection.embed(["text 0"])  # refreshes last_used_at
        collection.embed(["one more"])
        with collection.database.connect() as connection:
            left = set(connection.scalars(sa.select(query_embeddings.c.query)))
    assert 8 <= len(left) <= 9
    assert {"text 0", "one more", *(f"text {n}" for n in range(5, 10))} <= left


def test_reading_the_cache_rarely_writes(collection: SearchDB) -> None:
    def last_used() -> object:
        with collection.database.connect() as connection:
            return connection.scalar(sa.select(query_embeddings.c.last_used_at))

    collection.embed(["a text"])
    first = last_used()
    collection.embed(["a text"])
    assert last_used() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to look for"),
        ({"exclude": "snow"}, "nothing to look for"),
        ({"text": " \t"}, "empty"),
        ({"text": "\x00"}, "empty"),
        ({"text": "x" * (MAX_QUERY_CHARACTERS + 1)}, "limit is 2,000"),
        ({"text": "é" * MAX_QUERY_CHARACTERS}, "limit is 2,000"),
        ({"text": "x", "exclude": "x"}, "cancel each other out"),
        ({"text": "x", "threshold": 1.5}, "between -1 and 1"),
        ({"text": "x", "threshold": float("nan")}, "between -1 and 1"),
        ({"text": "x", "count": 0}, "count starts at 1"),
        ({"text": "x", "offset": -1}, "offset at 0"),
        ({"text": "x", "count": 10, "offset": MAX_HITS - 9}, "no deeper than 1,000"),
        ({"image": "/no/such.jpg"}, r"cannot search by /no/such\.jpg"),
        ({"image": ""}, "empty name"),
    ],
)
def test_an_invalid_query_raises_an_error_that_says_why(
    demo_collection: SearchDB, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        demo_collection.search(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("image_id", [0, -1, 10**9, 2**62, 2**70])
def test_an_unknown_id_is_an_error(demo_collection: SearchDB, image_id: int) -> None:
    with pytest.raises(ImageNotFoundError, match=str(image_id)):
        demo_collection.search(like=image_id)
    with pytest.raises(ImageNotFoundError):
        demo_collection.searcher.get(image_id)


def test_a_sample_has_no_duplicates_and_is_everything_in_a_small_collection(demo_collection: SearchDB) -> None:
    sample = [stored.id for stored in demo_collection.searcher.sample(24)]
    assert len(sample) == len(set(sample)) == 24
    assert {stored.id for stored in demo_collection.searcher.sample(900)} == set(range(1, 301))


def test_an_empty_collection_has_no_hits_and_accepts_queries(collection: SearchDB) -> None:
    assert collection.search("anything") == []
    assert collection.searcher.sample(5) == []
    with collection.database.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(query_embeddings)) == 1


def test_another_model_is_rejected_with_both_names(demo_collection: SearchDB, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    from searchdb.media.embed import CLIPEmbedder

    folder = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["logit_scale"] = weights["logit_scale"] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    searcher = Searcher(demo_collection.database.engine, CLIPEmbedder(str(folder)))
    with pytest.raises(ModelMismatchError, match=f"with demo .*but the model in use is {folder}"):
        searcher.search(Query(text="a dog"))


@pytest.mark.slow
def test_searching_for_a_cached_text_does_not_load_the_model(demo_collection: SearchDB) -> None:
    demo_collection.search("a red boat", count=1)
    url = demo_collection.settings.url()
    assert url is not None
    environment = {**os.environ, "DATABASE_URL": libpq_url(url), "SEARCHDB_MODEL": "demo"}
    script = (
        "import sys; from searchdb.cli import cli; cli(['search', 'a red boat'], standalone_mode=False); "
        "assert not {'torch', 'transformers', 'tokenizers'} & sys.modules.keys(), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "red boat" in done.stdout


def test_images_of_another_model_are_rejected_even_if_the_text_is_cached(
    collection: SearchDB, database: Database, album: Path
) -> None:
    collection.ingest_files(*sorted(album.glob("*.jpg"))[:5])
    assert collection.search("a boat", threshold=-1)
    with database.begin() as connection:
        connection.execute(sa.update(embedding_models).values(weights_sha256=b"\7" * 32))
    for threshold in (-1, 0.99):
        with pytest.raises(ModelMismatchError):
            collection.search("a boat", threshold=threshold)
        assert collection.search(like=1, threshold=-1)  # stored vectors can be compared with each other


def test_a_cached_search_is_one_statement(demo_collection: SearchDB) -> None:
    engine = demo_collection.database.engine
    cache = QueryCache(demo_collection.embedder, trust_memory_s=3600)
    searcher = Searcher(engine, demo_collection.embedder, cache)
    statements: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    first = searcher.search(Query(text="a red boat"))
    event.listen(engine, "before_cursor_execute", record)
    try:
        assert searcher.search(Query(text="a red boat")) == first
    finally:
        event.remove(engine, "before_cursor_execute", record)
    assert len(statements) == 1
    assert first[0].relevance is not None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"text": " "}, "text"),
        ({"text": "a boat", "exclude": "x" * 3000}, "exclude"),
        ({"text": "a boat", "threshold": 2}, "threshold"),
        ({"text": "a boat", "min_relevance": -1}, "min_relevance"),
        ({"text": "a boat", "count": 0}, "count"),
        ({"text": "a boat", "offset": 1000}, "offset"),
        ({"text": "a boat", "near": "north"}, "near"),
        ({"text": "a boat", "near": (1.0, 2.0)}, "near"),
        ({"text": "a boat", "taken_after": "soon"}, "taken_after"),
        ({"text": "a boat", "where": "width >"}, "where"),
        ({}, None),
    ],
)
def test_an_error_names_the_parameter_it_is_about(
    demo_collection: SearchDB, arguments: dict[str, Any], field: str | None
) -> None:
    with pytest.raises(QueryError) as raised:
        demo_collection.search(**arguments)
    assert raised.value.field == field
