"""Fixtures of the web tests: the application over a fresh database, and images to store in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.apps import MakeApp
from tests.helpers.gunicorn import Serve, serving
from tests.helpers.stored_images import StoredImages
from web import create_app
from web.backend import EXTENSION


@pytest.fixture
def stored_images(tmp_path: Path, database: Database, embedder: CLIPEmbedder) -> StoredImages:
    folder = tmp_path / "the private folder"
    folder.mkdir()
    return StoredImages(folder, database, embedder)


@pytest.fixture
def app(settings: Settings, embedder: CLIPEmbedder) -> Iterator[Flask]:
    app = create_app(settings, embedder=embedder)
    app.testing = True
    yield app
    app.extensions[EXTENSION].close()


@pytest.fixture
def make_app(settings: Settings, embedder: CLIPEmbedder) -> Iterator[MakeApp]:
    """Makes applications with settings of the test's own."""
    apps: list[Flask] = []

    def make(**changes: Any) -> Flask:
        apps.append(create_app(settings.model_copy(update=changes), embedder=embedder))
        return apps[-1]

    yield make
    for app in apps:
        app.extensions[EXTENSION].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def demo_client(demo_settings: Settings, embedder: CLIPEmbedder) -> Iterator[FlaskClient]:
    """A client over the demo album, for tests that only read. Nothing limits the requests that all of them send."""
    settings = demo_settings.model_copy(update={"rate_limit": "", "work_limit": ""})
    app = create_app(settings, embedder=embedder)
    app.testing = True
    yield app.test_client()
    app.extensions[EXTENSION].close()


@pytest.fixture
def serve(settings: Settings) -> Iterator[Serve]:
    """Starts gunicorn over a fresh database."""
    with serving(settings) as start:
        yield start
