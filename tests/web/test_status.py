"""The status page: what it tells, and what it keeps to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from flask.testing import FlaskClient

from searchdb.db.database import Database
from searchdb.db.tables import ingest_failures
from web.page.status import bars

if TYPE_CHECKING:
    from tests.helpers.stored_images import StoredImages


def fail(database: Database, image: str, error: str) -> None:
    row = {"image": image, "source": "files", "error": error, "message": f"{image} is bad", "retryable": False}
    with database.begin() as connection:
        connection.execute(sa.insert(ingest_failures).values(row))


def test_status_shows_counts_failures_by_cause_and_the_index(
    client: FlaskClient, stored_images: StoredImages, database: Database
) -> None:
    stored_images.add("a red boat")
    for n in range(3):
        fail(database, f"/home/anna/secret/{n}.jpg", "NotAnImageError")
    fail(database, "/home/anna/x.jpg", "<script>")
    page = client.get("/status").get_data(as_text=True)
    assert "<dt>image</dt><dd>1</dd>" in page
    assert "<dt>failed</dt><dd>4</dd>" in page
    assert "<dt>3</dt><dd>NotAnImageError" in page
    assert "The content is not in an image format that searchdb reads" in page
    assert "one list: every search is exact" in page
    assert "&lt;script&gt;" in page


def test_responses_reveal_nothing_of_the_server(
    client: FlaskClient, stored_images: StoredImages, database: Database
) -> None:
    stored_images.add("a red boat")
    fail(database, "/home/anna/secret/1.jpg", "NotAnImageError")
    page = client.get("/status").get_data(as_text=True)
    for private in ("anna", "secret", str(stored_images.folder), "postgresql://", "the private folder"):
        assert private not in page


def test_an_empty_collection_has_a_status(client: FlaskClient) -> None:
    page = client.get("/status").get_data(as_text=True)
    assert "<dt>images</dt><dd>0</dd>" in page
    assert "No searches yet" in page


def test_both_curves_are_plotted(demo_client: FlaskClient) -> None:
    demo_client.get("/?q=a+boat+near+a+pier")
    page = demo_client.get("/status").get_data(as_text=True)
    assert page.count('class="plot"') == 2
    assert "300 in the last run" in page


def test_bars_are_in_percent_of_the_highest() -> None:
    assert [(bar.x, bar.height) for bar in bars([1.0, 0.0, 4.0])] == [(0, 25.0), (2, 100.0)]
    assert bars([]) == bars([0.0]) == []
