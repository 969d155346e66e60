"""What becomes a row: the source's metadata, then the file's, in what PostgreSQL can store and index."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.ingest.rows import MAX_INDEXED_CHARACTERS, MAX_WORDS_BYTES, image_row, with_written
from searchdb.records import DecodedImage, EmbeddedImage, ModelIdentity, SourceItem, WrittenMetadata
from tests.helpers.stored_images import store_images

MODEL = ModelIdentity(name="test", weights_sha256=b"t" * 32, dimension=512)
TIME = datetime(2020, 1, 1, tzinfo=UTC)
WRITTEN = WrittenMetadata(
    title="T", description="D", keywords=("sea", "boat"), rating=3, label="Red", creator="Ann", copyright="(c) Ann",
    taken_at=TIME, taken_at_from="DateCreated", camera="X100", country="Italy", city="Rome", latitude=1.5,
    longitude=2.5,
)  # fmt: skip


def embedded(item: SourceItem, written: WrittenMetadata) -> EmbeddedImage:
    vector = np.zeros(512, np.float32)
    vector[0] = 1
    pixels = Image.new("RGB", (1, 1))
    decoded = DecodedImage(item=item, pixels=pixels, sha256=b"s", byte_size=1, width=1, height=1, written=written)
    return EmbeddedImage(decoded=decoded, embedding=vector)


def row_of(written: WrittenMetadata, **given: Any) -> dict[str, Any]:
    return image_row(embedded(SourceItem(image="/a", source="files", **given), written), 1)


def test_what_the_file_says_fills_the_columns() -> None:
    row = row_of(WRITTEN, tags=("2024", "sea"), metadata={"mood": "calm"})
    assert {name: row[name] for name in ("description", "credit", "camera", "country", "city", "rating")} == {
        "description": "D", "credit": "Ann", "camera": "X100", "country": "Italy", "city": "Rome", "rating": 3,
    }  # fmt: skip
    assert (row["taken_at"], row["latitude"], row["longitude"]) == (TIME, 1.5, 2.5)
    assert row["tags"] == ["2024", "sea", "boat"]
    assert row["metadata"] == {
        "mood": "calm", "title": "T", "copyright": "(c) Ann", "label": "Red", "taken_at_from": "DateCreated",
    }  # fmt: skip


def test_what_the_source_says_counts_first() -> None:
    given: dict[str, Any] = {
        "description": "of the list", "credit": "Bob", "camera": "Own", "country": "Norway", "city": "Oslo",
        "rating": 0, "taken_at": datetime(2001, 1, 1, tzinfo=UTC), "latitude": 9.0, "longitude": 8.0,
    }  # fmt: skip
    row = row_of(WRITTEN, metadata={"title": "own", "label": None}, **given)
    assert {name: row[name] for name in given} == given
    assert row["metadata"] == {"title": "own", "label": None, "copyright": "(c) Ann"}


@pytest.mark.parametrize(
    ("title", "description", "expected", "kept"),
    [
        ("T", "D", "D", "T"),
        ("T", None, "T", None),
        (None, "D", "D", None),
        ("same", "same", "same", None),
        (None, None, None, None),
    ],
)
def test_a_title_alone_is_the_description(
    title: str | None, description: str | None, expected: str | None, kept: str | None
) -> None:
    item = with_written(SourceItem(image="/a", source="files"), WrittenMetadata(title=title, description=description))
    assert (item.description, item.metadata.get("title")) == (expected, kept)


def nasty(seed: int, groups: int) -> str:
    """Return words that take as much space as possible in the full-text index: addresses, hyphens, no word twice."""
    chance = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyzäöüßλд東🦁"

    def word(length: int) -> str:
        return "".join(chance.choice(letters) for _ in range(length))

    def group() -> str:
        address = f"http://{word(2)}.{word(2)}.de/{word(1)}/{word(1)}?{word(1)}"
        return f"{word(2)} {word(2)}-{word(2)}-{word(2)} {address} {chance.randrange(10**6)}.{chance.randrange(10)}"

    return " ".join(group() for _ in range(groups))


@pytest.mark.slow
@pytest.mark.parametrize("separator", [" ", "-", "/", "."])
def test_no_text_of_a_file_or_list_makes_the_insert_fail(database: Database, separator: str) -> None:
    long = nasty(1, 5000).replace(" ", separator)
    chance = random.Random(2)
    random_text = "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(5000))
    item = SourceItem(
        image="/a", source="files", description=long, credit=long, camera=random_text, country=random_text,
        city=random_text, tags=(random_text, *(f"{word} {n}" for n, word in enumerate(long.split(separator)))),
        metadata={"title": long, "nan": [float("nan"), {"inf": float("inf")}], "nul\0": "\ud800\0"},
    )  # fmt: skip
    store_images(database.engine, [embedded(item, WRITTEN)], MODEL)
    with database.connect() as connection:
        row = connection.execute(sa.select(images)).mappings().one()
    assert row["camera"] == row["country"] == row["city"] == row["tags"][0] == random_text[:MAX_INDEXED_CHARACTERS]
    assert len(row["description"].encode()) <= MAX_WORDS_BYTES
    assert row["metadata"]["nan"] == [None, {"inf": None}]
