"""Clients of all kinds search while the collection is switched to another model and back: none of them fails."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg
import pytest
import requests
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.gunicorn import Server, serving
from tests.helpers.tiny_models import demo_twin
from tests.helpers.waiting import GIVE_UP_S

IMAGES = 48
TEXTS = ("a red car", "a boat at sunset", "snow and mountains", "a dog")
ROUNDS_AFTER = 3
"""Requests of each client after a change-over, so that each has met the new model."""

PAUSE_S = 0.2
"""Between two requests of a client: the switch, too, needs the processor."""


@dataclass(kw_only=True)
class Clients:
    """Threads that ask again and again; `failures` has what went wrong, `done` how often each has asked."""

    asks: dict[str, Callable[[], None]]
    failures: list[str] = field(default_factory=list[str])
    done: Counter[str] = field(default_factory=Counter[str])

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()

        def ask_on(name: str, ask: Callable[[], None]) -> None:
            while not stop.is_set():
                try:
                    ask()
                except Exception as exc:  # noqa: BLE001 - the test reports it
                    self.failures.append(f"{name}: {type(exc).__name__}: {exc}")
                self.done[name] += 1
                stop.wait(PAUSE_S)

        threads = [threading.Thread(target=ask_on, args=each) for each in self.asks.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(GIVE_UP_S)

    def until_each_asked(self, times: int) -> None:
        before, deadline = Counter(self.done), time.monotonic() + GIVE_UP_S
        while any(self.done[name] - before[name] < times for name in self.asks) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert all(self.done[name] - before[name] >= times for name in self.asks), self.done


@pytest.fixture
def filled(settings: Settings, album: Path, embedder: CLIPEmbedder) -> Iterator[SearchDB]:
    with SearchDB(settings.model_copy(update={"dtype": "float32"})) as collection:
        collection.embedder = embedder
        collection.ingest_files(*sorted(album.glob("*.jpg"))[:IMAGES])
        yield collection


def exact_similarities(collection: SearchDB) -> np.ndarray:
    """Return the similarities of all images to the texts by an exact scan, of shape (texts, images) by id."""
    vectors = collection.searcher.embed(TEXTS)
    with collection.database.connect() as connection:
        rows = connection.exec_driver_sql("SELECT embedding::vector FROM images ORDER BY id").all()
    return vectors @ np.stack([row[0].to_numpy() for row in rows]).T


def clients_of(
    server: Server, collection: SearchDB, long_running: SearchDB, sql: psycopg.Connection
) -> dict[str, Callable[[], None]]:
    buffer = io.BytesIO()
    Image.new("RGB", (90, 60), "red").save(buffer, "JPEG")
    some_id = collection.search("a dog", threshold=-1)[0].id

    def get(path: str) -> Callable[[], None]:
        def ask() -> None:
            answer = server.get(path)
            assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:300]}"

        return ask

    def upload() -> None:
        files = {"image": ("red.jpg", buffer.getvalue())}
        answer = requests.post(f"{server.url}/api/search", files=files, timeout=GIVE_UP_S)
        assert answer.status_code == 200, answer.text
        assert answer.json()["count"] > 0

    def upload_to_page() -> None:
        files = {"image": ("red.jpg", buffer.getvalue())}
        answer = requests.post(f"{server.url}/search", data={"threshold": "-1"}, files=files, timeout=GIVE_UP_S)
        assert answer.status_code == 200, answer.text
        assert "vector=" in answer.url

    def embed() -> None:
        answer = requests.post(f"{server.url}/api/embeddings", json={"texts": ["a boat"]}, timeout=GIVE_UP_S)
        assert answer.status_code == 200, answer.text
        assert {len(each) for each in answer.json()["embeddings"]} == {answer.json()["dimension"]}

    def prepared() -> None:
        for statement in (
            "SELECT id, similarity FROM search_images('a dog', -1, 5)",
            f"SELECT id, similarity FROM match_images((SELECT embedding FROM images WHERE id = {some_id}), -1, 5)",
        ):
            assert len(sql.execute(statement.encode()).fetchall()) == 5

    def python() -> None:
        assert len(long_running.search("a red car", threshold=-1, count=5)) == 5

    return {
        "page by text": get("/?q=a+red+car&threshold=-1"),
        "page by text, without, by like": get(f"/?q=a+boat&not=snow&like={some_id}&threshold=-1"),
        "page of an image": get(f"/images/{some_id}?q=a+dog"),
        "API by text and filter": get("/api/search?q=a+dog&min_size=10&threshold=-1"),
        "API by like": get(f"/api/search?like={some_id}&threshold=-1"),
        "API by upload": upload,
        "page by upload": upload_to_page,
        "API, embeddings": embed,
        "relevance": get("/api/search?q=a+boat&min_relevance=0.01"),
        "status page": get("/status"),
        "psql": prepared,
        "Python": python,
    }


def test_no_client_fails_while_the_model_changes_forth_and_back(
    settings: Settings, filled: SearchDB, tmp_path: Path
) -> None:
    twin = demo_twin(tmp_path / "twin", 768)
    url = settings.database_url
    assert url is not None
    before = exact_similarities(filled)
    filled.embed(["a dog"])
    limits = {"SEARCHDB_DTYPE": "float32", "SEARCHDB_RATE_LIMIT": "", "SEARCHDB_WORK_LIMIT": ""}
    with (
        serving(settings) as serve,
        SearchDB(filled.settings) as long_running,
        psycopg.connect(url.get_secret_value(), autocommit=True, prepare_threshold=0) as sql,
    ):
        server = serve("--threads=8", **limits)
        asks = clients_of(server, filled, long_running, sql)
        clients = Clients(asks=asks)
        with clients.running():
            clients.until_each_asked(1)
            for model, dimension in ((str(twin), 768), ("demo", 512)):
                assert filled.switch_model(model).changed
                clients.until_each_asked(ROUNDS_AFTER)
                assert server.get("/api/model").json()["dimension"] == dimension
                assert server.get("/readyz").status_code == 200
                assert Path(model).name in server.get("/").text  # the footer names the model
                after = exact_similarities(filled)
                assert np.abs(after - before).max() < 1e-5
        assert clients.failures == []
