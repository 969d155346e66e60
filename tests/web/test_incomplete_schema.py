"""The page over a schema from which something is missing."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from searchdb.db.database import Database
from tests.helpers.stored_images import StoredImages


@pytest.mark.parametrize(
    ("drop", "name"),
    [("FUNCTION match_images", "match_images"), ("TABLE query_embeddings", "query_embeddings")],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_page_names_what_is_missing(
    client: FlaskClient, database: Database, stored_images: StoredImages, drop: str, name: str, when: str
) -> None:
    stored_images.add("a boat")
    if when == "after":
        assert client.get("/?q=boat").status_code == 200
    with database.begin() as connection:
        connection.execute(sa.text(f"DROP {drop} CASCADE"))
    for path in ("/?q=dog", "/api/search?q=cat"):
        response = client.get(path)
        assert response.status_code == 503
        assert name in response.text
        assert "searchdb db repair" in response.text
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
