"""Programs that were there before the collection was switched to another model go on with it by themselves."""

from __future__ import annotations

import gc
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.current_model import model_to_use
from searchdb.db.switch_tables import model_switches
from searchdb.db.tables import embedding_models
from searchdb.errors import ModelMismatchError
from searchdb.media.embed import CLIPEmbedder
from searchdb.switch.state import SwitchStatus
from tests.helpers.tiny_models import demo_twin
from tests.helpers.waiting import until
from web import create_app
from web.backend import EXTENSION, Backend
from web.vector_param import to_text

IMAGES = 12


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_twin(tmp_path_factory.mktemp("models") / "twin", 768)


@pytest.fixture
def filled(settings: Settings, album: Path, embedder: CLIPEmbedder) -> Iterator[SearchDB]:
    with SearchDB(settings.model_copy(update={"dtype": "float32"})) as collection:
        collection.embedder = embedder
        collection.ingest_files(*sorted(album.glob("*.jpg"))[:IMAGES])
        yield collection


def forgotten(*models: weakref.ref[Any]) -> bool:
    """Whether nothing refers to these models any more."""
    if all(model() is None for model in models):
        return True
    gc.collect()
    time.sleep(0.2)  # with torch's objects, a collection takes long
    return False


def test_searches_watches_and_workers_go_on(filled: SearchDB, twin: Path, tmp_path: Path) -> None:
    with SearchDB(filled.settings) as program:
        kept = program.searcher
        before = program.search("a red car", image=Image.new("RGB", (64, 64), "red"), threshold=-1)
        stop = threading.Event()
        worker = threading.Thread(target=lambda: program.work(stop=stop))
        worker.start()
        try:
            filled.switch_model(str(twin))
            after = program.search("a red car", image=Image.new("RGB", (64, 64), "red"), threshold=-1)
            assert [hit.id for hit in after] == [hit.id for hit in before]
            assert [hit.similarity for hit in after] == pytest.approx([hit.similarity for hit in before], abs=1e-5)
            assert kept.embed(["a dog"]).shape == (1, 768)
            assert program.searcher is not kept
            Image.new("RGB", (70, 50), "purple").save(tmp_path / "new.png")
            assert program.ingest_files(tmp_path / "new.png").stored == 1
            assert filled.search("purple", threshold=-1, count=IMAGES + 1)[0].similarity
        finally:
            stop.set()
            worker.join()


def test_the_setting_may_name_the_earlier_or_the_coming_model(
    filled: SearchDB, twin: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(twin.parent)
    name = str(twin)
    with filled.database.begin() as connection:
        current = connection.scalar(sa.select(embedding_models.c.id))
        coming = connection.scalar(
            sa.insert(embedding_models)
            .values(name=name, weights_sha256=b"n" * 32, dimension=768)
            .returning(embedding_models.c.id)
        )
        assert model_to_use(connection, name, "default") == name
        connection.execute(
            sa.insert(model_switches).values(
                embedding_model_id=coming, from_model_id=current, phase="fill", host="test", pid=1, row_count=0
            )
        )
        with caplog.at_level(logging.WARNING):
            assert model_to_use(connection, name, "default") == "demo"
            assert model_to_use(connection, twin.name, "default") == "demo"  # the folder, from the current one
            assert model_to_use(connection, name, "default") == "demo"
        assert len([each for each in caplog.messages if name in each]) == 1
        assert model_to_use(connection, "another", "default") == "another"
        assert model_to_use(connection, None, "default") == "demo"


def test_a_model_that_the_collection_never_had_is_refused_with_the_way_out(filled: SearchDB, twin: Path) -> None:
    with SearchDB(filled.settings.model_copy(update={"model": str(twin)})) as other:
        with pytest.raises(ModelMismatchError, match=r"512 numbers.*768 numbers.*searchdb model switch ") as caught:
            other.search("a dog")
        assert not caught.value.switched
        assert other.search(like=1, threshold=-1)  # stored vectors can be compared with each other


def test_an_empty_collection_of_another_width_finds_nothing(settings: Settings, twin: Path) -> None:
    with SearchDB(settings.model_copy(update={"model": str(twin)})) as collection:
        assert collection.search("a dog") == []
        assert collection.search("a dog", image=Image.new("RGB", (64, 64)), min_size=3) == []
        assert collection.search("a dog", where="width > 10") == []
        with collection.database.connect() as connection:  # no search changes the table
            assert connection.scalar(sa.text("SELECT atttypmod FROM pg_attribute WHERE attname = 'embedding' "
                                             "AND attrelid = 'images'::regclass")) == 512  # fmt: skip


def test_stored_images_are_compared_without_the_model(filled: SearchDB) -> None:
    with SearchDB(filled.settings.model_copy(update={"model": "/nowhere"})) as other:
        first = other.search(like=1, threshold=-1, count=3)
        assert len(first) == 3
        assert len(other.search(like=[1, 2], unlike=3, threshold=-1, count=3, orientation="landscape")) >= 1


@pytest.fixture(autouse=True)
def _short_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the model without waiting for pages to load it: the tests look at what they do if they have not."""
    monkeypatch.setattr("searchdb.switch.notice.NOTICE_S", 0.0)


@pytest.fixture
def app(filled: SearchDB) -> Iterator[Flask]:
    app = create_app(filled.settings, warm_up=False)
    app.testing = True
    yield app
    app.extensions[EXTENSION].close()


def test_the_page_loads_the_next_model_before_and_forgets_the_earlier_one(
    app: Flask, filled: SearchDB, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.model_choice.LOOK_S", 0.0)
    client, backend = app.test_client(), app.extensions[EXTENSION]
    assert isinstance(backend, Backend)
    assert client.get("/api/search?q=a+dog&threshold=-1").get_json()["count"] > 0
    posted = client.post("/api/search", data={"image": (_png(), "a.png")}).get_json()
    address = f"/?q=a+dog&country=Chile&vector={posted['vector']}"
    earlier = weakref.ref(backend.model())

    filled.switch_model(str(twin))
    answer = client.get("/api/search?q=a+dog&threshold=-1")
    assert answer.status_code == 200
    assert client.get("/api/model").get_json() == {"model": "twin", "dimension": 768}
    assert "twin" in client.get("/").text
    until(lambda: forgotten(earlier), "the earlier model's memory")

    page = client.get(address)
    assert page.status_code == 400
    assert "from an earlier model" in page.text
    assert 'href="/?q=a+dog&amp;country=Chile"' in page.text
    page = client.get(f"{address}&endpoint=x&_anchor=y&_scheme=z")
    assert page.status_code == 400
    assert 'href="/?q=a+dog&amp;country=Chile&amp;endpoint=x&amp;_anchor=y&amp;_scheme=z"' in page.text
    refused = client.get(f"/api/search?vector={posted['vector']}")
    assert refused.status_code == 422
    assert "512 numbers instead of 768" in refused.get_json()["detail"]
    again = client.post("/api/search", data={"image": (_png(), "a.png")}).get_json()
    assert len(again["vector"]) > len(posted["vector"])
    assert client.get(f"/?vector={again['vector']}&threshold=-1").status_code == 200


def test_a_page_that_has_not_looked_again_follows_at_once(
    app: Flask, filled: SearchDB, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.model_choice.LOOK_S", 3600.0)
    client, backend = app.test_client(), app.extensions[EXTENSION]
    assert client.get("/?q=a+dog&threshold=-1").status_code == 200
    filled.switch_model(str(twin))
    assert backend.model().name == "demo"
    redirected = client.post("/search", data={"image": (_png(), "a.png")})
    assert redirected.status_code == 303
    assert backend.model().name == str(twin)
    found = client.get(redirected.location)
    assert found.status_code == 200
    filled.switch_model("demo")
    assert backend.model().name == str(twin)
    with SearchDB(filled.settings) as other:
        vector = to_text(other.embed(["a dog"])[0], other.embedder.identity)
    assert client.get(f"/?vector={vector}&threshold=-1").status_code == 200  # from a process that has followed before
    assert backend.model().name == "demo"


@pytest.mark.parametrize("looks", [True, False])
def test_an_upload_just_before_the_change_is_found_after_it(
    app: Flask, filled: SearchDB, twin: Path, monkeypatch: pytest.MonkeyPatch, *, looks: bool
) -> None:
    monkeypatch.setattr("web.model_choice.LOOK_S", 0.0)
    client, backend = app.test_client(), app.extensions[EXTENSION]
    before = client.post("/search", data={"image": (_png(), "a.png"), "threshold": "-1"})
    hits = client.get(before.location).text.count('class="cell')
    addresses = list[str]()

    def upload(status: SwitchStatus) -> None:
        if status.phase == "change" and not addresses:
            addresses.append(client.post("/search", data={"image": (_png(), "a.png"), "threshold": "-1"}).location)
            assert client.get(addresses[0]).status_code == 200
            if not looks:
                monkeypatch.setattr("web.model_choice.LOOK_S", 3600.0)

    filled.switch_model(str(twin), progress=upload)
    page = client.get(addresses[0])
    assert page.status_code == 200
    assert page.text.count('class="cell') == hits > 0
    assert backend.model().name == str(twin)
    assert backend.recent_query_images.get(addresses[0]) is None
    assert client.get(addresses[0].replace("/?", "/images/1?")).status_code == 200
    monkeypatch.setattr("web.files.recent_query_images.KEPT_S", 0.0)
    assert client.get(addresses[0]).status_code == 400
    posted = client.post("/search", data={"image": (_png(), "a.png")}).location
    assert backend.recent_query_images.get(parse_qs(urlsplit(posted).query)["vector"][0]) is None  # no change is near


def test_the_page_follows_to_other_weights_with_the_same_name(
    filled: SearchDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.model_choice.LOOK_S", 0.0)
    folder = demo_twin(tmp_path / "trained", 512, seed=1)
    filled.switch_model(str(folder))
    app = create_app(filled.settings, warm_up=False)
    app.testing = True
    client, backend = app.test_client(), app.extensions[EXTENSION]
    try:
        assert client.get("/api/search?q=a+dog&threshold=-1").get_json()["count"] > 0
        earlier = backend.model().embedder.identity
        shutil.rmtree(folder)
        demo_twin(folder, 512, seed=2)
        filled.switch_model(str(folder))
        assert client.get("/api/search?q=a+dog&threshold=-1").get_json()["count"] > 0
        assert backend.model().embedder.identity.weights_sha256 != earlier.weights_sha256
        same = backend.model()
        assert client.get("/api/search?q=a+dog&threshold=-1").get_json()["count"] > 0
        assert backend.model() is same
    finally:
        backend.close()


def test_a_worker_keeps_no_earlier_model(filled: SearchDB, twin: Path, tmp_path: Path) -> None:
    with SearchDB(filled.settings) as program:
        stop = threading.Event()
        worker = threading.Thread(target=lambda: program.work(stop=stop))
        worker.start()
        try:
            models = list[weakref.ref[CLIPEmbedder]]()
            for number, model in enumerate((None, str(twin), "demo")):
                if model:
                    filled.switch_model(model)
                Image.new("RGB", (70, 50), (number, 90, 9)).save(tmp_path / "new.png")
                filled.ingest_files(tmp_path / "new.png", enqueue_only=True)
                until(lambda: not filled.status().pending, "the worker")
                models.append(weakref.ref(program.embedder))
            until(lambda: forgotten(*models[:2]), "the earlier models' memory")
            assert models[2]() is program.embedder
            assert not program.other_models._loaded
        finally:
            stop.set()
            worker.join()


def test_the_page_loads_the_coming_model_in_the_background(
    app: Flask, filled: SearchDB, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.model_choice.LOOK_S", 0.0)
    client, backend = app.test_client(), app.extensions[EXTENSION]
    client.get("/")
    with filled.database.begin() as connection:
        values = {"name": str(twin), "weights_sha256": b"n" * 32, "dimension": 768}
        coming = connection.scalar(sa.insert(embedding_models).values(values).returning(embedding_models.c.id))
        current = connection.scalar(sa.select(embedding_models.c.id).where(embedding_models.c.current))
        switch = {"embedding_model_id": coming, "from_model_id": current, "host": "test", "pid": 1, "row_count": 0}
        connection.execute(sa.insert(model_switches).values(phase="fill", **switch))
    client.get("/")
    assert backend._models.upcoming is None
    with filled.database.begin() as connection:
        connection.execute(sa.update(model_switches).values(phase="index"))
    client.get("/")
    coming_model = backend._models.upcoming
    assert coming_model is not None
    coming_model.load()
    assert coming_model.usable
    assert backend.model().name == "demo"
    with filled.database.begin() as connection:
        connection.execute(sa.update(model_switches).values(ended_at=sa.func.now(), aborted=True))
    client.get("/")
    assert backend._models.upcoming is None


def _png() -> object:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)).save(buffer, "PNG")
    buffer.seek(0)
    return buffer
