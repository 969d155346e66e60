"""No request that is made often reads the whole collection, and estimates are said to be estimates."""

from __future__ import annotations

import json
import re

import pytest
from flask import Flask

from searchdb.config import Settings
from searchdb.db.database import Database
from tests.helpers.cli import output, run
from tests.helpers.statements import executed_on, reading_all_of
from tests.helpers.vectors import clustered, fill
from web.backend import EXTENSION

ROWS = 2000
BOUND = 1000


@pytest.fixture
def large(database: Database, app: Flask, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The application over a collection that counts as large."""
    monkeypatch.setattr("searchdb.db.counts.EXACT_UP_TO", BOUND)
    monkeypatch.setattr("searchdb.search.facets.FACET_ROWS", BOUND)
    monkeypatch.setattr("searchdb.search.facets.SAMPLED_ROWS", BOUND)
    fill(database, clustered(ROWS))
    with database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE images SET city = CASE WHEN id %% 2 = 0 THEN 'Oslo' ELSE 'Lima' END, sha256 = sha256('x')"
        )
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    with database.begin() as connection:
        connection.exec_driver_sql("ANALYZE images")
    return app


@pytest.mark.parametrize("path", ["/", "/metrics", "/status", "/readyz", "/random", "/api/random?count=5"])
def test_no_request_reads_the_whole_collection(large: Flask, database: Database, path: str) -> None:
    engine = large.extensions[EXTENSION].database().engine
    with executed_on(engine) as statements:
        assert large.test_client().get(path).status_code in (200, 303, 503)
    assert statements
    with database.begin() as connection:
        assert reading_all_of("images", connection, statements) == []


def test_the_page_says_that_a_number_is_an_estimate(large: Flask) -> None:
    client = large.test_client()
    home = client.get("/").text
    assert "<span>about 2,000 images</span>" in home
    assert re.search(r'<bdi[^>]*>Oslo</bdi> <span class="count">about ', home)
    status = client.get("/status").text
    assert "<dt>images</dt><dd>about 2,000</dd>" in status
    assert "about 2,000 rows now" in status
    assert "Searchable images; above 10000 an estimate." in client.get("/metrics").text


def test_the_command_line_and_json_say_so_too(large: Flask, settings: Settings) -> None:
    assert "images    about 2,000\n" in output(run(settings, "status"))
    state = json.loads(output(run(settings, "status", "--json")))
    assert (state["images"], state["estimated"]) == (ROWS, ["images"])
    assert (state["index"]["rows"], state["index"]["rows_exact"]) == (ROWS, False)
    assert (state["pending"], state["queue"]["exact"]) == (0, True)
