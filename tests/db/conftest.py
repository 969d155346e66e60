"""Fixtures of the database tests: homes of embedded servers that have been used before."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from searchdb.db.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def _used_home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sdb-"))
    server = EmbeddedServer.at(folder / "home")
    server.join()
    with psycopg.connect(host=str(server.data), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE TABLE note AS SELECT 'original' AS text")
    server.leave()
    yield server.home
    shutil.rmtree(folder)


@pytest.fixture
def used_home(_used_home: Path, short_home: Path) -> Iterator[Path]:
    """A home whose server has run and was stopped; it has a table `note`, whose one row is 'original'.

    It is a copy, which takes a tenth of the time of making one.
    """
    home = short_home / "home"
    subprocess.run(["cp", "-a", _used_home, home], check=True)
    short_home.chmod(0o711)  # under root, the first start did this for the user that runs the server
    yield home
    EmbeddedServer.at(home).stop()
