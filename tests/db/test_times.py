"""Times that only PostgreSQL can hold, which SQL may write, break no search."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import embedding_models
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.cli import output, run
from tests.helpers.vectors import clustered, fill
from web import create_app
from web.backend import EXTENSION


@pytest.mark.parametrize("taken_at", ["infinity", "-infinity", "0044-03-15 BC", "12026-11-25"])
def test_a_date_that_python_cannot_hold_is_unknown(settings: Settings, embedder: CLIPEmbedder, taken_at: str) -> None:
    with SearchDB(settings) as collection:
        fill(collection.database, clustered(3))
        with collection.database.begin() as connection:
            connection.execute(sa.update(embedding_models).values(weights_sha256=embedder.identity.weights_sha256))
            connection.execute(sa.text("UPDATE images SET sha256 = sha256(image::bytea)"))
            connection.execute(sa.text("UPDATE images SET taken_at = :at WHERE id = 2"), {"at": taken_at})
        hits = collection.search(like=1, threshold=-1)
        assert {hit.id: hit.taken_at for hit in hits}[2] is None
    printed = json.loads(output(run(settings, "sql", "SELECT taken_at FROM images WHERE id = 2", "--json")))
    assert printed["rows"][0]["taken_at"].startswith(taken_at.split(" ")[0])
    app = create_app(settings, embedder=embedder)
    client = app.test_client()
    assert client.get("/api/images/2").get_json()["taken_at"] is None
    assert client.get("/images/2").status_code == 200
    app.extensions[EXTENSION].close()
