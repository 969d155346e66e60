"""Rows with the vectors of two models fit in a page, whatever else they have."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sqlalchemy import text

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.records import ModelIdentity
from searchdb.switch.start import start_switch
from tests.helpers.two_models import images_of, random_units

OLD = ModelIdentity(name="old", weights_sha256=b"1" * 32, dimension=1000)


@pytest.mark.parametrize(("dimension", "storage"), [(792, "p"), (800, "e"), (2000, "e")])
def test_a_row_with_two_vectors_and_much_metadata(
    database: Database, settings: Settings, dimension: int, storage: str
) -> None:
    images_of(database, OLD, random_units(2, OLD.dimension))
    new = ModelIdentity(name="new", weights_sha256=b"2" * 32, dimension=dimension)
    column = start_switch(database, settings, new).column
    # Texts that cannot be compressed.
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), size=60_000)
    noise = "".join(letters)
    texts = ("description", "credit", "credit_url", "page_url", "camera", "country", "city", "source_id", "rendition")
    with database.begin() as connection:
        connection.execute(
            text(
                f"UPDATE images SET {', '.join(f'{name} = :{name}' for name in texts)}, {column.name} = :vector, "
                "tags = :tags, metadata = CAST(:metadata AS jsonb), latitude = 1, longitude = 2, taken_at = now(), "
                "sha256 = decode(repeat('ab', 32), 'hex'), image = image || :image"
            ),
            {
                **{name: noise[place * 200 : place * 200 + 200] for place, name in enumerate(texts)},
                "vector": random_units(1, dimension)[0],
                "tags": [noise[place : place + 20] for place in range(0, 4000, 20)],
                "metadata": json.dumps({"a": noise[:50_000]}),
                "image": noise[:1000],
            },
        )
        connection.execute(text("UPDATE images SET rating = 3"))
        found = connection.scalar(
            text("SELECT attstorage FROM pg_attribute WHERE attrelid = 'images'::regclass AND attname = :name"),
            {"name": column.name},
        )
    assert found == storage
