"""The commands of "Moving a collection" in docs/operations.md, as they are written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.embedded import EmbeddedServer

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"```sh\n(.*?)```", OPERATIONS.partition("## Moving a collection\n")[2].partition("\n## ")[0], re.DOTALL
)


@pytest.mark.parametrize("how", ["mv", "cp -a"])
def test_a_moved_collection_finds_its_images(short_home: Path, album: Path, how: str) -> None:
    assert len(COMMANDS) == 2
    old, new = short_home / "old home", short_home / "new"
    (old / "uploads").mkdir(parents=True)
    for path in sorted(album.glob("*.jpg"))[:3]:
        shutil.copy(path, old / "uploads")
    with SearchDB(Settings(home=old, model="demo")) as collection:
        collection.ingest_files(old / "uploads")
    script = f"set -e\nsearchdb() {{ '{sys.executable}' -m searchdb \"$@\"; }}\n" + "".join(COMMANDS)
    environment = {
        "SEARCHDB_HOME": str(old),
        "OLD_HOME": str(old),
        "NEW_HOME": str(new),
        "SEARCHDB_MODEL": "demo",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    result = subprocess.run(
        ["bash", "-c", script.replace('mv "', f'{how} "')],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "images    3" in result.stdout
    with SearchDB(Settings(home=new, model="demo")) as collection:
        for hit in collection.search("a boat", threshold=-1):
            assert Path(hit.image).is_file()
            assert Path(hit.image).is_relative_to(new)
    if how != "mv":
        with SearchDB(Settings(home=old, model="demo")) as collection:
            assert {Path(hit.image).parents[1] for hit in collection.search("a boat", threshold=-1)} == {old}
    for home in (old, new):
        EmbeddedServer.at(home).stop()
