"""Statements in flight while a collection changes over: each one's answer is the old model's or the new model's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database, open_database
from searchdb.index.build import build_index
from searchdb.records import ModelIdentity
from searchdb.switch.change_over import change_over
from searchdb.switch.finish import finish
from tests.helpers.two_models import begin, fill_column, images_of, random_units, store_texts
from web.backend import TIMEOUTS

ROWS = 300
TEXTS = ("a boat", "two dogs")
OLD = ModelIdentity(name="old", weights_sha256=b"1" * 32, dimension=512)
WIDER = ModelIdentity(name="wider", weights_sha256=b"2" * 32, dimension=768)
SAME_WIDTH = ModelIdentity(name="same", weights_sha256=b"3" * 32, dimension=512)
ROUNDS = 4
LOCK_TIMEOUT = f"-clock_timeout={int(1000 * (TIMEOUTS.lock or 0))}"
"""Nobody waits longer for a lock than the page's requests would."""

FUNCTIONS = """
    CREATE FUNCTION at_any_time(query text) RETURNS SETOF text LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        RETURN QUERY SELECT image FROM images ORDER BY embedding <=> text_embedding(query) LIMIT 20;
    END $$;
    CREATE FUNCTION in_the_snapshot(query text) RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
    DECLARE
        vector vector := text_embedding(query);
    BEGIN
        RETURN QUERY SELECT image FROM match_images(vector, -1, 20);
    END $$;
    CREATE FUNCTION raw_in_the_snapshot(query text) RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
    BEGIN
        RETURN QUERY SELECT image FROM images ORDER BY embedding <=> text_embedding(query) LIMIT 20;
    END $$;
"""
STATEMENTS = {
    "search_images": "SELECT image FROM search_images('a boat', -1, 20)",
    "match_images": "SELECT image FROM match_images(text_embedding('a boat'), -1, 20)",
    "raw": "SELECT image FROM images ORDER BY embedding <=> text_embedding('a boat') LIMIT 20",
    "raw with the vector": "SELECT image, embedding::vector FROM images "
    "ORDER BY embedding <=> text_embedding('a boat') LIMIT 20",
    "sum": "SELECT image FROM match_images("
    "l2_normalize(text_embedding('a boat') + text_embedding('two dogs')), -1, 20)",
    "lateral": "SELECT query || image FROM unnest(ARRAY['a boat', 'two dogs']) AS query, "
    "LATERAL match_images(text_embedding(query), -1, 10)",
    "raw lateral": "SELECT query || image FROM unnest(ARRAY['a boat', 'two dogs']) AS query, LATERAL "
    "(SELECT image FROM images ORDER BY embedding <=> text_embedding(query) LIMIT 10) AS nearest",
    "joined": "SELECT image FROM match_images(text_embedding('a boat'), -1, 20) AS hit JOIN images USING (id, image) "
    "WHERE abs(1 - similarity - (embedding <=> text_embedding('a boat'))) < 1e-5 ORDER BY similarity DESC, id",
    "volatile PL/pgSQL": "SELECT at_any_time('a boat')",
    "stable PL/pgSQL": "SELECT in_the_snapshot('a boat')",
    "raw stable PL/pgSQL": "SELECT raw_in_the_snapshot('a boat')",
}

Ask = Callable[[psycopg.Connection[Any], str], list[Any]]


def simple(connection: psycopg.Connection[Any], statement: str) -> list[Any]:
    return [row[0] for row in connection.execute(statement.encode(), prepare=False)]


def prepared(connection: psycopg.Connection[Any], statement: str) -> list[Any]:
    return [row[0] for row in connection.execute(statement.encode(), prepare=True)]


def executed(connection: psycopg.Connection[Any], statement: str) -> list[Any]:
    """Prepare once with SQL's PREPARE; EXECUTE takes its snapshot before the statement's locks."""
    names = connection.__dict__.setdefault("names", {})
    if statement not in names:
        names[statement] = f"p{len(names)}"
        connection.execute(f"PREPARE {names[statement]} AS {statement}".encode())
    return [row[0] for row in connection.execute(f"EXECUTE {names[statement]}".encode())]


def repeatable(connection: psycopg.Connection[Any], statement: str) -> list[Any]:
    """Take the transaction's snapshot a while before the statement, and ask twice."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM embedding_models")
        time.sleep(0.02)
        first, second = simple(connection, statement), simple(connection, statement)
        assert first == second
        return first


WAYS: dict[str, Ask] = {"simple": simple, "prepared": prepared, "EXECUTE": executed, "REPEATABLE READ": repeatable}


class Clients:
    """Sessions that ask all statements again and again, each in one way, and note the answers."""

    def __init__(self, settings: Settings) -> None:
        url = settings.url()
        assert url is not None
        self._url = libpq_url(url)
        self.answers: dict[str, set[tuple[Any, ...]]] = {name: set() for name in STATEMENTS}
        self.errors: list[str] = []
        self.asked = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(way, ask, first))
            for way, ask in WAYS.items()
            for first in (0, len(STATEMENTS) // 2)
        ]

    def _run(self, way: str, ask: Ask, first: int) -> None:
        statements = list(STATEMENTS.items())
        statements = statements[first:] + statements[:first]
        with psycopg.connect(self._url, autocommit=True, options=LOCK_TIMEOUT) as connection:
            while not self._stop.is_set():
                for name, statement in statements:
                    try:
                        self.answers[name].add(tuple(ask(connection, statement)))
                    except psycopg.Error as exc:
                        self.errors.append(f"{name}, {way}: {exc}")
                    self.asked += 1

    @contextmanager
    def running(self) -> Generator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def wait(self, count: int) -> None:
        """Wait until as many statements more have been answered."""
        until = self.asked + count
        while self.asked < until:
            time.sleep(0.01)


def answers(database: Database) -> dict[str, tuple[Any, ...]]:
    with database.begin() as connection:
        return {name: tuple(connection.scalars(text(each))) for name, each in STATEMENTS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("model", [WIDER, SAME_WIDTH], ids=lambda model: model.name)
def test_every_answer_is_of_one_model(settings: Settings, model: ModelIdentity) -> None:
    with open_database(settings) as database:
        ids = images_of(database, OLD, random_units(ROWS, OLD.dimension, seed=1))
        store_texts(database, 1, dict(zip(TEXTS, random_units(2, OLD.dimension, seed=2), strict=True)))
        with database.begin() as connection:
            connection.execute(text(FUNCTIONS))
        switch = begin(database, model)
        fill_column(database, switch.column, dict(zip(ids, random_units(ROWS, model.dimension, seed=3), strict=True)))
        store_texts(database, 2, dict(zip(TEXTS, random_units(2, model.dimension, seed=4), strict=True)))
        build_index(database.engine, column=switch.column)
        known = [answers(database)]
        clients = Clients(settings)
        with clients.running():
            for turn in range(ROUNDS):
                clients.wait(len(STATEMENTS) * len(WAYS))
                change_over(database, switch)
                clients.wait(len(STATEMENTS))
                finish(database)
                if turn == 0:
                    known.append(answers(database))
                switch = begin(database, OLD if turn % 2 == 0 else model)
        assert clients.errors == []
        for name, found in clients.answers.items():
            assert found == {each[name] for each in known}, name
