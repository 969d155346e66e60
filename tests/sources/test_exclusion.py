"""What a walk leaves out, on real folders, and compared with what git makes of the same patterns."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from searchdb.cli import cli
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.errors import SourceError
from searchdb.records import RejectedItem, SourceItem
from searchdb.sources.exclusion import IGNORE_FILE, Exclusion
from searchdb.sources.files import files, folders
from tests.helpers.cli import run


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    return folder


def walk(folder: Path, *paths: str | Path, exclude: list[str] | None = None) -> list[str]:
    """The files below a folder that are taken, relative to it."""
    found = list(files(paths or [folder], exclusion=Exclusion(patterns=exclude or [])))
    assert all(isinstance(each, SourceItem) for each in found), found
    return [os.path.relpath(each.image, folder) for each in found]


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "#recycle/a.jpg",
        "#snapshot/a.jpg",
        "@Recycle/a.jpg",
        "@Recently-Snapshot/a.jpg",
        "$RECYCLE.BIN/S-1-5/a.jpg",
        "$Recycle.Bin/S-1-5/a.jpg",
        "System Volume Information/a.jpg",
        "lost+found/a.jpg",
        "__MACOSX/a.jpg",
        ".Trash-1000/files/a.jpg",
        ".thumbnails/a.jpg",
        "Lightroom/Catalog Previews.lrdata/a.jpg",
        "CaptureOne/Cache/a.jpg",
        "Photos Library.photoslibrary/resources/derivatives/a.jpg",
        "iPhoto.photolibrary/Thumbnails/a.jpg",
        "Thumbs.db",
        "thumbs.db",
        "ehthumbs.db",
        "Desktop.ini",
        ".DS_Store",
        "Icon\r",
        "SYNOPHOTO_THUMB_M.jpg",
        "SYNOFILE_THUMB_M.jpg",
    ],
)
def test_clutter_is_left_out_at_any_depth(tmp_path: Path, name: str) -> None:
    make(tmp_path, "a.jpg", "trip/b.jpg", name, f"trip/{name}")
    assert walk(tmp_path) == ["a.jpg", "trip/b.jpg"]
    assert walk(tmp_path, f"{tmp_path}/**") == ["a.jpg", "trip/b.jpg"]
    assert walk(tmp_path, f"{tmp_path}/**/*.jpg") == ["a.jpg", "trip/b.jpg"]


def test_photographs_with_similar_names_are_taken(tmp_path: Path) -> None:
    names = [
        "Cache/a.jpg",
        "Library.photoslibrary/originals/1/a.jpg",
        "eaDir/a.jpg",
        "my Thumbs.db.jpg",
        "resources/a.jpg",
        "thumbnails/a.jpg",
    ]
    assert walk(make(tmp_path, *names)) == sorted(names)


def test_what_is_named_is_taken(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "Thumbs.db", "@eaDir/b.jpg", "@eaDir/#recycle/c.jpg", "raw/d.jpg", "raw/@eaDir/e.jpg")
    assert walk(tmp_path, tmp_path / "Thumbs.db") == ["Thumbs.db"]
    assert walk(tmp_path, tmp_path, tmp_path / "Thumbs.db", tmp_path / "a.jpg", exclude=["raw"]) == [
        "a.jpg",
        "Thumbs.db",
    ]
    assert walk(tmp_path, tmp_path / "@eaDir") == ["@eaDir/b.jpg"]
    assert walk(tmp_path, tmp_path, tmp_path / "raw", exclude=["raw/"]) == ["a.jpg", "raw/d.jpg"]
    assert folders([tmp_path, tmp_path / "raw"], exclusion=Exclusion(patterns=["raw"])) == [
        str(tmp_path),
        str(tmp_path / "raw"),
    ]
    assert folders([tmp_path, tmp_path / "raw"]) == [str(tmp_path)]


def test_an_excluded_folder_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jpg", "@eaDir/b.jpg", "private/c.jpg")
    opened: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (opened.append(path), listdir(path))[1])
    assert walk(tmp_path, exclude=["private"]) == ["a.jpg"]
    assert opened == [str(tmp_path)]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "Thumbs.db", "@eaDir/1.jpg", "@eaDir/2.jpg", "trip/a.xmp", "trip/b.jpg")
    exclusion = Exclusion(patterns=["*.xmp"])
    assert len(list(files([tmp_path], exclusion=exclusion))) == 2
    assert exclusion.count == 3
    assert len(list(files([tmp_path], exclusion=Exclusion(patterns="*.xmp")))) == 2


def test_a_file_of_patterns_holds_for_its_folder(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a.png", "old/a.jpg", "trip/a.jpg", "trip/a.png", "trip/old/a.jpg", "trip/@eaDir/a.jpg")
    (tmp_path / IGNORE_FILE).write_text("\ufeff# comment\r\n\r\n*.png\r\n/old/\r\n", encoding="utf-8")
    assert walk(tmp_path) == ["a.jpg", "trip/a.jpg", "trip/old/a.jpg"]
    (tmp_path / "trip" / IGNORE_FILE).write_text("!*.png\n!@eaDir\na.jpg\n")
    assert walk(tmp_path) == ["a.jpg", "trip/a.png"]
    assert walk(tmp_path, f"{tmp_path}/*/*") == ["trip/a.png"]
    assert walk(tmp_path, f"{tmp_path}/**/*.png") == ["trip/a.png"]
    assert walk(tmp_path, exclude=["!a.jpg", "a.png"]) == ["a.jpg", "trip/@eaDir/a.jpg", "trip/a.jpg", "trip/old/a.jpg"]


def test_a_pattern_may_be_in_another_form_than_the_name(tmp_path: Path) -> None:
    make(tmp_path, "Cafe\u0301/a.jpg", "b.jpg")
    assert walk(tmp_path, exclude=["Caf\u00e9/"]) == ["b.jpg"]


@pytest.mark.parametrize("pattern", ["!", "", "  ", "# a", "/", "[z-a]", "a\\", "[[:alpha:]]"])
def test_a_malformed_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(SourceError, match=r"the pattern .* (is malformed|matches nothing); --exclude takes"):
        Exclusion(patterns=["fine", pattern])
    result = CliRunner().invoke(cli, ["ingest", "files", ".", "--exclude", pattern])
    assert (result.exit_code, "the pattern" in result.stderr) == (2, True)


def test_a_folder_whose_patterns_are_malformed_is_not_read(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "closed/a.jpg", "fifo/a.jpg")
    (tmp_path / "closed" / IGNORE_FILE).write_text("*.png\n!\n")
    os.mkfifo(tmp_path / "fifo" / IGNORE_FILE)
    found = list(files([tmp_path]))
    rejected = [each for each in found if isinstance(each, RejectedItem)]
    assert len(found) == 3
    assert [each.image for each in rejected] == [str(tmp_path / name / IGNORE_FILE) for name in ("closed", "fifo")]
    assert "line 2: the pattern '!' is malformed; until then its folder is skipped" in str(rejected[0].error)
    assert len(list(files([f"{tmp_path}/closed/*"]))) == 1


LINES = [
    "*", "!*/", "!*.jpg", "*.jpg", "!a.jpg", "a", "!a", "a/", "!a/", "/a", "!/a", "a/b", "/a/b/", "!a/b", "a/*", "!a/*",
    "a/**", "**/b", "!**/b", "a/**/b", "[ab].jpg", "?.jpg", "!?.jpg", "b.*", "\\!x.jpg", "\\#y.jpg", "x y.jpg", "*b*",
]  # fmt: skip
"""Patterns of all kinds; `test_the_patterns_are_those_of_git` combines them by chance."""


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_patterns_are_those_of_git(tmp_path: Path) -> None:
    names = ["a", "b"]
    folder = make(tmp_path.resolve() / "photos", "!x.jpg", "#y.jpg", "x y.jpg")
    for depth in range(4):
        for parts in itertools.product(names, repeat=depth):
            make(folder, "/".join([*parts, "a.jpg"]), "/".join([*parts, "b.txt"]))
    subprocess.run(["git", "init", "-q", folder], check=True)
    everything = sorted(os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_file())
    everything = [name for name in everything if not name.startswith(".git")]
    chance = random.Random(13)
    compared = 0
    for _ in range(60):
        places = [folder, folder / "a", folder / "a" / "b"]
        for place in places:
            lines = chance.sample(LINES, chance.randrange(1, 5)) if chance.random() < 0.7 else []
            (place / IGNORE_FILE).write_text("\n".join(lines))
        listed = subprocess.run(
            ["git", "-C", folder, "ls-files", "--others", "-z", f"--exclude-per-directory={IGNORE_FILE}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        expected = sorted(name for name in listed.split("\0") if name and not name.endswith(IGNORE_FILE))
        patterns = {place.name: (place / IGNORE_FILE).read_text().splitlines() for place in places}
        assert sorted(walk(folder)) == expected, patterns
        compared += 0 < len(expected) < len(everything)
    assert compared > 20


def test_the_command_excludes_and_prune_keeps_what_still_exists(
    settings: Settings, album: Path, tmp_path: Path
) -> None:
    for n, name in enumerate(["a.jpg", "raw/b.jpg", "@eaDir/c.jpg"]):
        make(tmp_path, f"photos/{name}")
        shutil.copy(sorted(album.glob("*.jpg"))[n], tmp_path / "photos" / name)
    folder = tmp_path / "photos"
    first = json.loads(run(settings, "ingest", "files", folder, "--json").stdout)
    assert (first["stored"], first["excluded"]) == (2, 1)
    again = run(settings, "ingest", "files", folder, "--exclude", "raw/", "--exclude", "*.tif", "--prune", "--json")
    report = json.loads(again.stdout)
    assert (report["done"], report["excluded"], report["gone"], report["removed"]) == (1, 2, 0, 0)
    with SearchDB(settings) as collection:
        assert collection.ingest_files(folder, exclude=["*"]).excluded == 3
        assert collection.store.counts()["images"] == 2


def test_many_stars_in_a_pattern_take_no_longer_than_one(tmp_path: Path) -> None:
    """With backtracking, each name would take longer than the universe is old."""
    make(tmp_path, "a" * 200 + ".jpg", "a" * 200 + "b")
    pattern = "*a" * 40 + "****" * 10 + "b"
    assert walk(tmp_path, exclude=[pattern]) == ["a" * 200 + ".jpg"]
    (tmp_path / IGNORE_FILE).write_text(pattern)
    assert walk(tmp_path) == ["a" * 200 + ".jpg"]
