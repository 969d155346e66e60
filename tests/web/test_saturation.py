"""While one kind of work is saturated, its excess is refused, everything else answers, and all recovers by itself."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import pytest
import requests
from flask import Flask
from werkzeug.serving import make_server

from searchdb.db import connections
from searchdb.db.connections import TRIES_WHILE_LOCKED, ImpatientPool
from searchdb.db.database import Database
from searchdb.media import safe_http
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.apps import MakeApp
from tests.helpers.image_server import ImageServer, make_image
from tests.helpers.stored_images import StoredImages
from tests.helpers.waiting import GIVE_UP_S, until
from web.backend import EXTENSION, Backend
from web.slots import WORK_THREADS

if TYPE_CHECKING:
    from collections.abc import Mapping

Requests = list[Future[Any]]
CACHED = "/api/search?q=a+red+boat"


class Site:
    """The application behind a real server that has a thread for each request."""

    def __init__(self, app: Flask) -> None:
        self.backend = cast(Backend, app.extensions[EXTENSION])
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.clients = ThreadPoolExecutor(40)

    def close(self) -> None:
        self.clients.shutdown()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=GIVE_UP_S, allow_redirects=False)

    def post(self, path: str, **body: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=GIVE_UP_S, allow_redirects=False, **body)

    def start(
        self, times: int, send: Callable[..., requests.Response], *args: Any, **options: Any
    ) -> list[Future[Any]]:
        """Send the same request from so many clients at once."""
        return [self.clients.submit(send, *args, **options) for _ in range(times)]

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value; 0 if it has none yet."""
        labelled = ",".join(f'{label}="{value}"' for label, value in labels.items())
        start = f"{name}{{{labelled}}} " if labelled else f"{name} "
        lines = self.get("/metrics").text.splitlines()
        return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), 0.0)


@pytest.fixture
def site(make_app: MakeApp, stored_images: StoredImages) -> Iterator[Site]:
    """A site with two stored images, one of whose texts has been searched for."""
    stored_images.add("a red boat")
    stored_images.add("a dog")
    site = Site(make_app(work_limit=""))
    assert site.get(CACHED).status_code == 200
    yield site
    site.close()


@pytest.fixture
def images() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server
        server.gate.set()


def statuses(requests_: Requests) -> Counter[int]:
    return Counter(each.result(GIVE_UP_S).status_code for each in requests_)


def check_refusal(response: requests.Response, title: str = "One moment") -> None:
    """Check that a 503 says when to try again, as a problem or as a page."""
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    if response.headers["Content-Type"] == "application/problem+json":
        problem: Mapping[str, Any] = response.json()
        assert (problem["title"], problem["status"]) == ("Service Unavailable", 503)
        assert title in problem["detail"] or title == "One moment"
    else:
        assert f"<h1>{title}</h1>" in response.text


# --- Fetches ---------------------------------------------------------------------------------------


def test_slow_fetches_leave_room_for_searches(site: Site, images: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait for a slot, and those that come later, are refused; who has a slot is served in the end."""
    for limit in ("VISITOR_DEADLINE_S", "VISITOR_READ_TIMEOUT_S"):
        monkeypatch.setattr(f"web.files.visitor_fetcher.{limit}", GIVE_UP_S)
    slow = {"url": images.url("/gated")}
    by_url = site.start(8, site.post, "/api/search", json=slow)
    until(lambda: sum(each.done() for each in by_url) == 5, "the excess to be refused")
    assert images.requests["/gated"] == 3
    for each in by_url:
        if each.done():
            check_refusal(each.result())
    check = [CACHED, "/?q=a+red+boat", "/api/random", "/status", "/readyz", "/healthz", "/metrics"]
    assert [site.get(path).status_code for path in check] == [200] * len(check)
    check_refusal(site.post("/search", data=slow))
    assert site.post("/api/search", files={"image": make_image()}).status_code == 200
    assert site.metric("searchdb_slots_in_use", kind="fetch") == 3
    assert site.metric("searchdb_refusals_total", kind="fetch") == 6
    images.gate.set()
    assert statuses(by_url) == {200: 3, 503: 5}
    until(lambda: site.metric("searchdb_slots_in_use", kind="fetch") == 0, "the slots to be free")
    assert site.post("/api/search", json={"url": images.url("/ok.jpg")}).status_code == 200


@pytest.mark.slow
def test_a_fetch_for_a_visitor_ends_at_its_deadline(
    site: Site, images: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither bytes now and then, nor silence, nor slow redirects keep it alive; it is tried once."""
    monkeypatch.setattr("web.files.visitor_fetcher.VISITOR_DEADLINE_S", 3.0)
    paths = ["/one-byte-a-second", "/silent", "/drip-headers"]
    answers = [site.clients.submit(site.post, "/api/search", json={"url": images.url(path)}) for path in paths]
    for path, answer in zip(paths, answers, strict=True):
        response = answer.result(GIVE_UP_S)
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "url"
        assert images.requests[path] == 1


def test_a_slow_resolver_ends_at_the_deadline(site: Site, images: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *args: Any, **options: Any) -> Any:
        if host == "slow.example":
            answers.wait(GIVE_UP_S)
        return real(host, *args, **options)

    monkeypatch.setattr("web.files.visitor_fetcher.VISITOR_DEADLINE_S", 0.2)
    monkeypatch.setattr(safe_http.socket, "getaddrinfo", slow)
    for _ in range(4):  # one more than there are slots
        response = site.post("/api/search", json={"url": "http://slow.example/a.jpg"})
        assert response.status_code == 422
        assert "the lookup of slow.example took too long" in response.json()["detail"].lower()
    answers.set()


# --- The database ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_searches_of_a_locked_table_are_refused_until_it_is_free(site: Site, database: Database) -> None:
    """A lock is waited for briefly; after a wait in vain, few try again and the others are refused at once."""
    with database.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE images IN ACCESS EXCLUSIVE MODE")
        searches = site.start(24, site.get, CACHED)
        assert [site.get(path).status_code for path in ("/healthz", "/api/openapi.json")] == [200, 200]
        for each in searches:
            response = each.result(GIVE_UP_S)
            check_refusal(response, "One moment" if "Too many" in response.text else "The database is busy")
        ready, *others = [
            site.clients.submit(site.get, path) for path in ("/readyz", "/?q=a+red+boat", "/api/random", "/status")
        ]
        for each in others:
            check_refusal(each.result(GIVE_UP_S), "The database is busy")
        assert ready.result(GIVE_UP_S).json()["reason"] == "the database does not answer queries"
        assert site.metric("searchdb_database_up") == 1
    until(lambda: statuses(site.start(16, site.get, CACHED)) == {200: 16}, "searches to work again")
    assert site.get("/readyz").status_code == 200


def test_few_wait_for_a_lock_after_a_wait_in_vain(
    site: Site, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOCKED_S", GIVE_UP_S)
    engine = site.backend.database().reader
    with ExitStack() as used:
        for _ in range(TRIES_WHILE_LOCKED):  # before: the request before this may still hold one
            used.enter_context(engine.connect())
        cast(ImpatientPool, engine.pool).lock_timed_out()
        check_refusal(site.get(CACHED), "The database is busy")
    assert site.get(CACHED).status_code == 200


def test_readiness_is_told_soon_while_the_database_is_stuck(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.ops.health.READY_WAIT_S", 0.1)
    stuck, checks, check = threading.Event(), list[bool](), site.backend.check
    monkeypatch.setattr(site.backend, "check", lambda: (checks.append(stuck.wait(GIVE_UP_S)), check()))
    for response in [site.get("/readyz") for _ in range(3)]:
        assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (503, True)
        assert response.json()["reason"] == "the database takes long to answer"
    stuck.set()
    until(lambda: len(checks) == 1, "the only check to end")
    monkeypatch.setattr("web.ops.health.READY_WAIT_S", GIVE_UP_S)
    assert site.get("/readyz").status_code == 200


# --- The model -------------------------------------------------------------------------------------


class Gate:
    """The real model, behind a gate; texts that begin with "quick" pass it."""

    def __init__(self, embedder: CLIPEmbedder) -> None:
        self._embedder = embedder
        self.opened = threading.Event()
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed_texts(self, texts: list[str]) -> Any:
        if not texts[0].startswith("quick"):
            self.runs += 1
            assert self.opened.wait(GIVE_UP_S)
        return self._embedder.embed_texts(texts)


@pytest.fixture
def gate(site: Site) -> Iterator[Gate]:
    model = site.backend.model()
    gate = Gate(model.embedder._embedder)  # type: ignore[arg-type]
    model.embedder._embedder = gate  # type: ignore[assignment]
    yield gate
    gate.opened.set()


def test_a_busy_model_refuses_new_texts_and_serves_cached_ones(
    site: Site, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.backend.slots.model, "_wait_s", 0.1)
    texts = [site.clients.submit(site.get, f"/api/search?q=text+{number}") for number in range(20)]
    until(lambda: sum(each.done() for each in texts) == 16, "the excess to be refused")
    assert gate.runs == 4
    for each in texts:
        if each.done():
            check_refusal(each.result())
    assert site.get(CACHED).status_code == 200
    check_refusal(site.get("/?q=another+text"))
    gate.opened.set()
    assert statuses(texts) == {200: 4, 503: 16}
    assert site.get("/?q=another+text").status_code == 200


def test_many_texts_at_once_leave_room_for_single_ones(site: Site, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.slots.REQUEST_WAIT_S", GIVE_UP_S)
    monkeypatch.setattr(site.backend.slots.embeddings, "_wait_s", GIVE_UP_S)
    lists = site.start(4, site.post, "/api/embeddings", json={"texts": [f"text {number}" for number in range(64)]})
    until(lambda: site.metric("searchdb_slots_in_use", kind="embeddings") == 2, "two lists of texts to begin")
    assert site.get("/api/search?q=quick+text").status_code == 200
    gate.opened.set()
    assert statuses(lists) == {200: 4}


# --- Loading, decoding, adding, thumbnails ---------------------------------------------------------


def test_few_searches_wait_while_the_model_is_loaded(
    site: Site, embedder: CLIPEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.background_model.LOAD_WAIT_S", GIVE_UP_S)
    loading = Gate(embedder)
    site.backend._loaded, site.backend._models._model = False, None
    site.backend._make_embedder = lambda _name: cast(CLIPEmbedder, loading)
    searches = site.start(8, site.get, CACHED)
    until(lambda: sum(each.done() for each in searches) == 2, "the excess to be refused")
    for each in searches:
        if each.done():
            check_refusal(each.result(), "The model is still loading")
    assert [site.get(path).status_code for path in ("/", "/api/random", "/status")] == [200] * 3
    loading.opened.set()
    assert statuses(searches) == {200: 6, 503: 2}


def test_images_are_refused_while_others_are_decoded(
    site: Site, stored_images: StoredImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except that an original takes the place of its thumbnail, and a thumbnail that of its preview."""
    photo = stored_images.add("a photo", image=stored_images.draw("photo.jpg", size=(60, 40)))
    scan = stored_images.add("a scan", image=stored_images.draw("scan.tif", size=(60, 40)))
    slots = site.backend.slots
    upload = {"files": {"image": make_image(seed=3)}}
    with ExitStack() as busy:
        for kind in (slots.decodes, slots.thumbnails):
            monkeypatch.setattr(kind, "_wait_s", 0.05)
            for _ in range(3):
                busy.enter_context(kind)
        check_refusal(site.post("/api/search", **upload))
        check_refusal(site.post("/api/embeddings", files={"images": make_image()}))
        check_refusal(site.post("/search", **upload))
        check_refusal(site.get(f"/images/{scan}/thumbnail"))
        original = site.get(f"/images/{photo}/thumbnail")
        assert (original.status_code, original.headers["Location"]) == (302, f"/images/{photo}/file")
        check_refusal(site.get(f"/images/{scan}/preview"))
        digest = site.backend.get(scan).sha256
        assert digest is not None
        site.backend.thumbnails.put(digest, b"small")
        small = site.get(f"/images/{scan}/preview")
        assert (small.status_code, small.headers["Location"]) == (302, f"/images/{scan}/thumbnail")
        assert small.headers["Cache-Control"] == "no-store"
        site.backend.thumbnails.forget(digest)
        assert site.get(CACHED).status_code == 200
    assert site.post("/api/search", **upload).status_code == 200
    assert site.get(f"/images/{scan}/preview").status_code == 200
    assert [site.get(f"/images/{each}/thumbnail").status_code for each in (photo, scan)] == [200, 200]


def test_the_waits_of_a_request_have_a_limit_together(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.slots.REQUEST_WAIT_S", 0.05)
    monkeypatch.setattr("web.slots.LATE_WAIT_S", 0.05)
    slots = site.backend.slots
    monkeypatch.setattr(slots.decodes, "_wait_s", GIVE_UP_S * 10)
    with ExitStack() as busy:
        for _ in range(3):
            busy.enter_context(slots.decodes)
        check_refusal(site.post("/api/search", files={"image": make_image()}))
    monkeypatch.setattr("web.slots.REQUEST_WAIT_S", GIVE_UP_S)
    assert site.post("/api/search", files={"image": make_image()}).status_code == 200


def test_work_of_all_kinds_leaves_threads_free(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread counts once, and no more once it has been refused."""
    monkeypatch.setattr("web.slots.REQUEST_WAIT_S", GIVE_UP_S)
    slots = site.backend.slots
    monkeypatch.setattr(slots.decodes, "_waiting", 100)
    for kind in (slots.decodes, slots.model):
        monkeypatch.setattr(kind, "_wait_s", GIVE_UP_S)
    with ExitStack() as busy:
        for _ in range(3):
            busy.enter_context(slots.decodes)
        searches = site.start(WORK_THREADS, site.post, "/api/search", files={"image": make_image()})
        until(lambda: len(slots.decodes._queue) == WORK_THREADS, "all to wait")
        check_refusal(site.get("/api/search?q=another+text"), "The model is busy")
        assert site.get(CACHED).status_code == 200
    assert statuses(searches) == {200: WORK_THREADS}
    assert statuses(site.start(WORK_THREADS, site.get, "/api/search?q=another+text")) == {200: WORK_THREADS}
