"""Models compared on the demo's album: a twin finds the same, a damaged one less, and nothing is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.compare.quality import FIGURES
from searchdb.compare.records import CompareProgress, ModelComparison, ModelQuery, ModelSummary
from searchdb.compare.sample import draw
from searchdb.config import Settings
from searchdb.db.tables import embedding_models, images, query_embeddings
from searchdb.db.vectors import images_with
from searchdb.errors import CompareError, ModelUnavailableError, QueriesError, StorageError
from searchdb.media.embed import CLIPEmbedder
from tests.compare.conftest import TWIN_NUMBERS
from tests.conftest import DEMO_IMAGES
from tests.helpers.image_server import ImageServer
from tests.helpers.stored_videos import StoredVideos
from tests.helpers.tiny_models import TINY_FAMILIES, save_tiny_model

TEXTS = ("a boat", "a dog", "a red house")


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


def test_a_twin_finds_the_same(with_twin: ModelComparison, judged: list[ModelQuery]) -> None:
    assert (with_twin.images, with_twin.compared, with_twin.frames) == (DEMO_IMAGES, DEMO_IMAGES, 0)
    assert (with_twin.overlap, with_twin.judged, list(with_twin.left_out)) == (1, len(judged), [])
    assert with_twin.rank_biased_overlap == pytest.approx(1, abs=1e-4)  # below the first ten, near ties may swap
    for found in with_twin.differences:
        assert found.first == pytest.approx(found.second, abs=1e-3)
        assert not found.significant
    assert (with_twin.first.dimension, with_twin.second.dimension) == (512, TWIN_NUMBERS)
    assert (with_twin.first.stored, with_twin.second.stored) == (True, False)
    assert with_twin.first.vector_bytes == DEMO_IMAGES * (4 * 512 + 8)
    similarities = [(model.median_similarity, model.median_best_similarity) for model in _models(with_twin)]
    assert similarities[0] == pytest.approx(similarities[1], abs=1e-3)
    for model in _models(with_twin):
        assert model.images_per_s > 0
        assert model.texts_per_s > 0
        assert model.embedding_s == pytest.approx(DEMO_IMAGES / model.images_per_s)


def test_a_damaged_model_is_significantly_worse(with_damaged: ModelComparison) -> None:
    assert with_damaged.overlap < 0.7
    assert with_damaged.rank_biased_overlap < 0.7
    assert [each.figure for each in with_damaged.differences] == list(FIGURES)
    for found in with_damaged.differences:
        assert found.low <= found.difference <= found.high < 0, found
        assert found.significant
        assert found.second < found.first


def test_the_lists_are_those_of_exact_searches(
    demo_collection: SearchDB, with_twin: ModelComparison, judged: list[ModelQuery]
) -> None:
    assert [each.text for each in with_twin.queries] == [each.text for each in judged]
    with demo_collection.database.begin() as connection:
        for result, query in list(zip(with_twin.queries, judged, strict=True))[:10]:
            vector = demo_collection.embedder.embed_texts([query.text])[0]
            similarity = (1 - images.c.embedding.cosine_distance(vector)).label("similarity")
            rows = connection.execute(
                sa.select(images.c.id, similarity).order_by(sa.desc("similarity")).limit(10)
            ).all()
            assert [each.similarity for each in result.first] == pytest.approx(
                [row.similarity for row in rows], abs=1e-5
            )
            assert {each.id for each in result.first} == {row.id for row in rows}
            assert [each.rank for each in result.first] == list(range(1, 11))
            for each in result.first:
                assert each.relevant == (each.id in query.relevant)
                assert each.other_rank <= 10
            assert (result.relevant, result.missing) == (len(query.relevant), 0)


def test_either_model_may_be_the_collections(demo_collection: SearchDB, twin: Path) -> None:
    found = demo_collection.compare_models(str(twin), "demo", queries=TEXTS, sample=20)
    assert [(model.name, model.stored) for model in _models(found)] == [(str(twin), False), ("demo", True)]
    assert (found.compared, found.judged, list(found.differences), found.output) == (20, 0, [], None)
    for result in found.queries:
        assert (result.first_figures, result.second_figures) == (None, None)
        assert {each.relevant for each in result.first} == {None}


def test_two_other_models(demo_collection: SearchDB, twin: Path, damaged: Path) -> None:
    found = demo_collection.compare_models(str(twin), str(damaged), queries=TEXTS, sample=20)
    assert [model.stored for model in _models(found)] == [False, False]


def test_the_same_seed_draws_the_same_images(demo_collection: SearchDB) -> None:
    with demo_collection.database.begin() as connection:
        drawn = {seed: draw(connection, 30, seed) for seed in (1, 2)}
        assert len(set(drawn[1])) == 30
        assert drawn[1] == draw(connection, 30, 1)
        assert drawn[1][:10] == draw(connection, 10, 1)
        assert set(drawn[1]) != set(drawn[2])
        assert len(draw(connection, 1000, 1)) == DEMO_IMAGES


@pytest.mark.parametrize("family", ["siglip", "siglip2-naflex", "chinese-clip"])
def test_a_model_of_another_family(demo_collection: SearchDB, tmp_path: Path, family: str) -> None:
    folder = save_tiny_model(family, tmp_path / family)
    found = demo_collection.compare_models(str(folder), queries=TEXTS, sample=20, output=tmp_path / "page.html")
    assert (found.compared, found.second.dimension) == (20, TINY_FAMILIES[family].dimension)
    assert 0 <= found.overlap < 1
    assert found.rank_biased_overlap < 1


def test_right_images_are_always_in_the_sample(demo_collection: SearchDB, twin: Path) -> None:
    with demo_collection.database.begin() as connection:
        rows = connection.execute(sa.select(images.c.id, images.c.image).order_by(images.c.id).limit(3)).all()
    by_path, by_id, by_digits = rows[0].image, rows[1].id, str(rows[2].id)
    queries = [ModelQuery(text="a boat", relevant=[by_path, by_id, by_digits, rows[0].id]), ModelQuery(text="a dog")]
    found = demo_collection.compare_models(str(twin), queries=queries, sample=2, seed=3)
    assert 3 <= found.compared <= 5
    assert (found.queries[0].relevant, found.queries[1].relevant, found.judged) == (3, 0, 1)
    assert {row.id for row in rows} <= {each.id for each in found.queries[0].first}
    assert not any(each.significant for each in found.differences)


def test_paths_below_the_current_folder(
    demo_collection: SearchDB, album: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album.parent)
    name = next(album.glob("*.jpg")).relative_to(album.parent)
    found = demo_collection.compare_models(
        str(twin), queries=[ModelQuery(text="a boat", relevant=[str(name)])], sample=1
    )
    assert found.queries[0].relevant == 1


def test_nothing_is_written(demo_collection: SearchDB, twin: Path) -> None:
    counted = [sa.select(sa.func.count()).select_from(table) for table in (embedding_models, query_embeddings, images)]

    def state() -> list[int]:
        with demo_collection.database.begin() as connection:
            return [connection.scalars(statement).one() for statement in counted]

    before = state()
    demo_collection.compare_models(str(twin), queries=["a text that nobody searched for"], sample=5)
    assert state() == before


# --- Images that have changed or cannot be read ---------------------------------------------------


@pytest.fixture
def few(collection: SearchDB, album: Path, tmp_path: Path) -> tuple[SearchDB, list[Path]]:
    """A collection of twelve images whose files may be changed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / path.name for path in sorted(album.glob("*.jpg"))[:12]]
    for path in paths:
        path.write_bytes((album / path.name).read_bytes())
    assert collection.ingest_files(folder).stored == 12
    return collection, paths


def test_images_that_cannot_be_read_are_left_out(few: tuple[SearchDB, list[Path]], twin: Path) -> None:
    collection, paths = few
    paths[0].unlink()
    paths[1].write_bytes(b"no image")
    paths[2].write_bytes(b"")
    queries = [
        ModelQuery(text="a boat", relevant=[str(paths[0]), str(paths[3])]),
        ModelQuery(text="a dog", relevant=[str(paths[1])]),
    ]
    found = collection.compare_models(str(twin), queries=queries)
    assert (found.images, found.compared, found.overlap) == (12, 9, 1)
    assert {each.image: each.error for each in found.left_out} == {
        str(paths[0]): "FileUnreadableError", str(paths[1]): "NotAnImageError", str(paths[2]): "EmptyFileError",
    }  # fmt: skip
    assert [(each.relevant, each.missing) for each in found.queries] == [(1, 1), (0, 1)]
    assert found.judged == 1
    for path in paths[3:]:
        path.unlink()
    with pytest.raises(CompareError, match=r"none of the 12 images of the sample can be read, such as .*Mount"):
        collection.compare_models(str(twin), queries=TEXTS)


def test_changed_images_are_embedded_by_both(few: tuple[SearchDB, list[Path]], twin: Path) -> None:
    """The stored vector of a changed file would be that of another image."""
    collection, paths = few
    first, second = paths[0].read_bytes(), paths[1].read_bytes()
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    found = collection.compare_models(str(twin), queries=TEXTS)
    for result in found.queries:
        by_id = {each.id: each.similarity for each in result.second}
        assert {each.id: each.similarity for each in result.first} == pytest.approx(by_id, abs=1e-4)


def test_vectors_of_any_length(few: tuple[SearchDB, list[Path]], twin: Path) -> None:
    collection, _ = few
    with collection.database.begin() as connection:
        connection.execute(sa.text("UPDATE images SET embedding = embedding * array_fill(7, ARRAY[512])::vector"))
    found = collection.compare_models(str(twin), queries=TEXTS)
    assert found.overlap == 1
    assert max(each.similarity for result in found.queries for each in result.first) < 1


def test_vectors_of_both_models_that_the_collection_has(few: tuple[SearchDB, list[Path]], twin: Path) -> None:
    """As in a switch, before or after the change-over: only images without a vector are embedded again."""
    collection, paths = few
    other = CLIPEmbedder(str(twin))
    # The vectors are those of texts, which tells whether they are used.
    vectors = other.embed_texts([f"a {colour} boat" for colour in ("red", "blue", "green")])
    with collection.database.begin() as connection:
        row = {
            "name": other.identity.name,
            "weights_sha256": other.identity.weights_sha256,
            "dimension": other.identity.dimension,
        }
        statement = sa.insert(embedding_models).values(row).returning(embedding_models.c.id)
        name = f"embedding_{connection.scalar(statement)}"
        connection.execute(sa.text(f"ALTER TABLE images ADD COLUMN {name} vector({TWIN_NUMBERS})"))
        for path, vector in zip(paths, vectors, strict=False):
            table = images_with(name)
            connection.execute(sa.update(table).where(table.c.image == str(path)).values({name: vector}))
    found = collection.compare_models(str(twin), queries=["a red boat"], count=12)
    assert [model.stored for model in _models(found)] == [True, True]
    similarities = {each.image: each.similarity for each in found.queries[0].second}
    for path, vector in zip(paths, vectors, strict=False):
        assert similarities[str(path)] == pytest.approx(float(vector @ vectors[0]), abs=1e-4)


def test_frames_are_read_from_their_previews(
    few: tuple[SearchDB, list[Path]], embedder: CLIPEmbedder, twin: Path, tmp_path: Path
) -> None:
    collection, _ = few
    videos = StoredVideos(collection.database, embedder)
    videos.add(tmp_path / "a.mp4", {0.0: "a boat", 12.0: "a dog"})
    videos.add(tmp_path / "b.mp4", {0.0: "a cat"}, previews=False)
    output = tmp_path / "page.html"
    found = collection.compare_models(str(twin), queries=TEXTS, count=15, output=output)
    assert (found.compared, found.frames, found.overlap) == (14, 2, 1)
    assert [each.message for each in found.left_out] == ["the frame has no preview: ingest its video again"]
    by_model: Sequence[float] = [each.similarity for each in found.queries[0].first]
    assert by_model == pytest.approx([each.similarity for each in found.queries[0].second], abs=1e-4)
    assert 'href="a.mp4#t=12"' in output.read_text()


def test_images_at_urls_within_the_limits(
    collection: SearchDB, image_server: ImageServer, twin: Path, tmp_path: Path
) -> None:
    urls = tmp_path / "urls.txt"
    urls.write_text("".join(f"{image_server.url(f'/ok.jpg?seed={n}')}\n" for n in range(6)))
    assert collection.ingest_urls(str(urls)).stored == 6
    assert collection.compare_models(str(twin), queries=TEXTS).compared == 6
    strict = collection.settings.model_copy(update={"max_image_bytes": 100})
    with SearchDB(strict) as limited, pytest.raises(CompareError, match="SEARCHDB_MAX_IMAGE_BYTES"):
        limited.compare_models(str(twin), queries=TEXTS)


# --- What cannot be compared ----------------------------------------------------------------------


def test_an_empty_collection(collection: SearchDB, twin: Path) -> None:
    for models in ((str(twin),), ("demo", str(twin))):
        with pytest.raises(CompareError, match="has no images to compare models on: ingest some first"):
            collection.compare_models(*models, queries=TEXTS)


def test_the_same_model_twice(demo_collection: SearchDB, twin: Path) -> None:
    for models in (("demo",), ("demo", "demo"), (str(twin), str(twin))):
        with pytest.raises(CompareError, match="are the same model"):
            demo_collection.compare_models(*models, queries=TEXTS)


def test_a_model_that_does_not_exist(demo_collection: SearchDB, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="there is no such folder"):
        demo_collection.compare_models(str(tmp_path / "none"), queries=TEXTS)


def test_right_images_that_are_not_stored(demo_collection: SearchDB, twin: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("query,relevant\na dog,1\na dog,/no/such.jpg\na cat,https://u:secret@example.org/x.jpg\na cat,0\n")
    with pytest.raises(QueriesError) as caught:
        demo_collection.compare_models(str(twin), queries=path)
    assert caught.value.lines == (3, 4, 5)
    assert str(caught.value).startswith(
        "q.csv, line 3: '/no/such.jpg' is not stored: ingest it, or leave it out; line 4"
    )
    assert "secret" not in str(caught.value)
    with pytest.raises(QueriesError, match="no image has the id 99999"):
        demo_collection.compare_models(str(twin), queries=[ModelQuery(text="a dog", relevant=[99999])])
    with pytest.raises(QueriesError, match="the list of queries has no query"):
        demo_collection.compare_models(str(twin), queries=[])


def test_half_a_character_is_no_image(demo_collection: SearchDB, twin: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "a dog"}\n{"query": "a cat", "relevant": ["\\ud800"]}\n')
    with pytest.raises(QueriesError, match=r"^q\.jsonl, line 2: '\\ud800' is not stored"):
        demo_collection.compare_models(str(twin), queries=path)


def test_a_sample_that_takes_too_much_memory(demo_settings: Settings, twin: Path) -> None:
    little = demo_settings.model_copy(update={"decode_memory": 100_000})
    with SearchDB(little) as collection:
        with pytest.raises(
            CompareError, match=r"a sample of 300 images takes [\d,]+ bytes .*at most \d+ images"
        ) as caught:
            collection.compare_models(str(twin), queries=TEXTS)
        assert caught.value.field == "sample"


@pytest.mark.parametrize(("field", "value"), [("sample", 0), ("sample", 10**30), ("count", 0), ("count", 101)])
def test_numbers_out_of_range(demo_collection: SearchDB, twin: Path, field: str, value: int) -> None:
    with pytest.raises(CompareError) as caught:
        demo_collection.compare_models(str(twin), queries=TEXTS, **{field: value})  # pyright: ignore[reportArgumentType]
    assert caught.value.field == field


# --- The page and interruptions -------------------------------------------------------------------


def test_a_page_replaces_only_pages(demo_collection: SearchDB, twin: Path, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    for seed in (0, 1):
        found = demo_collection.compare_models(str(twin), queries=TEXTS, sample=5, seed=seed, output=output)
        assert found.output == str(output)
        assert f"seed {seed}." in output.read_text()
    output.write_text("<!doctype html> a page of somebody's own")
    with pytest.raises(CompareError, match="exists and is not a comparison of models"):
        demo_collection.compare_models(str(twin), queries=TEXTS, output=output)
    with pytest.raises(CompareError, match="is a folder"):
        demo_collection.compare_models(str(twin), queries=TEXTS, output=tmp_path)
    with pytest.raises(StorageError, match="does not exist"):
        demo_collection.compare_models(str(twin), queries=TEXTS, output=tmp_path / "none" / "page.html")


def test_an_interrupt_leaves_nothing(demo_collection: SearchDB, twin: Path, tmp_path: Path) -> None:
    steps: list[str] = []

    def interrupt(progress: CompareProgress) -> None:
        steps.append(progress.step)
        if progress.step.startswith("reading") and 0 < progress.done < progress.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_collection.compare_models(str(twin), queries=TEXTS, output=tmp_path / "page.html", progress=interrupt)
    assert steps[0] == "loading the models"
    assert list(tmp_path.iterdir()) == []
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("export")]


def test_the_progress_ends_complete(demo_collection: SearchDB, twin: Path) -> None:
    seen: list[CompareProgress] = []
    demo_collection.compare_models(str(twin), queries=TEXTS, sample=40, progress=seen.append)
    reading = [each for each in seen if each.step == "reading and embedding images"]
    assert [(each.done, each.total) for each in reading] == [(0, 40), (32, 40), (40, 40)]
    assert (seen[-1].step, seen[-1].done, seen[-1].total) == ("measuring rates", 2, 2)


def test_the_record_is_json(with_damaged: ModelComparison) -> None:
    document = replace(with_damaged, output="x.html").to_json()
    assert document["output"] == "x.html"
    assert document["queries"][0]["first"][0].keys() == {
        "id", "image", "rank", "similarity", "other_rank", "relevant",
    }  # fmt: skip
    assert all(not isinstance(value, np.generic) for value in document["differences"][0].values())


def _models(found: ModelComparison) -> tuple[ModelSummary, ModelSummary]:
    return found.first, found.second
