"""Makes a disk full: in a database, for the writes to some tables; and for real, with a small file system in memory."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from searchdb.db.database import Database

MESSAGE = 'could not extend file "base/5/16384": No space left on device'


def refuse_writes(database: Database, *tables: str, sqlstate: str = "53100") -> None:
    """Make every write to these tables fail as PostgreSQL's do on a full disk."""
    with database.begin() as connection:
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = '{sqlstate}'; END $$"
        )
        for table in tables:
            connection.exec_driver_sql(
                f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
            )


def allow_writes(database: Database, *tables: str) -> None:
    """Undo `refuse_writes`."""
    with database.begin() as connection:
        for table in tables:
            connection.exec_driver_sql(f"DROP TRIGGER refuse ON {table}")


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system in memory of this size on a folder; skip the test where that is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"a file system cannot be mounted here: {getattr(exc, 'stderr', '') or exc}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def fill(folder: Path) -> Path:
    """Fill the folder's disk to the last byte; return the file that does."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while os.write(descriptor, bytes(size)):
                    pass
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
    finally:
        os.close(descriptor)
    return filler
