"""Every query of docs/sql-cookbook.md, run on a collection that has what it asks for, and computed again in Python."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from safetensors.numpy import load_file

import searchdb.demo
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db import user_sql as sql
from searchdb.db.embedded_programs import program_path
from searchdb.db.tables import VECTOR_INDEX, images
from searchdb.errors import DatabaseError
from searchdb.unsplash import loader
from searchdb.unsplash.reader import find_parts
from tests.helpers import unsplash_files
from tests.helpers.album import copy_album
from tests.helpers.databases import NewSettings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "sql-cookbook.md").read_text(encoding="utf-8")

WRITING = "How can every image have a stored label?"
COUNTRIES = ("Portugal", "Norway", "Japan", "Chile", None)
CAMERAS = ("Canon EOS R6", "Canon PowerShot G7", "Nikon Z 6", "Fujifilm X100V", None)
FOLDERS = ("Pictures", "Pictures/2024", "Pictures/2024/Rome", "Pictures/2024-old", "Pictures/2024_")
KEYWORDS = ("boat", "red car", "cat in the snow")
SETTINGS = {
    "meadow": "a meadow",
    "beach": "a beach",
    "sea": "the sea",
    "desert": "a desert",
    "forest": "a forest",
    "city": "a city",
    "snow": "snow",
}
VIDEOS = {"/films/sea.mp4": 60.0, "/films/harbour.mov": 61.5, "/films/race.mkv": 7200.0, "/films/cats.webm": 12.0}
"""Lengths of the videos in seconds."""
ANIMALS = ("cat", "dog", "bird", "butterfly", "fish")

Row = dict[str, Any]


# --- The document ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One section of the document."""

    title: str
    needs: str
    indexed: bool
    statement: str


def recipes(document: str) -> dict[str, Recipe]:
    """Return the sections by their titles; each must have one sql block and say what it needs."""
    found = {}
    for section in re.split(r"^## ", document, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        blocks = re.findall(r"^```sql\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        labels = re.findall(r"^\*\*Needs\*\* (.+?)\. \*\*Index\*\* (yes|no)\b", section, re.MULTILINE)
        assert (len(blocks), len(labels)) == (1, 1), title
        found[title] = Recipe(title=title, needs=labels[0][0], indexed=labels[0][1] == "yes", statement=blocks[0])
    return found


RECIPES = recipes(DOCUMENT)
READING = [title for title in RECIPES if title != WRITING]


# --- The collection -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SampleCollection:
    """The album with the metadata of a real collection, and the special cases that were added to it."""

    collection: SearchDB
    settings: Settings
    rows: Sequence[sa.RowMapping]
    vectors: np.ndarray
    copies: Mapping[tuple[str, str], bool]
    untagged: frozenset[str]
    mistagged: Mapping[str, str]
    keywords: Mapping[str, Mapping[str, float | None]]
    colours: Mapping[str, Sequence[tuple[int, int, int, float]]]
    downloads: Sequence[tuple[str, str]]
    rows_without_metadata: Mapping[str, int]

    def text(self, text: str) -> np.ndarray:
        """Return the similarity of every image to a text."""
        return self.vectors @ self.collection.embed([text])[0].astype(np.float64)

    def at(self, name: str) -> int:
        """Return the index of an image in `rows`, by its file name."""
        return next(n for n, row in enumerate(self.rows) if Path(row["image"]).name == name)

    def ranked(self, scores: np.ndarray, keep: Callable[[int], bool] = lambda n: True) -> list[int]:
        """Return the indexes of the images that `keep` accepts, best first, ties in id order."""
        return [int(n) for n in np.argsort(-scores, kind="stable") if keep(int(n))]

    def images(self, places: Sequence[int]) -> list[str]:
        return [self.rows[n]["image"] for n in places]


def run(collection: SearchDB, statement: str) -> tuple[list[Row], int]:
    """Run a statement as `searchdb sql` does; return its rows and how often it used the vector index."""
    if texts := sql.texts_to_embed(statement):
        collection.embed(texts)
    with collection.database.connect() as connection:
        before = index_scans(connection)
        result = sql.run_sql(connection, statement)
        scans = index_scans(connection) - before
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows], scans


def index_scans(connection: sa.Connection) -> int:
    connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    connection.commit()
    query = sa.text("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = :name")
    scans = connection.execute(query, {"name": VECTOR_INDEX}).scalar_one()
    connection.commit()
    return scans


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cookbook")


@pytest.fixture(scope="module")
def collection(new_settings: NewSettings, demo_collection: SearchDB, home: Path) -> Iterator[SearchDB]:
    """A collection with the album, as `make demo` leaves it: copied, because tests add to it."""
    with (
        new_settings(home) as settings,
        SearchDB(settings.model_copy(update={"dtype": "float32"})) as collection,
    ):
        copy_album(demo_collection, collection.database)
        yield collection


@pytest.fixture(scope="module")
def sample(collection: SearchDB, album: Path, home: Path) -> SampleCollection:
    """The collection with countries, cameras, dates, copies, wrong tags and the tables of Unsplash."""
    rows_without_metadata = {title: len(run(collection, RECIPES[title].statement)[0]) for title in READING}
    rng = Random(11)
    most_isolated = Path(run(collection, RECIPES["Which images are unlike all others?"].statement)[0][0]["image"]).name
    copies = add_copies(collection, album, home / "copies", most_isolated)
    untagged, mistagged = add_metadata(collection, rng)
    with collection.database.connect() as connection:
        rows = connection.execute(sa.select(images).order_by(images.c.id)).mappings().all()
    rows = add_videos(collection, rows)
    keywords, colours, downloads = add_unsplash(collection, rows, home / "unsplash", rng)
    return SampleCollection(
        collection=collection,
        settings=collection.settings,
        rows=rows,
        vectors=np.stack([row["embedding"] for row in rows]).astype(np.float64),
        copies=copies,
        untagged=untagged,
        mistagged=mistagged,
        keywords=keywords,
        colours=colours,
        downloads=downloads,
        rows_without_metadata=rows_without_metadata,
    )


def add_copies(collection: SearchDB, album: Path, folder: Path, most_isolated: str) -> dict[tuple[str, str], bool]:
    """Ingest copies of some images; return the pairs of file names, and whether the files are the same."""
    folder.mkdir()
    copies = {}
    for name in sorted(path.name for path in album.glob("*.jpg"))[10:15]:
        with Image.open(album / name) as original:
            small = original.resize((original.width * 2 // 3, original.height * 2 // 3))
            small.save(folder / f"small-{name}", quality=70)
        copies[name, f"small-{name}"] = False
    (folder / f"same-{most_isolated}").write_bytes((album / most_isolated).read_bytes())
    copies[most_isolated, f"same-{most_isolated}"] = True
    assert collection.ingest_files(folder).stored == len(copies)
    return copies


def add_metadata(collection: SearchDB, rng: Random) -> tuple[frozenset[str], dict[str, str]]:
    """Fill the album's columns: boats in May, snow in June. Return the images without tag 'boat' and the wrong tags."""
    with collection.database.connect() as connection:
        statement = sa.select(images).where(images.c.source == "demo").order_by(images.c.id)
        rows = connection.execute(statement).mappings().all()

    def most_like(tag: str, text: np.ndarray) -> list[str]:
        fitting = [row for row in rows if tag in row["tags"] and len(set(ANIMALS).intersection(row["tags"])) <= 1]
        return [row["image"] for row in sorted(fitting, key=lambda row: -float(row["embedding"] @ text))]

    boat, cat, dog = collection.embed(["a boat", "a cat", "a dog"])
    untagged = frozenset(most_like("boat", boat)[:10:2])
    mistagged = {most_like("cat", cat - dog)[0]: "dog", most_like("dog", dog - cat)[0]: "cat"}
    edges = [
        datetime(2024, 6, 30, 23, 59, 59, tzinfo=UTC),
        datetime(2024, 7, 1, tzinfo=UTC),
        datetime(2024, 4, 1, tzinfo=UTC),
        datetime(2024, 3, 31, 23, 59, 59, tzinfo=UTC),
    ]
    changes = []
    for number, row in enumerate(rows):
        moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=rng.randrange(365 * 24 * 60))
        if rng.random() < 0.6 and {"boat", "snow"} & set(row["tags"]):
            month = 5 if "boat" in row["tags"] else 6
            moment = datetime(2024, month, 1, tzinfo=UTC) + timedelta(minutes=rng.randrange(30 * 24 * 60))
        country, camera = COUNTRIES[rng.randrange(5)], CAMERAS[rng.randrange(5)]
        if {"boat", "sunset"} <= set(row["tags"]) and edges:
            moment, camera = edges.pop(), "Canon EOS R6"
        tags = row["tags"]
        if row["image"] in untagged:
            tags = [tag for tag in tags if "boat" not in tag]
        if row["image"] in mistagged:
            tags = [tag for tag in tags if tag not in ANIMALS] + [mistagged[row["image"]]]
        changes.append(
            {
                "row_id": row["id"],
                "country": country,
                "city": country and f"{country} City",
                "camera": camera,
                "credit": f"Photographer {number % 7}",
                "taken_at": moment,
                "folder": FOLDERS[number % len(FOLDERS)],
                "rating": (None, -1, 0, 1, 2, 3, 4, 5)[number % 8],
                "tags": tags,
                "source_id": f"photo{number:06}",
            }
        )
    assert not edges, "too few boats at sunset"
    with collection.database.begin() as connection:
        connection.execute(sa.update(images).where(images.c.id == sa.bindparam("row_id")), changes)
    return untagged, mistagged


def add_videos(collection: SearchDB, rows: Sequence[sa.RowMapping]) -> Sequence[sa.RowMapping]:
    """Store frames of videos, each between two images of the album and like no other; return all rows."""
    album = [row for row in rows if row["source"] == "demo"]
    frames: list[dict[str, Any]] = []
    for number, (video, seconds) in enumerate(VIDEOS.items()):
        for place in range(4):
            first, second = album[8 * number + 2 * place : 8 * number + 2 * place + 2]
            vector = first["embedding"].astype(np.float64) + second["embedding"]
            time = seconds * place / 4
            frames.append(
                {
                    "image": f"{video}#t={time:g}",
                    "source": "files",
                    "description": f"{first['description']} {second['description']}",
                    "video": video,
                    "video_time": time,
                    "metadata": {"video": video, "time": time, "duration": seconds, "codec": "h264"},
                    "embedding": (vector / np.linalg.norm(vector)).astype(np.float32),
                    "embedding_model_id": rows[0]["embedding_model_id"],
                    "sha256": video.encode().ljust(32),
                    "byte_size": 1000,
                    "width": 1920,
                    "height": 1080,
                }
            )
    with collection.database.begin() as connection:
        connection.execute(sa.insert(images), frames)
        return connection.execute(sa.select(images).order_by(images.c.id)).mappings().all()


def add_unsplash(
    collection: SearchDB, rows: Sequence[sa.RowMapping], folder: Path, rng: Random
) -> tuple[dict[str, dict[str, float | None]], dict[str, list[tuple[int, int, int, float]]], list[tuple[str, str]]]:
    """Load generated tables of the dataset for the images with a source_id; return their contents by id."""
    photos = {row["source_id"]: row for row in rows if row["source"] == "demo"}
    keywords: dict[str, dict[str, float | None]] = {}
    colours: dict[str, list[tuple[int, int, int, float]]] = {}
    for photo_id, row in photos.items():
        kinds = {each["kind"] for each in row["metadata"]["objects"]}
        # Every third is not named, and now and then only a user, no service, has named it.
        keywords[photo_id] = {
            kind: None if rng.random() < 0.2 else round(rng.uniform(40, 100), 1)
            for kind in sorted(kinds)
            if rng.random() < 0.67
        }
        near_blue = [(60 + n, 100 + 2 * n, 230, rng.uniform(0.05, 0.4)) for n in range(2)]
        others = [(rng.randrange(256), rng.randrange(256), rng.randrange(90), rng.uniform(0.05, 0.4)) for _ in range(2)]
        colours[photo_id] = near_blue + others
    downloads = [(word, rng.choice(sorted(photos))) for word in KEYWORDS for _ in range(40)]
    for word, tags in zip(KEYWORDS, ({"boat"}, {"red car"}, {"cat", "snow"}), strict=True):
        fitting = sorted(photo_id for photo_id, row in photos.items() if tags <= set(row["tags"]))
        downloads += [(word, rng.choice(fitting)) for _ in range(60)]
    downloads += [("boat", "not stored"), ("submarine", sorted(photos)[0])]
    unsplash_files.write(
        folder,
        "keywords.tsv000",
        (
            {"photo_id": photo_id, "keyword": word, "ai_service_1_confidence": confidence, "suggested_by_user": "f"}
            for photo_id, words in keywords.items()
            for word, confidence in words.items()
        ),
    )
    unsplash_files.write(
        folder,
        "colors.tsv000",
        (
            {"photo_id": photo_id, "hex": f"{r:02X}{g:02X}{b:02X}", "red": r, "green": g, "blue": b, "coverage": share}
            for photo_id, each in colours.items()
            for r, g, b, share in each
        ),
    )
    unsplash_files.write(
        folder,
        "conversions.tsv000",
        (
            {**unsplash_files.conversion(0, word, second), "photo_id": photo_id}
            for second, (word, photo_id) in enumerate(downloads)
        ),
    )
    unsplash_files.write(folder, "photos.tsv000", (unsplash_files.photo(int(each[5:])) for each in sorted(photos)))
    loader.load(collection.database.engine, find_parts([folder]))
    return keywords, colours, downloads


# --- What each query is to give -------------------------------------------------------------------

Expectation = Callable[[SampleCollection, list[Row]], None]
EXPECTATIONS: dict[str, Expectation] = {}


def answers(title: str) -> Callable[[Expectation], Expectation]:
    """Register what the query of this title is to give."""

    def register(expectation: Expectation) -> Expectation:
        assert title not in EXPECTATIONS
        EXPECTATIONS[title] = expectation
        return expectation

    return register


def assert_ranked(sample: SampleCollection, rows: Sequence[Row], places: Sequence[int], scores: np.ndarray) -> None:
    """The rows are these images in this order, with these similarities."""
    assert places, "nothing was expected: the test would show nothing"
    assert [row["image"] for row in rows] == sample.images(places)
    assert [row["similarity"] for row in rows] == pytest.approx(scores[list(places)], abs=1e-5)


@answers("Which of the best hits were taken with one camera in one season?")
def _season(sample: SampleCollection, rows: list[Row]) -> None:
    scores = sample.text("a boat at sunset")
    start, end = datetime(2024, 4, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)

    def wanted(n: int) -> bool:
        row = sample.rows[n]
        in_time = row["taken_at"] is not None and start <= row["taken_at"] < end
        return scores[n] >= 0.1 and in_time and (row["camera"] or "").startswith("Canon")

    assert_ranked(sample, rows, sample.ranked(scores, wanted)[:20], scores)
    moments = {row["taken_at"] for row in rows}
    assert start in moments
    assert end - timedelta(seconds=1) in moments


@answers("Which images from one country fit a text best?")
def _country(sample: SampleCollection, rows: list[Row]) -> None:
    scores = sample.text("a boat at sunset")
    expected = sample.ranked(scores, lambda n: sample.rows[n]["country"] == "Portugal")[:10]
    assert_ranked(sample, rows, expected, scores)
    assert len(rows) == 10
    assert {row["city"] for row in rows} == {"Portugal City"}


@answers("Which well rated images below a folder fit a text best?")
def _folder(sample: SampleCollection, rows: list[Row]) -> None:
    def fits(place: int) -> bool:
        row = sample.rows[place]
        return row["folder"] in ("Pictures/2024", "Pictures/2024/Rome") and (row["rating"] or 0) >= 4

    scores = sample.text("a boat at sunset")
    assert_ranked(sample, rows, sample.ranked(scores, fits)[:10], scores)
    assert {row["folder"] for row in rows} == {"Pictures/2024", "Pictures/2024/Rome"}
    assert {row["rating"] for row in rows} == {4, 5}


@answers("What is the best image of each country?")
def _each_country(sample: SampleCollection, rows: list[Row]) -> None:
    scores = sample.text("a red car")
    countries = sorted(filter(None, COUNTRIES))
    assert [row["country"] for row in rows] == countries
    best = [sample.ranked(scores, lambda n, c=country: sample.rows[n]["country"] == c)[0] for country in countries]
    assert_ranked(sample, rows, best, scores)


@answers("Which images are like one image but unlike another?")
def _unlike(sample: SampleCollection, rows: list[Row]) -> None:
    wanted, other = sample.at("postcard-v1-00226.jpg"), sample.at("postcard-v1-00236.jpg")
    assert sample.rows[wanted]["description"] == "A red car in a meadow at night."
    assert sample.rows[other]["description"] == "The moon and a pink cup in a meadow at night."
    like_wanted, like_other = sample.vectors @ sample.vectors[wanted], sample.vectors @ sample.vectors[other]
    expected = sample.ranked(like_wanted - like_other, lambda n: n != wanted)[:10]
    assert [row["image"] for row in rows] == sample.images(expected)
    assert [row["like_wanted"] for row in rows] == pytest.approx(like_wanted[expected], abs=1e-5)
    assert [row["like_other"] for row in rows] == pytest.approx(like_other[expected], abs=1e-5)
    assert all(re.search(r"\bcars?\b", row["description"]) for row in rows[:5])


@answers("Which images are in the collection twice?")
def _twice(sample: SampleCollection, rows: list[Row]) -> None:
    found = {(Path(row["image"]).name, Path(row["copy"]).name): row["same_file"] for row in rows}
    assert found == sample.copies
    assert len(rows) == len(found)
    assert rows[0]["same_file"]


@answers("Which images are unlike all others?")
def _nothing_like_them(sample: SampleCollection, rows: list[Row]) -> None:
    pairs = sample.vectors @ sample.vectors.T
    np.fill_diagonal(pairs, -2)
    nearest = pairs.max(axis=1)
    assert_ranked(sample, rows, sample.ranked(-nearest)[:10], nearest)
    stored_twice = next(name for (name, _), same_file in sample.copies.items() if same_file)
    assert stored_twice not in {Path(row["image"]).name for row in rows}


@answers("Which of a few labels fits an image?")
def _labels(sample: SampleCollection, rows: list[Row]) -> None:
    place = sample.at("postcard-v1-00226.jpg")
    scores = {label: sample.text(text)[place] for label, text in SETTINGS.items()}
    powers = {label: np.exp(21 * score) for label, score in scores.items()}
    assert [row["label"] for row in rows] == sorted(scores, key=lambda label: -scores[label])
    assert rows[0]["label"] == "meadow"
    assert sum(row["probability"] for row in rows) == pytest.approx(1)
    for row in rows:
        assert row["similarity"] == pytest.approx(scores[row["label"]], abs=1e-5)
        assert row["probability"] == pytest.approx(powers[row["label"]] / sum(powers.values()), rel=1e-3)


@answers("Where do the texts disagree with the tags?")
def _confusion(sample: SampleCollection, rows: list[Row]) -> None:
    nearest = np.argmax(np.stack([sample.text(f"a {animal}") for animal in ANIMALS]), axis=0)
    judged = {}
    for n, row in enumerate(sample.rows):
        shown = [animal for animal in ANIMALS if animal in row["tags"]]
        if len(shown) == 1:
            judged[row["image"]] = shown[0], ANIMALS[nearest[n]]
    expected = Counter(judged.values())
    assert {(row["tag"], row["nearest_text"]): row["pictures"] for row in rows} == expected
    assert all(row["agreed"] == (row["tag"] == row["nearest_text"]) for row in rows)
    order = [(row["tag"], -row["pictures"], row["nearest_text"]) for row in rows]
    assert order == sorted(order)
    assert sum(row["pictures"] for row in rows if row["agreed"]) > 0.8 * expected.total()
    for image, tag in sample.mistagged.items():
        assert judged[image] == (tag, {"cat": "dog", "dog": "cat"}[tag])


@answers("Which images lack a tag that they should have?")
def _lacking(sample: SampleCollection, rows: list[Row]) -> None:
    tagged = ["boat" in row["tags"] for row in sample.rows]
    centre = sample.vectors[tagged].mean(axis=0)
    scores = sample.vectors @ (centre / np.linalg.norm(centre))
    assert_ranked(sample, rows, sample.ranked(scores, lambda n: not tagged[n])[:10], scores)
    assert {row["image"] for row in rows} >= sample.untagged


@answers("Which images rank best by words and by appearance together?")
def _fused(sample: SampleCollection, rows: list[Row]) -> None:
    scores = sample.text("an orange boat at sunset")
    by_looks = sample.ranked(scores, lambda n: bool(scores[n] >= 0))[:50]
    with sample.collection.database.connect() as connection:
        ranks = dict(
            connection.execute(
                sa.text(
                    "SELECT id, ts_rank(to_tsvector('english', coalesce(description, '') || ' ' || "
                    "array_to_string(tags, ' ')), to_tsquery('english', 'orange & boat')) FROM images"
                )
            ).all()
        )
    words = [f"{row['description'] or ''} {' '.join(row['tags'])}".lower() for row in sample.rows]
    found = [n for n, text in enumerate(words) if re.search(r"\borange\b", text) and re.search(r"\bboats?\b", text)]
    by_words = sorted(found, key=lambda n: (-ranks[sample.rows[n]["id"]], n))[:50]
    fused: dict[int, float] = defaultdict(float)
    for places in (by_looks, by_words):
        for place, n in enumerate(places, start=1):
            fused[n] += 1 / (60 + place)
    expected = sorted(fused, key=lambda n: (-fused[n], n))[:10]
    assert [row["image"] for row in rows] == sample.images(expected)
    assert [float(row["score"]) for row in rows] == pytest.approx([fused[n] for n in expected])
    assert [row["place_by_looks"] for row in rows] == [
        by_looks.index(n) + 1 if n in by_looks else None for n in expected
    ]
    assert [row["place_by_words"] for row in rows] == [
        by_words.index(n) + 1 if n in by_words else None for n in expected
    ]
    assert set(by_looks) - set(by_words)
    assert expected != by_looks[:10]


@answers("Where should the threshold for a text lie?")
def _bands(sample: SampleCollection, rows: list[Row]) -> None:
    scores = sample.text("a boat")
    tagged = np.array(["boat" in row["tags"] for row in sample.rows])
    assert sum(row["pictures"] for row in rows) == len(sample.rows)
    assert sum(row["tagged"] for row in rows) == tagged.sum()
    for row in rows:
        low, high = float(row["band"]), float(row["below"])
        assert high == pytest.approx(low + 0.1)
        within = (np.floor(scores * 10 + 1e-9) / 10).round(1) == round(low, 1)
        assert (row["pictures"], row["tagged"]) == (within.sum(), (within & tagged).sum())
    assert [row["band"] for row in rows] == sorted(row["band"] for row in rows)
    # The valley lies between the most of those without a boat and the band where all have one.
    counts = [row["pictures"] for row in rows]
    boats = [row["tagged"] for row in rows]
    others, most_boats = counts.index(max(counts)), boats.index(max(boats))
    assert others < most_boats
    assert min(counts[others:most_boats]) < counts[most_boats]
    truth = np.array(["boat" in {o["kind"] for o in row["metadata"].get("objects", [])} for row in sample.rows])
    stored = np.array([row["source"] == "demo" for row in sample.rows])
    assert truth[stored & (scores >= 0.4)].all()


@answers("What is the best moment of each video?")
def _best_moments(sample: SampleCollection, rows: list[Row]) -> None:
    scores = sample.text("a boat")
    ranked = sample.ranked(scores, lambda n: sample.rows[n]["video"] is not None)
    best = [next(n for n in ranked if sample.rows[n]["video"] == video) for video in VIDEOS]
    assert_ranked(sample, rows, sorted(best, key=lambda n: -scores[n]), scores)
    for row in rows:
        assert row["image"] == f"{row['video']}#t={row['video_time']:g}"


@answers("Which videos are longer than a minute?")
def _long_videos(sample: SampleCollection, rows: list[Row]) -> None:
    assert [row["video"] for row in rows] == ["/films/race.mkv", "/films/harbour.mov"]
    assert [row["duration_s"] for row in rows] == [7200, 61.5]
    assert {(row["frames"], row["codec"], row["width"], row["height"]) for row in rows} == {(4, "h264", 1920, 1080)}


@answers("What has changed from one month to the next?")
def _drift(sample: SampleCollection, rows: list[Row]) -> None:
    texts = {"boat": "a boat", "cat": "a cat", "car": "a car", "snow": "snow", "night": "night"}
    months = [row["taken_at"] and (row["taken_at"].year, row["taken_at"].month) for row in sample.rows]
    may, june = (np.array([month == (2024, number) for month in months]) for number in (5, 6))
    for row in rows:
        scores = sample.text(texts[row["label"]])
        assert row["in_may"] == pytest.approx(scores[may].mean(), abs=1e-5)
        assert row["in_june"] == pytest.approx(scores[june].mean(), abs=1e-5)
        assert row["drift"] == pytest.approx(row["in_june"] - row["in_may"])
        assert (row["pictures_in_may"], row["pictures_in_june"]) == (may.sum(), june.sum())
    assert {row["label"] for row in rows} == set(texts)
    assert [row["drift"] for row in rows] == sorted((row["drift"] for row in rows), reverse=True)
    assert (rows[0]["label"], rows[-1]["label"]) == ("snow", "boat")


@answers("Which images show something that no keyword names?")
def _not_named(sample: SampleCollection, rows: list[Row]) -> None:
    scores = sample.text("a boat")
    words = [sample.keywords.get(row["source_id"] or "", {}) for row in sample.rows]
    hits = sample.ranked(scores, lambda n: bool(scores[n] >= 0.3) and sample.rows[n]["source_id"] in sample.keywords)
    expected = sorted(hits, key=lambda n: "boat" in words[n])[:20]
    assert_ranked(sample, rows, expected, scores)
    assert [row["named"] for row in rows] == ["boat" in words[n] for n in expected]
    assert [row["confidence"] for row in rows] == [words[n].get("boat") for n in expected]
    assert {row["named"] for row in rows} == {True, False}


@answers("Which images for a text are mostly one colour?")
def _colour(sample: SampleCollection, rows: list[Row]) -> None:
    scores = sample.text("a boat")

    def blue(n: int) -> float:
        colours = sample.colours.get(sample.rows[n]["source_id"] or "", [])
        near = sum(share for r, g, b, share in colours if np.hypot(np.hypot(r - 65, g - 105), b - 225) <= 120)
        return near / sum(share for *_, share in colours) if colours else 0

    expected = sample.ranked(scores, lambda n: bool(scores[n] >= 0.3) and blue(n) > 0.5)[:10]
    assert_ranked(sample, rows, expected, scores)
    assert [row["blue"] for row in rows] == pytest.approx([blue(n) for n in expected])
    assert expected != sample.ranked(scores)[:10]


@answers("Does the search find what people chose?")
def _recall(sample: SampleCollection, rows: list[Row]) -> None:
    stored = {row["source_id"] for row in sample.rows} - {None}
    assert {row["keyword"] for row in rows} == set(KEYWORDS)
    for row in rows:
        best = {sample.rows[n]["source_id"] for n in sample.ranked(sample.text(row["keyword"]))[:20]}
        chosen = [photo for word, photo in sample.downloads if word == row["keyword"] and photo in stored]
        assert (row["photos"], row["downloads"]) == (len(set(chosen)), len(chosen))
        assert float(row["recall_at_20"]) == pytest.approx(sum(photo in best for photo in chosen) / len(chosen))
        assert 0 < row["recall_at_20"] < 1
    assert [row["recall_at_20"] for row in rows] == sorted((row["recall_at_20"] for row in rows), reverse=True)


# --- The tests ------------------------------------------------------------------------------------


def test_every_query_is_expected_to_give_something_and_nothing_else_is() -> None:
    assert set(EXPECTATIONS) == set(READING)
    assert WRITING in RECIPES


def test_links_of_the_document_lead_somewhere() -> None:
    headings = {
        name: {
            re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.MULTILINE)
        }
        for name in ("sql-cookbook.md", "operations.md", "videos.md")
    }
    for target in re.findall(r"\]\(([^)]+)\)", DOCUMENT):
        name, _, anchor = target.partition("#")
        assert name in headings if name and not anchor else anchor in headings[name or "sql-cookbook.md"], target


@pytest.mark.parametrize("title", RECIPES)
def test_the_texts_of_a_query_are_found_to_be_embedded(title: str) -> None:
    statement = RECIPES[title].statement
    assert sql.texts_to_embed(statement) == list(dict.fromkeys(re.findall(r"text_embedding\('([^']+)'\)", statement)))


@pytest.mark.parametrize("title", READING)
def test_a_query_gives_what_its_text_says(sample: SampleCollection, title: str) -> None:
    rows, scans = run(sample.collection, RECIPES[title].statement)
    assert rows
    EXPECTATIONS[title](sample, rows)
    assert (scans > 0) == RECIPES[title].indexed, f"the vector index was scanned {scans} times"


@pytest.mark.parametrize("title", ["Which images are in the collection twice?", "Which images are unlike all others?"])
def test_a_self_join_searches_the_index_once_per_image(sample: SampleCollection, title: str) -> None:
    _, scans = run(sample.collection, RECIPES[title].statement)
    assert scans == len(sample.rows)


@pytest.mark.parametrize("title", READING)
def test_a_query_that_needs_the_demo_only_gives_something_there(sample: SampleCollection, title: str) -> None:
    if RECIPES[title].needs == "the demo":
        assert sample.rows_without_metadata[title] > 0


def test_the_album_has_no_copies(sample: SampleCollection) -> None:
    assert sample.rows_without_metadata["Which images are in the collection twice?"] == 0


@pytest.mark.parametrize("title", READING)
def test_psql_gives_as_many_rows(sample: SampleCollection, title: str) -> None:
    rows, _ = run(sample.collection, RECIPES[title].statement)
    assert len(psql(sample, RECIPES[title].statement)) == len(rows)


def psql(sample: SampleCollection, statement: str) -> list[list[str]]:
    assert sample.settings.database_url is not None
    url = sample.settings.database_url.get_secret_value()
    result = subprocess.run(
        [program_path("psql"), url, "--no-psqlrc", "--csv", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-"],
        input=statement,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return list(csv.reader(io.StringIO(result.stdout)))


def test_the_best_label_is_correct_for_nearly_every_image(sample: SampleCollection) -> None:
    statement = RECIPES["Which of a few labels fits an image?"].statement
    rows_of_the_demo = [row for row in sample.rows if row["source"] == "demo"][::12]
    right = 0
    for row in rows_of_the_demo:
        rows, _ = run(sample.collection, statement.replace("postcard-v1-00226.jpg", Path(row["image"]).name))
        assert sum(each["probability"] for each in rows) == pytest.approx(1)
        right += rows[0]["label"] == row["metadata"]["setting"]
    assert right >= 0.9 * len(rows_of_the_demo)


@pytest.mark.parametrize(
    ("title", "old", "new", "message"),
    [
        ("Which images are like one image but unlike another?", "00236.jpg", "00226.jpg", "zero vector"),
        ("Which images lack a tag that they should have?", "'boat'", "'submarine'", "is NULL"),
    ],
)
def test_a_query_with_nothing_to_look_for_says_so(
    sample: SampleCollection, title: str, old: str, new: str, message: str
) -> None:
    with pytest.raises(DatabaseError, match=message):
        run(sample.collection, RECIPES[title].statement.replace(old, new))


OTHER_INDEXES = {
    "Which images from one country fit a text best?": "images_country_idx",
    "Which well rated images below a folder fit a text best?": "images_folder_idx",
    "Which images rank best by words and by appearance together?": "images_words_idx",
}


@pytest.mark.parametrize(("title", "index"), OTHER_INDEXES.items())
def test_other_indexes_that_the_text_names_can_serve_the_query(
    sample: SampleCollection, title: str, index: str
) -> None:
    statement = RECIPES[title].statement
    run(sample.collection, statement)  # embeds its texts
    with sample.collection.database.connect() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # as with many rows
        # Which of several is the cheapest depends on whether autovacuum has looked at these few rows.
        for other in {*OTHER_INDEXES.values(), "images_rating_idx"} - {index}:
            connection.exec_driver_sql(f"DROP INDEX {other}")
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}".replace("%", "%%")).scalars().all()
        connection.rollback()
    assert any(index in line for line in plan), plan


@pytest.mark.parametrize("title", RECIPES)
def test_a_query_can_stand_between_double_quotes_in_a_shell(title: str) -> None:
    assert not set(RECIPES[title].statement) & set('"$`\\!')


def test_a_statement_has_the_time_that_the_document_says() -> None:
    assert "**60 seconds**" in DOCUMENT
    assert sql.STATEMENT_TIMEOUT_S == 60


def test_the_settings_of_the_album_stand_for_countries_as_the_text_says(sample: SampleCollection) -> None:
    statement = RECIPES["What is the best image of each country?"].statement
    statement = statement.replace("i.country,", "i.metadata->>'setting' AS country,")
    rows, _ = run(sample.collection, statement.replace("WHERE i.country IS NOT NULL", ""))
    assert {row["country"] for row in rows} >= set(SETTINGS)


def test_the_factor_of_the_labels_is_the_demo_model_s_own() -> None:
    weights = load_file(Path(searchdb.demo.__file__).parent / "model" / "model.safetensors")
    assert round(float(np.exp(np.float64(weights["logit_scale"])))) == 21


def test_a_filter_beside_the_distance_loses_rows_and_the_cookbook_s_does_not(sample: SampleCollection) -> None:
    beside = (
        "SELECT image FROM images WHERE lower(country) = 'portugal' "
        "ORDER BY embedding <=> text_embedding('a boat at sunset') LIMIT 10"
    )
    recipe = RECIPES["Which images from one country fit a text best?"].statement
    with sample.collection.database.connect() as connection:
        connection.exec_driver_sql(f"DROP INDEX {VECTOR_INDEX}")
        connection.exec_driver_sql(
            f"CREATE INDEX {VECTOR_INDEX} ON images USING ivfflat (embedding vector_cosine_ops) WITH (lists = 30)"
        )
        expected = connection.execute(sa.text(recipe)).scalars().all()
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):  # as with many rows
            connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        assert len(connection.execute(sa.text(beside)).all()) < 10
        assert connection.execute(sa.text(recipe)).scalars().all() == expected
        connection.rollback()


def test_a_materialized_text_is_looked_up_once(sample: SampleCollection) -> None:
    """Once for each text of the query, not once for each text and image."""
    calls = sa.text("SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'text_embedding'")
    for title in READING:
        statement = RECIPES[title].statement
        with sample.collection.database.connect() as connection:
            connection.exec_driver_sql("SET LOCAL track_functions = 'all'")
            before = connection.execute(calls).scalar() or 0
            connection.exec_driver_sql(statement.replace("%", "%%"))
            asked = (connection.execute(calls).scalar() or 0) - before
            connection.rollback()
        assert asked == len(sql.texts_to_embed(statement)), title


def test_a_view_of_labels_needs_write_and_has_the_best_label_of_each_image(
    sample: SampleCollection,
) -> None:
    recipe = RECIPES[WRITING]
    command = re.search(r"`searchdb embed ([^`]+)`", DOCUMENT[DOCUMENT.index(f"## {WRITING}") :])
    assert command is not None
    texts = [quoted or bare for quoted, bare in re.findall(r"'([^']+)'|(\S+)", command[1])]
    assert texts == list(SETTINGS.values())
    sample.collection.embed(texts)
    with sample.collection.database.connect() as connection:
        with pytest.raises(DatabaseError, match="read-only"):
            sql.run_sql(connection, recipe.statement)
        sql.run_sql(connection, recipe.statement, write=True)
        try:
            sql.run_sql(connection, "REFRESH MATERIALIZED VIEW image_labels", write=True)
            result = sql.run_sql(connection, "SELECT id, label, similarity FROM image_labels ORDER BY id")
        finally:
            sql.run_sql(connection, "DROP MATERIALIZED VIEW image_labels", write=True)
    scores = np.stack([sample.text(text) for text in texts])
    assert [row[0] for row in result.rows] == [row["id"] for row in sample.rows]
    assert [row[1] for row in result.rows] == [texts[n] for n in scores.argmax(axis=0)]
    assert [row[2] for row in result.rows] == pytest.approx(scores.max(axis=0), abs=1e-5)
