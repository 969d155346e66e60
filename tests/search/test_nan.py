"""A stored vector without length, from before the CHECK, is found by no search, and NaN is in no document."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import NoReturn

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.norms import CONSTRAINT
from searchdb.db.tables import VECTOR_INDEX, embedding_models
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.cli import output, run
from tests.helpers.vectors import clustered, fill
from web import create_app
from web.backend import EXTENSION

ROWS = 30


@pytest.fixture
def spoiled(settings: Settings, embedder: CLIPEmbedder) -> Iterator[SearchDB]:
    """Images 1 to ROWS, with vectors that the demo's model might have made, but image 2 with the zero vector."""
    with SearchDB(settings) as collection:
        fill(collection.database, clustered(ROWS))
        with collection.database.begin() as connection:
            connection.execute(sa.update(embedding_models).values(weights_sha256=embedder.identity.weights_sha256))
            connection.execute(sa.text(f"ALTER TABLE images DROP CONSTRAINT {CONSTRAINT}"))
            zero = "array_fill(0::real, ARRAY[512])::vector"
            connection.execute(sa.text(f"UPDATE images SET embedding = {zero} WHERE id = 2"))
            connection.execute(sa.text("UPDATE images SET sha256 = sha256(image::bytea)"))
        yield collection


@pytest.mark.parametrize("index", ["vector", "halfvec", None])
def test_no_hit_has_a_similarity_of_nan(spoiled: SearchDB, index: str | None) -> None:
    if index is None:
        with spoiled.database.begin() as connection:
            connection.execute(sa.text(f"DROP INDEX {VECTOR_INDEX}"))
    else:
        spoiled.build_index(method="hnsw", value_type=index)
    searches = [
        spoiled.search("x", threshold=-1, count=50),
        spoiled.search("x", threshold=-1, count=50, where="id < 4"),
        spoiled.search(like=1, threshold=-1, count=50),
        spoiled.search("x", like=1, exclude="y", threshold=-1, count=50),
    ]
    assert [len(hits) for hits in searches] == [ROWS - 1, 2, ROWS - 2, ROWS - 2]
    for hits in searches:
        for hit in hits:
            numbers = [hit.similarity, hit.relevance, *(hit.parts or {}).values()]
            assert not any(number is not None and math.isnan(number) for number in numbers)
    with spoiled.database.connect() as connection:
        vector = "(SELECT embedding FROM images WHERE id = 1)"
        everything = sa.text(f"SELECT * FROM match_images({vector}, -1, 50)")
        assert len(connection.execute(everything).all()) == ROWS - 1


def strict(text: str) -> object:
    """Parse JSON, and refuse what is not JSON."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_on_the_command_line_is_strict(spoiled: SearchDB) -> None:
    commands = [
        ["search", "x", "--where", "id < 4", "--threshold", "-1", "--json"],
        ["status", "--json"],
        ["sql", "SELECT id, 1 - (embedding <=> embedding) AS similarity FROM images", "--json"],
    ]
    for command in commands:
        strict(output(run(spoiled.settings, *command)))


def test_sql_prints_what_json_has_no_number_for_as_postgresql_does(settings: Settings) -> None:
    values = "'NaN'::float8 AS a, '-Infinity'::float8 AS b, 'NaN'::numeric AS c, ARRAY[1, 'Infinity'::float8] AS d"
    printed = strict(output(run(settings, "sql", f"SELECT {values}", "--json")))
    assert isinstance(printed, dict)
    assert printed["rows"] == [{"a": "NaN", "b": "-Infinity", "c": "NaN", "d": [1, "Infinity"]}]


def test_the_api_and_the_pages_answer_strict_json(spoiled: SearchDB, embedder: CLIPEmbedder) -> None:
    app = create_app(spoiled.settings, embedder=embedder)
    client = app.test_client()
    for path in ("/api/search?q=x&threshold=-1", "/api/search?like=1&threshold=-1", "/api/images/2"):
        response = client.get(path)
        assert response.status_code == 200, response.text
        strict(response.text)
    for path in ("/images/2", "/status", "/?like=2"):
        response = client.get(path)
        assert response.status_code < 500, path
        assert ">nan<" not in response.text.lower()
    app.extensions[EXTENSION].close()
