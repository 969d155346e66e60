"""The commands of "Moving a collection" in docs/operations.md, as they are written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.embedded import EmbeddedServer
from searchdb.media.embed import CLIPEmbedder

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"```sh\n(.*?)```", OPERATIONS.partition("## Moving a collection\n")[2].partition("\n## ")[0], re.DOTALL
)


def test_a_copied_and_a_moved_collection_find_their_images(
    short_home: Path, album: Path, embedder: CLIPEmbedder
) -> None:
    assert len(COMMANDS) == 2
    old = short_home / "old home"
    (old / "uploads").mkdir(parents=True)
    for path in sorted(album.glob("*.jpg"))[:3]:
        shutil.copy(path, old / "uploads")
    with SearchDB(Settings(home=old, model="demo")) as collection:
        collection.embedder = embedder
        collection.ingest_files(old / "uploads")

    def folders(home: Path) -> set[Path]:
        """The folders of the images that a collection finds."""
        with SearchDB(Settings(home=home, model="demo")) as collection:
            collection.embedder = embedder
            found = [Path(hit.image) for hit in collection.search("a boat", threshold=-1)]
        assert len(found) == 3
        assert all(path.is_file() for path in found)
        return {path.parent for path in found}

    for how in ("cp -a", "mv"):
        new = short_home / how.partition(" ")[0]
        move(old, new, how)
        assert folders(new) == {new / "uploads"}
        if how != "mv":
            assert folders(old) == {old / "uploads"}
        for home in (old, new):
            EmbeddedServer.at(home).stop()


def move(old: Path, new: Path, how: str) -> None:
    """Run the documented commands, with another one in place of `mv`."""
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
