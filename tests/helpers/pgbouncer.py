"""Runs Debian's PgBouncer in front of the tests' server."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.embedded import EmbeddedServer
from tests.helpers.waiting import until

PORT = 6432
POOL_SIZE = 3
"""Server connections: far fewer than clients, so that each client's transactions land on any of them."""
REASON = "PgBouncer is not installed: apt-get install pgbouncer"


def program() -> str:
    """Return PgBouncer's path; skip the test where it is not installed, except in CI, which has it."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(REASON)
        pytest.skip(REASON)
    return found


@contextmanager
def pgbouncer(server: EmbeddedServer, configuration: str = "", *, mode: str = "transaction") -> Iterator[Path]:
    """Run PgBouncer for the databases of a server; give the folder of its socket.

    Args:
        server: the server.
        configuration: further lines of its section [pgbouncer].
        mode: its pool_mode.
    """
    path = program()
    folder = Path(tempfile.mkdtemp(prefix="sdb-"))
    owner = (
        server.data.stat()
    )  # who may connect to the server's socket, and is not root, as whom PgBouncer does not run
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host={server.data} port=5432
[pgbouncer]
unix_socket_dir = {folder}
listen_port = {PORT}
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = {mode}
default_pool_size = {POOL_SIZE}
max_client_conn = 300
logfile = {folder}/pgbouncer.log
{configuration}
"""
    )
    for each in (folder, *folder.iterdir()):
        os.chown(each, owner.st_uid, owner.st_gid)
    process = subprocess.Popen(
        [path, "--quiet", str(folder / "pgbouncer.ini")],
        user=owner.st_uid if os.geteuid() == 0 else None,
        group=owner.st_gid if os.geteuid() == 0 else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (folder / f".s.PGSQL.{PORT}").exists() or process.poll() is not None, "PgBouncer")
        assert process.poll() is None, (folder / "pgbouncer.log").read_text()
        yield folder
    finally:
        process.kill()  # at once: SIGINT waits for the clients
        process.wait()
        shutil.rmtree(folder)


def through(folder: Path, settings: Settings, **changes: object) -> Settings:
    """Return the settings of the same database by way of PgBouncer."""
    url = settings.url()
    assert url is not None
    pooled = libpq_url(url.set(query={"host": str(folder), "port": str(PORT)}))
    return settings.model_copy(update={"database_url": Settings(database_url=pooled).database_url, **changes})
