"""Limits of requests and of work, per client: what counts, for whom, and what the answer says."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from tests.helpers.image_server import make_image
from web.ops.rate_limit import RateLimit

if TYPE_CHECKING:
    from tests.helpers.apps import MakeApp
    from tests.helpers.stored_images import StoredImages


def test_a_client_beyond_the_limit_gets_a_retry_after(make_app: MakeApp) -> None:
    client = make_app(rate_limit="3 per minute").test_client()
    assert [client.get("/").status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = client.get("/")
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert "3 per minute" in refused.text
    assert "Retry-After" not in client.get("/healthz").headers
    assert client.get("/", environ_base={"REMOTE_ADDR": "192.0.2.7"}).status_code == 200


def test_monitoring_and_static_files_are_not_limited(make_app: MakeApp) -> None:
    client = make_app(rate_limit="1 per hour").test_client()
    assert client.get("/").status_code == 200
    for path in ("/healthz", "/readyz", "/metrics", "/static/page.css"):
        for _ in range(3):
            with client.get(path) as response:
                assert response.status_code == 200, path
    assert client.get("/").status_code == 429


@pytest.mark.parametrize("path", ["/search", "/api/search", "/api/embeddings"])
def test_requests_that_use_the_model_have_a_limit_of_their_own(make_app: MakeApp, path: str) -> None:
    app = make_app(work_limit="2 per minute", rate_limit="100 per minute")
    if not any(rule.rule == path and "POST" in (rule.methods or ()) for rule in app.url_map.iter_rules()):
        app.add_url_rule(path, path, lambda: "", methods=["POST"])
    client = app.test_client()
    statuses = [client.post(path).status_code for _ in range(3)]
    assert 429 not in statuses[:2]
    assert statuses[2] == 429
    assert client.get("/").status_code == 200


def test_two_equal_limits_are_two(make_app: MakeApp) -> None:
    app = make_app(work_limit="2 per minute", rate_limit="2 per minute")
    client = app.test_client()
    assert [client.get("/").status_code for _ in range(2)] == [200, 200]
    assert client.get("/").status_code == 429


def test_limits_can_be_switched_off(make_app: MakeApp) -> None:
    client = make_app(rate_limit="", work_limit="").test_client()
    assert {client.get("/healthz").status_code for _ in range(50)} == {200}
    assert {client.get("/").status_code for _ in range(5)} == {200}


def test_a_client_cannot_make_up_its_address(make_app: MakeApp) -> None:
    client = make_app(rate_limit="1 per hour").test_client()
    statuses = [client.get("/", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code for n in range(2)]
    assert statuses == [200, 429]


def test_behind_a_proxy_each_client_counts_for_itself(make_app: MakeApp) -> None:
    client = make_app(rate_limit="1 per hour", proxies=1).test_client()

    def ask(forwarded_for: str) -> int:
        return client.get("/", headers={"X-Forwarded-For": forwarded_for}).status_code

    assert [ask("192.0.2.1"), ask("192.0.2.2")] == [200, 200]
    # What stands further left the client has written itself.
    assert ask("203.0.113.9, 192.0.2.1") == 429


def test_addresses_with_ports_and_of_one_network_count_as_one_client(make_app: MakeApp) -> None:
    client = make_app(rate_limit="1 per hour", proxies=1).test_client()

    def ask(forwarded_for: str) -> int:
        return client.get("/", headers={"X-Forwarded-For": forwarded_for}).status_code

    assert [ask(f"192.0.2.1:{port}") for port in (1000, 1001)] == [200, 429]
    assert [ask(f"2001:db8::{n}") for n in range(3)] == [200, 429, 429]
    assert ask("2001:db8:0:1::") == 200
    # What is no address is the peer.
    assert [ask("unknown"), ask("garbage"), ask("")] == [200, 429, 429]


def texts(count: int, kind: str = "text") -> dict[str, list[str]]:
    return {"texts": [f"a {kind} of number {n}" for n in range(count)]}


def test_each_new_text_counts_and_known_ones_do_not(make_app: MakeApp, stored_images: StoredImages) -> None:
    stored_images.add("a red boat")
    client = make_app(work_limit="70 per minute").test_client()
    assert client.post("/api/embeddings", json=texts(64)).status_code == 200
    refused = client.post("/api/embeddings", json=texts(64, "second text"))
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert "70 per minute" in refused.get_json()["detail"]
    # One for the request that was refused, so five are left, for searches, too.
    for number in range(5):
        assert client.get(f"/?q=new+{number}").status_code == 200
    assert client.get("/api/search?q=new+5").status_code == 429
    assert client.get("/?q=new+5").status_code == 429
    assert client.get("/api/search?q=new+4").status_code == 200
    assert client.get("/", environ_base={"REMOTE_ADDR": "192.0.2.7"}).status_code == 200


def test_each_image_counts_even_if_it_cannot_be_read(make_app: MakeApp, stored_images: StoredImages) -> None:
    stored_images.add("a red boat")
    client = make_app(work_limit="8 per minute").test_client()
    image = base64.b64encode(make_image()).decode()

    def embed(*images: str) -> int:
        return client.post("/api/embeddings", json={"images": images}).status_code

    assert embed(image, image, image) == 200
    assert embed("AAAA") == 415
    assert client.post("/search", data={"image": (BytesIO(make_image()), "a.png")}).status_code == 303
    assert client.post("/search", data={"image": (BytesIO(b"x"), "a.png")}).status_code == 415
    assert embed(image, image, image) == 429  # it was one of the two that were left
    assert embed(image) == 200
    assert embed(image) == 429


def test_a_request_that_exceeds_the_limit_alone_is_told_so(make_app: MakeApp, stored_images: StoredImages) -> None:
    stored_images.add("a red boat")
    refused = make_app(work_limit="10 per hour").test_client().post("/api/embeddings", json=texts(20))
    assert refused.status_code == 429
    assert "Send fewer of them in one request" in refused.get_json()["detail"]


def test_what_the_token_holder_adds_is_not_counted(make_app: MakeApp) -> None:
    client = make_app(work_limit="1 per hour", api_token=SecretStr("hunter2")).test_client()
    for seed in range(3):
        data = {"image": (BytesIO(make_image(seed=seed)), "a.png")}
        added = client.post("/api/images", data=data, headers={"Authorization": "Bearer hunter2"})
        assert added.status_code == 201
    # The texts that relevance is measured by are not the visitor's, either.
    assert client.get("/?q=a+boat+at+sea").status_code == 200


def test_the_memory_of_counters_is_bounded() -> None:
    now = 0.0
    limit = RateLimit("2 per minute", most_keys=100, clock=lambda: now)
    for number in range(1000):
        now += 0.001
        assert limit.count(f"client {number}") is None
        assert len(limit) <= 100
    assert limit.count("client 999", 2) == pytest.approx(60)
    assert limit.count("client 999") is None
    assert limit.count("client 999") == pytest.approx(60)
    now += 60.1
    assert limit.count("another") is None
    assert len(limit) == 1
