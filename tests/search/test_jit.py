"""A filtered search on a PostgreSQL with just-in-time compilation, which the embedded server lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database
from searchdb.db.schema import migrate
from searchdb.db.tables import images
from searchdb.index.build import build_index
from searchdb.search import ranking
from searchdb.search.statements import Shape, hits_page
from tests.helpers.vectors import fill, real_like, real_like_texts

URL = os.environ.get("SEARCHDB_TEST_DATABASE_URL", "")  # read at once: the tests run without the developer's settings
ROWS = 8000
WIDE, NARROW = images.c.width == 1, images.c.width == 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not URL,
        reason="needs a PostgreSQL with JIT and pgvector, and a role that may create databases, in "
        "SEARCHDB_TEST_DATABASE_URL",
    ),
]


@pytest.fixture(scope="module")
def compiling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A collection of ROWS images, half of them WIDE and a thousandth NARROW, on that server."""
    home: Path = tmp_path_factory.mktemp("home")
    given = Settings(database_url=URL, home=home, model="demo").url()
    assert given is not None
    name = f"searchdb_test_{os.getpid()}"
    admin = sa.create_engine(given, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        if not connection.scalar(sa.text("SELECT pg_jit_available()")):
            pytest.skip("the PostgreSQL in SEARCHDB_TEST_DATABASE_URL has no JIT")
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        url = libpq_url(given.set(database=name))
        with Database(Settings(database_url=url, home=home, model="demo")) as database:
            migrate(database)
            fill(database, real_like(ROWS))
            with database.begin() as connection:
                shape = "CASE WHEN id %% 1000 = 0 THEN 2 WHEN id %% 2 = 0 THEN 1 ELSE 3 END"
                connection.exec_driver_sql(f"UPDATE images SET width = {shape}")
            yield database
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.dispose()


def plan(connection: Connection, condition: sa.ColumnElement[bool], vector: np.ndarray) -> str:
    """Return the plan, with the times taken, of a filtered search for one vector."""
    compiled = hits_page(Shape(), condition).compile(dialect=connection.dialect)
    values: dict[str, Any] = {"vector": vector, "threshold": -1.0, "offset": 0, "end": 10}
    rows = connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {compiled}", compiled.construct_params(values)).scalars()
    return "\n".join(rows)


@pytest.mark.parametrize(("method", "value_type"), [("ivfflat", "vector"), ("hnsw", "vector"), ("hnsw", "halfvec")])
@pytest.mark.parametrize("condition", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_filtered_search_is_not_compiled(
    compiling: Database, method: str, value_type: str, condition: sa.ColumnElement[bool]
) -> None:
    assert build_index(compiling.engine, method=method, value_type=value_type) is not None
    [vector] = real_like_texts(1)
    with compiling.begin() as connection:
        connection.exec_driver_sql("SET LOCAL jit = on")
        ranking.prepare(connection)
        assert "JIT" not in plan(connection, condition, vector)
        version = connection.scalar(sa.text("SELECT current_setting('server_version_num')::integer"))
        if version < 180_000:  # from then on, enable_sort = off adds nothing to a plan's cost
            connection.exec_driver_sql("SET LOCAL jit = on")
            assert "JIT" in plan(connection, condition, vector)


def test_match_images_is_not_compiled_even_without_an_index(compiling: Database) -> None:
    with compiling.begin() as connection:
        connection.exec_driver_sql("LOAD 'auto_explain'")
        for name, value in {"log_min_duration": "0", "log_nested_statements": "on", "log_analyze": "on"}.items():
            connection.exec_driver_sql(f"SET LOCAL auto_explain.{name} = {value}")
        connection.exec_driver_sql("SET LOCAL client_min_messages = log")
        connection.exec_driver_sql("SET LOCAL jit = on")
        connection.exec_driver_sql("DROP INDEX images_embedding_idx")
        plans: list[str] = []
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.add_notice_handler(lambda notice: plans.append(notice.message_primary))
        connection.execute(sa.text("SELECT * FROM match_images(:vector)"), {"vector": real_like_texts(1)[0]})
        assert any("Seq Scan on images" in each for each in plans)
        assert not any("JIT" in each for each in plans)
        connection.rollback()
