"""What `/metrics` tells: bounded in what it names, apart for every application, and honest about a database away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.search.searcher import Searcher
from web import create_app
from web.backend import EXTENSION
from web.ops import metrics

if TYPE_CHECKING:
    from searchdb.media.embed import CLIPEmbedder
    from tests.helpers.stored_images import StoredImages

Sample = tuple[str, frozenset[tuple[str, str]]]


def numbers(client: FlaskClient) -> dict[Sample, float]:
    """Every sample that is shown, by its name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.mimetype == "text/plain"
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(client: FlaskClient, name: str, **labels: str) -> float | None:
    return numbers(client).get((name, frozenset(labels.items())))


def test_requests_are_counted_by_route_never_by_address(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add("a red boat")
    client.get(f"/images/{image_id}")
    client.get("/images/77")
    for n in range(20):
        client.get(f"/made-up-{n}")
        client.open("/", method=f"MADE-UP-{n}")
    shown = numbers(client)
    requests = {labels: count for (name, labels), count in shown.items() if name == "searchdb_http_requests_total"}
    route = "/images/<id:image_id>"
    assert requests[frozenset({"method": "GET", "route": route, "status": "200"}.items())] == 1
    assert requests[frozenset({"method": "GET", "route": route, "status": "404"}.items())] == 1
    assert requests[frozenset({"method": "GET", "route": "none", "status": "404"}.items())] == 20
    assert requests[frozenset({"method": "other", "route": "none", "status": "405"}.items())] == 20
    assert len(requests) == 4
    assert shown["searchdb_http_request_seconds_count", frozenset({("route", route)})] == 2
    assert not any("made-up" in word.lower() for _, labels in shown for pair in labels for word in pair)


def test_the_model_sql_and_caches_are_measured(
    client: FlaskClient, database: Database, stored_images: StoredImages, embedder: CLIPEmbedder
) -> None:
    stored_images.add("a red boat")

    def sources() -> list[float]:
        found = (value(client, "searchdb_text_vectors_total", source=each) for each in ("model", "database", "memory"))
        return [each or 0 for each in found]

    client.get("/api/search?q=a+green+tree")
    assert value(client, "searchdb_embed_seconds_count", kind="text") == 1
    assert sources() == [1, 0, 0]
    client.get("/api/search?q=a+green+tree")
    assert sources() == [1, 0, 1]
    Searcher(database.engine, embedder).embed(["a blue tree"])
    for _ in range(2):
        client.get("/api/search?q=a+blue+tree")
    assert sources() == [1, 1, 2]
    assert (value(client, "searchdb_sql_seconds_count") or 0) > 5
    assert value(client, "searchdb_pool_connections_limit") == 20


def test_connections_in_use_are_measured(app: Flask) -> None:
    client = app.test_client()
    database = app.extensions[EXTENSION].database()
    with database.connect(), database.connect():
        assert value(client, "searchdb_pool_connections_in_use") == 2  # the scrape's own is back already
    assert value(client, "searchdb_pool_connections_in_use") == 0


def test_the_collection_is_counted_at_every_scrape(
    client: FlaskClient, database: Database, stored_images: StoredImages
) -> None:
    assert value(client, "searchdb_pictures") == 0
    stored_images.add("a red boat")
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO ingest_failures (image, source, error, message, retryable) "
            "VALUES ('/gone.jpg', 'files', 'FileUnreadableError', 'gone', false)"
        )
    assert value(client, "searchdb_database_up") == 1
    assert value(client, "searchdb_pictures") == 1
    assert value(client, "searchdb_failures") == 1
    assert value(client, "searchdb_pending") == 0


def test_an_unavailable_database_is_reported(embedder: CLIPEmbedder) -> None:
    away = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", model="demo")
    app = create_app(away, embedder=embedder)
    client = app.test_client()
    assert client.get("/").status_code == 503
    assert value(client, "searchdb_database_up") == 0
    assert value(client, "searchdb_pictures") is None
    assert value(client, "searchdb_http_requests_total", method="GET", route="/", status="503") == 1
    app.extensions[EXTENSION].close()


def test_a_count_that_takes_too_long_is_left_out(
    client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/").status_code == 200
    monkeypatch.setattr(metrics, "STATE_TIMEOUT_MS", 50)
    with database.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE ingest_failures IN ACCESS EXCLUSIVE MODE")
        assert value(client, "searchdb_database_up") == 1
        assert value(client, "searchdb_pictures") is None
    assert value(client, "searchdb_pictures") == 0


def test_two_applications_in_a_process_count_apart(app: Flask, settings: Settings, embedder: CLIPEmbedder) -> None:
    other = create_app(settings, embedder=embedder)
    for _ in range(3):
        app.test_client().get("/healthz")
    labels = {"method": "GET", "route": "/healthz", "status": "200"}
    assert value(app.test_client(), "searchdb_http_requests_total", **labels) == 3
    assert value(other.test_client(), "searchdb_http_requests_total", **labels) is None
    other.extensions[EXTENSION].close()
