"""One hit per video: the best frame has the video's place, and no page repeats a video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db import user_sql as sql
from searchdb.db.database import Database
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import Hit
from searchdb.search.filters import Filters
from searchdb.search.ranking import FIRST_HITS, MAX_HITS
from searchdb.search.searcher import Query
from searchdb.search.to_sql import search_to_sql
from tests.helpers.databases import NewSettings
from tests.helpers.stored_images import StoredImages
from tests.helpers.stored_videos import StoredVideos

TEXTS = ("a boat", "a red boat", "two boats at sea", "a boat at sunset", "a dog", "a cat in the snow", "a tree")
VIDEOS = ("/films/sea.mp4", "/films/dogs.mp4", "https://films.example/boat.webm")
SEARCHES: dict[str, dict[str, Any]] = {
    "text": {"text": "a boat"},
    "text, deep": {"text": "a boat", "offset": 3, "count": 150},
    "combined": {"text": "a boat", "exclude": "snow"},
    "filtered": {"text": "a boat", "source": "urls"},
    "several filters": {"text": "a boat", "orientation": "landscape", "exclude_id": [1, 2]},
    "threshold": {"text": "a boat", "threshold": 0.5},
}


@pytest.fixture(scope="module")
def films(
    new_settings: NewSettings, embedder: CLIPEmbedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SearchDB]:
    """A collection with seven images and three videos of seven frames; tests only read it."""
    home = tmp_path_factory.mktemp("films")
    with new_settings(home) as settings, SearchDB(settings) as collection:
        images, videos = StoredImages(home, collection.database, embedder), videos_of(collection, embedder)
        for text in TEXTS:
            images.add(text)
        for number, video in enumerate(VIDEOS):
            turned = TEXTS[number:] + TEXTS[:number]
            videos.add(video, {2.5 * place: f"{text}, {number}" for place, text in enumerate(turned)})
        yield collection


def videos_of(collection: SearchDB, embedder: CLIPEmbedder) -> StoredVideos:
    return StoredVideos(collection.database, embedder)


def first_of_each(hits: list[Hit]) -> list[int]:
    """Return the ids of the hits without those frames whose video has a better one."""
    best: dict[str, int] = {}
    for hit in hits:
        best.setdefault(hit.video or str(hit.id), hit.id)
    return list(best.values())


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_a_video_has_the_place_of_its_best_frame(films: SearchDB, search: dict[str, Any]) -> None:
    every = films.search(**{"count": 500, **search, "offset": 0})
    best = films.search(**{"count": 500, **search}, one_per_video=True)
    assert [hit.id for hit in best] == first_of_each(every)[search.get("offset", 0) :]
    assert [hit.similarity for hit in best] == sorted((hit.similarity for hit in best), reverse=True)
    for hit in best:
        assert hit.moments == (None if hit.video is None else len(TEXTS))
    assert {hit.moments for hit in every} == {None}


def test_pages_repeat_no_video(films: SearchDB) -> None:
    pages = [
        films.search("a boat", threshold=-1, count=3, offset=offset, one_per_video=True) for offset in range(0, 12, 3)
    ]
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    ids = [hit.id for page in pages for hit in page]
    assert ids == [hit.id for hit in films.search("a boat", threshold=-1, count=10, one_per_video=True)]
    assert len({hit.video or hit.id for page in pages for hit in page}) == len(TEXTS) + len(VIDEOS)


def test_frames_of_the_same_video_are_not_similar_to_one(films: SearchDB) -> None:
    frames = films.searcher.moments(VIDEOS[0])
    hits = films.search(like=[frame.id for frame in frames[:2]], threshold=-1, count=50, one_per_video=True)
    assert len(hits) == len(TEXTS) + len(VIDEOS) - 1
    assert VIDEOS[0] not in {hit.video for hit in hits}
    assert VIDEOS[0] in {hit.video for hit in films.search(like=frames[0].id, count=50)}
    filtered = films.search(like=frames[0].id, source="files", count=50, one_per_video=True)
    assert {hit.video for hit in filtered} == {None}


@pytest.mark.parametrize("filters", [{}, {"source": ("urls", "files")}], ids=["all", "filtered"])
@pytest.mark.parametrize("query", [{"text": "a boat"}, {"like": (9, 16)}], ids=["text", "like"])
def test_the_sql_finds_the_same(films: SearchDB, query: dict[str, Any], filters: dict[str, Any]) -> None:
    asked, narrowed = Query(**query), Filters(**filters)
    hits = films.searcher.search(asked, filters=narrowed, count=8, one_per_video=True)
    statement = search_to_sql(asked, narrowed, count=8, one_per_video=True)
    films.embed(sql.texts_to_embed(statement) or ["nothing"])
    with films.database.connect() as connection:
        found = sql.run_sql(connection, statement)
    assert found.columns == ["id", "image", "similarity"]
    assert [row[0] for row in found.rows] == [hit.id for hit in hits]


def test_a_sample_has_one_frame_of_a_video(films: SearchDB) -> None:
    for _ in range(5):
        drawn = films.searcher.sample(10, one_per_video=True)
        assert len({image.video or image.id for image in drawn}) == len(drawn)
    assert len(films.searcher.sample(30)) == 28


def test_moments_are_in_time_order_and_have_the_similarity_of_a_search(films: SearchDB) -> None:
    moments = films.searcher.moments(VIDEOS[1], Query(text="a boat", exclude="snow"))
    assert [moment.time for moment in moments] == [2.5 * place for place in range(len(TEXTS))]
    hits = {hit.id: hit.similarity for hit in films.search("a boat", exclude="snow", threshold=-1, count=50)}
    for moment in moments:
        assert moment.similarity == pytest.approx(hits[moment.id], abs=1e-6)
    assert {moment.similarity for moment in films.searcher.moments(VIDEOS[1])} == {None}
    assert films.searcher.moments("/films/none.mp4") == []


@pytest.mark.parametrize("frames", [FIRST_HITS + 20, MAX_HITS + 200])
@pytest.mark.parametrize("filters", [{}, {"min_size": 1}], ids=["all", "filtered"])
def test_what_follows_a_long_video_is_found(
    settings: Settings, database: Database, embedder: CLIPEmbedder, frames: int, filters: dict[str, Any]
) -> None:
    with SearchDB(settings) as collection:
        first = videos_of(collection, embedder).add("/films/long.mp4", {0.0: "a boat"}, previews=False)[0]
        multiply(database, first, frames - 1)
        others = [videos_of(collection, embedder).add(f"/films/{text}.mp4", {1.0: text})[0] for text in TEXTS[1:]]
        hits = collection.search("a boat", threshold=-1, count=5, one_per_video=True, **filters)
        assert len(hits) == 5
        assert (hits[0].video, hits[0].moments) == ("/films/long.mp4", frames)
        assert {hit.id for hit in hits[1:]} <= set(others)
        following = collection.search("a boat", threshold=-1, count=5, offset=5, one_per_video=True, **filters)
        assert {hit.id for hit in [*hits[1:], *following]} == set(others)


def multiply(database: Database, image_id: int, times: int) -> None:
    """Store copies of a frame at other times of its video."""
    columns = "source, video, metadata, embedding, embedding_model_id, sha256, byte_size, width, height"
    statement = sa.text(
        f"INSERT INTO images (image, video_time, {columns}) SELECT video || '#t=' || n, n, {columns} "
        "FROM images, generate_series(1, :times) AS n WHERE id = :id"
    )
    with database.begin() as connection:
        connection.execute(statement, {"id": image_id, "times": times})
