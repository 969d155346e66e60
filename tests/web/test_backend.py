"""The backend keeps one searcher, whose caches all requests share, for as long as database and model are the same."""

from __future__ import annotations

from typing import cast

from flask import Flask
from flask.testing import FlaskClient

from web.backend import EXTENSION, Backend
from web.background_model import BackgroundModel


def test_requests_share_one_searcher(app: Flask, client: FlaskClient) -> None:
    backend = cast(Backend, app.extensions[EXTENSION])
    searcher = backend.searcher
    client.get("/?q=a+boat")
    assert backend.searcher is searcher
    assert backend.searcher_with(backend.model()) is searcher


def test_another_model_has_another_searcher(app: Flask) -> None:
    backend = cast(Backend, app.extensions[EXTENSION])
    searcher = backend.searcher
    embedder = backend.model().embedder
    other = BackgroundModel("other", embedder, backend.slots, backend.metrics, max_cache_bytes=10**6, loaded=True)
    assert backend.searcher_with(other) is not searcher


def test_embeddings_and_searches_share_the_text_cache(app: Flask, client: FlaskClient) -> None:
    client.post("/api/embeddings", json={"texts": ["a green boat"]})
    before = client.get("/metrics").text
    client.get("/api/search?q=a+green+boat")
    after = client.get("/metrics").text
    for sample in ('searchdb_text_vectors_total{source="model"} 1.0', 'searchdb_embed_seconds_count{kind="text"} 1.0'):
        assert sample in before
        assert sample in after
