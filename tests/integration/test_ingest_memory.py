"""The memory of an ingest while its images take much of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from searchdb.config import Settings
from searchdb.media.memory import FILES_BYTES
from tests.helpers.large_images import LARGE_IMAGES

ROOT = Path(__file__).parents[2]
DECODE_MEMORY = 200_000_000
"""Smaller than the default, so that smaller images show the bound: one of these at a time, instead of one a core."""
SLACK = 100_000_000
"""Bytes that threads, connections and the allocator take."""


def peak_memory(settings: Settings, folder: Path) -> int:
    """Ingest a folder in a process of its own, and return the most bytes that it took."""
    assert settings.database_url is not None
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "SEARCHDB_HOME": str(settings.home),
        "SEARCHDB_MODEL": "demo",
        "SEARCHDB_DECODE_MEMORY": str(DECODE_MEMORY),
    }
    command = [sys.executable, "-m", "searchdb", "ingest", "files", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has other units")
def test_an_ingest_of_hostile_files_stays_within_the_bound(settings: Settings, tmp_path: Path) -> None:
    ordinary, hostile = tmp_path / "ordinary", tmp_path / "hostile"
    for folder in (ordinary, hostile):
        folder.mkdir()
    (ordinary / "a.png").write_bytes(LARGE_IMAGES["png rgb"](300, 300))
    float_tiff = LARGE_IMAGES["tiff F"](5000, 4000)
    for number in range(4):
        # Other bytes at the end, so that none is taken for a copy; and 50 MB of them, as files are held, too.
        (hostile / f"{number}.tif").write_bytes(float_tiff + bytes([number]) * 50_000_000)
    usual = peak_memory(settings, ordinary)
    assert peak_memory(settings, hostile) - usual < DECODE_MEMORY + FILES_BYTES + SLACK
