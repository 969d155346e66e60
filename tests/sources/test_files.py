"""The files source, on real folders."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from searchdb.errors import FileUnreadableError, InvalidReferenceError, SourceError
from searchdb.records import MAX_REFERENCE_BYTES, RejectedItem, SourceItem
from searchdb.sources.exclusion import Exclusion
from searchdb.sources.files import files, files_in, folders, folders_in
from tests.helpers.hostile_files import make_hostile_folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of four images on two levels, with hidden files among them."""
    album = tmp_path / "album"
    for name in ("b.jpg", "a.png", "trips/2024/sea.jpg", "trips/map", ".hidden.jpg", ".cache/thumbnail.jpg"):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        (album / name).write_bytes(name.encode())
    return album


def items(*paths: str | Path) -> list[SourceItem]:
    found = list(files(paths))
    assert all(isinstance(each, SourceItem) for each in found), found
    return [each for each in found if isinstance(each, SourceItem)]


def rejected(*paths: str | Path) -> list[RejectedItem]:
    return [each for each in files(paths) if isinstance(each, RejectedItem)]


def names(*paths: str | Path) -> list[str]:
    return [Path(each.image).name for each in items(*paths)]


def test_a_folder_yields_its_visible_files_in_order(album: Path) -> None:
    found = items(album)
    assert [each.image for each in found] == [
        str(album / name) for name in ("a.png", "b.jpg", "trips/2024/sea.jpg", "trips/map")
    ]
    assert [each.source_id for each in found] == ["a.png", "b.jpg", "trips/2024/sea.jpg", "trips/map"]
    assert [each.tags for each in found] == [(), (), ("trips", "2024"), ("trips",)]
    assert {each.source for each in found} == {"files"}


def test_size_and_time_are_those_of_the_file(album: Path) -> None:
    os.utime(album / "a.png", ns=(0, 1_700_000_000_123_456_789))
    item = items(album / "a.png")[0]
    assert item.byte_size == len("a.png")
    assert item.modified_at == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert items(album / "a.png")[0].modified_at == item.modified_at


def test_a_hidden_file_can_be_given_explicitly(album: Path) -> None:
    item = items(album / ".hidden.jpg")[0]
    assert (item.source_id, item.tags) == (".hidden.jpg", ())
    assert names(album / ".cache") == ["thumbnail.jpg"]
    assert names(album, album / ".cache")[-1] == "thumbnail.jpg"


def test_one_file_has_one_reference_for_all_spellings(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (album.parent / "link").symlink_to(album)
    monkeypatch.chdir(album.parent)
    monkeypatch.setenv("HOME", str(album.parent))
    expected = items(album)
    for spelling in ("album", "album/", "./album/../album", "link", "~/album", Path("album")):
        assert items(spelling) == expected
    monkeypatch.chdir(album)
    assert items(".") == expected
    assert items("../link/a.png") == items(album / "a.png")


def test_overlapping_paths_yield_a_file_once(album: Path) -> None:
    expected = items(album)
    assert items(album, album) == expected
    assert items(album, album / "trips", album / "a.png", str(album / "*.jpg")) == expected
    assert sorted(each.image for each in items(album / "trips", album)) == [each.image for each in expected]


def test_symbolic_links_to_files_are_followed_and_those_to_folders_are_not(album: Path) -> None:
    (album / "c.jpg").symlink_to(album / "trips/map")
    (album / "loop").symlink_to(album)
    assert names(album) == ["a.png", "b.jpg", "c.jpg", "sea.jpg", "map"]
    assert names(str(album / "**" / "*.jpg")) == ["b.jpg", "c.jpg", "sea.jpg"]
    assert items(album / "c.jpg")[0].image == str(album / "c.jpg")


# --- Globs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("*", ["a.png", "b.jpg", "trips/2024/sea.jpg", "trips/map"]),
        ("**", ["a.png", "b.jpg", "trips/2024/sea.jpg", "trips/map"]),
        ("**/*", ["a.png", "b.jpg", "trips/2024/sea.jpg", "trips/map"]),
        ("**/**/*", ["a.png", "b.jpg", "trips/2024/sea.jpg", "trips/map"]),
        ("**/*.jpg", ["b.jpg", "trips/2024/sea.jpg"]),
        ("tr*/**/*.jpg", ["trips/2024/sea.jpg"]),
        ("trips/[0-9]*", ["trips/2024/sea.jpg"]),
        ("**/2024/sea.jpg", ["trips/2024/sea.jpg"]),
        ("?.png", ["a.png"]),
        (".*.jpg", [".hidden.jpg"]),
        ("*/", ["a.png", "b.jpg", "trips/2024/sea.jpg", "trips/map"]),
    ],
)
def test_globs(album: Path, pattern: str, expected: list[str]) -> None:
    found = items(f"{album}/{pattern}")
    assert [each.image for each in found] == [str(album / name) for name in expected]


def test_folders_nested_deeper_than_pythons_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        for _ in range(1200):
            Path("a").mkdir()
            os.chdir("a")
        Path("b.jpg").write_bytes(b"content")
        monkeypatch.chdir(tmp_path)
        for pattern in ("**/*.jpg", "/".join(["**"] * 50 + ["*.jpg"])):
            [found] = files([str(tmp_path / pattern)])
            assert isinstance(found, RejectedItem)
            assert "the path is" in str(found.error)
    finally:
        subprocess.run(["rm", "-r", str(tmp_path / "a")], check=True)  # pytest's own removal is recursive


def test_globs_are_relative_to_their_fixed_part(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = items(f"{album}/**/sea.jpg")[0]
    assert (item.source_id, item.tags) == ("trips/2024/sea.jpg", ("trips", "2024"))
    monkeypatch.chdir(album)
    assert items("**/sea.jpg") == [item]


def test_a_name_that_looks_like_a_glob_is_taken_literally_when_it_exists(album: Path) -> None:
    (album / "[a].jpg").touch()
    assert names(album / "[a].jpg") == ["[a].jpg"]


# --- Rejected paths -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["gone", "gone.jpg", "", "no\0such", "~nobody-of-that-name/x", "a\udcffb"])
def test_a_path_that_does_not_exist_is_an_error_before_anything_is_yielded(album: Path, path: str) -> None:
    with pytest.raises(SourceError, match="does not exist; give a folder, a file or a glob"):
        files([album, path])
    with pytest.raises(SourceError, match="does not exist"):
        folders([path])


@pytest.mark.parametrize("pattern", ["*.tif", "**/*.tif", "gone/*.jpg", "*/gone.jpg"])
def test_a_glob_without_a_match_is_an_error_before_anything_is_yielded(album: Path, pattern: str) -> None:
    with pytest.raises(SourceError, match="nothing matches"):
        files([album, f"{album}/{pattern}"])


def test_a_glob_with_a_parent_folder_is_an_error(album: Path) -> None:
    with pytest.raises(SourceError, match=r"'\.\.' after a wildcard"):
        files([f"{album}/*/../*.jpg"])


def test_an_empty_folder_yields_nothing(tmp_path: Path) -> None:
    assert items(tmp_path) == []


def test_irregular_files_are_rejected_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "b"))
    (tmp_path / "c").symlink_to("nowhere.jpg")
    (tmp_path / "d").symlink_to("d")
    (tmp_path / "e").symlink_to("/dev/null")
    found = rejected(tmp_path)
    assert [each.image for each in found] == [str(tmp_path / name) for name in "abcde"]
    assert all(isinstance(each.error, FileUnreadableError) for each in found)
    for each, message in zip(
        found,
        ["a named pipe", "a socket", "link to 'nowhere.jpg', which does not exist", "levels", "a device"],
        strict=True,
    ):
        assert message in str(each.error)
    assert [each.image for each in rejected(tmp_path / "a", tmp_path / "c")] == [
        str(tmp_path / "a"),
        str(tmp_path / "c"),
    ]


def test_names_that_are_not_utf_8_are_rejected_and_escaped(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):  # noqa: PTH123 - pathlib takes no bytes
        pass
    os.mkdir(os.fsencode(tmp_path) + b"/dir\xff")  # noqa: PTH102
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/dir\xff/x.jpg")).touch()
    found = rejected(tmp_path)
    assert [each.image for each in found] == [f"{tmp_path}/caf\\xe9.jpg", f"{tmp_path}/dir\\xff"]
    assert all(isinstance(each.error, InvalidReferenceError) for each in found)
    assert "not valid UTF-8" in str(found[0].error)


def test_paths_beyond_the_limit_are_rejected_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(12):
        os.mkdir("é" * 100)  # noqa: PTH102
        os.chdir("é" * 100)
    Path("deep.jpg").touch()
    monkeypatch.chdir(tmp_path)
    found = rejected(tmp_path)
    assert len(found) == 1
    assert isinstance(found[0].error, InvalidReferenceError)
    assert "the limit is 2,048" in str(found[0].error)
    assert len(found[0].image.encode()) <= MAX_REFERENCE_BYTES


def test_names_with_newlines_and_quotes_are_accepted(tmp_path: Path) -> None:
    odd = ["a\nb.jpg", 'it\'s "x".jpg', "🐕.jpg", "%s.jpg", "-rf"]
    for name in odd:
        (tmp_path / name).touch()
    assert sorted(names(tmp_path)) == sorted(odd)


def test_unreadable_files_and_folders_are_rejected(album: Path) -> None:
    (album / "b.jpg").chmod(0)
    if os.access(album / "b.jpg", os.R_OK):
        pytest.skip("this user may read everything")
    (album / "trips").chmod(0)
    try:
        for path in (album, f"{album}/**/*"):
            found = rejected(path)
            assert [each.image for each in found] == [str(album / "b.jpg"), str(album / "trips")]
            assert all("cannot be read" in str(each.error) for each in found)
    finally:
        (album / "trips").chmod(0o755)


# --- Folders, size --------------------------------------------------------------------------------


def test_folders_returns_only_the_folders(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album.parent)
    assert folders(["album", album / "trips", album / "a.png"]) == [str(album)]
    assert folders([album / "trips", "album/.cache"]) == [str(album / "trips"), str(album / ".cache")]
    assert folders([f"{album}/*"]) == [str(album / "trips")]
    assert folders([f"{album}/*.jpg"]) == []


def test_a_large_folder_is_streamed(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / f"{folder}").mkdir()
        for name in range(100):
            (tmp_path / f"{folder}" / f"{name}").touch()
    tracemalloc.start()
    try:
        count = sum(1 for _ in files([tmp_path]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 2000
    assert peak < 200_000  # 2,000 kept items would take over a megabyte


def test_every_file_of_the_hostile_folder_is_accounted_for(tmp_path: Path) -> None:
    made = make_hostile_folder(tmp_path / "hostile", 400)
    found = list(files([tmp_path / "hostile"]))
    assert len(found) == len(made) == 400
    taken = {each.image for each in found if isinstance(each, SourceItem)}
    assert taken == {str(path) for path in made if path.is_file() and "\udce9" not in path.name}


@pytest.mark.parametrize("recursive", [True, False])
def test_one_folder_is_listed_as_a_walk_lists_it(tmp_path: Path, recursive: bool) -> None:
    for name in ("a.jpg", "b/c.jpg", "b/d/e.jpg", "b/d/skip.jpg", "b/no/f.jpg", ".hidden/g.jpg", "@eaDir/h.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "b" / ".searchdbignore").write_text("skip.jpg\n")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    exclusion = Exclusion(patterns=["no/"])
    root = str(tmp_path)
    whole = [item for item in files([tmp_path], exclusion=exclusion) if isinstance(item, SourceItem)]

    def listed(folder: str) -> list[object]:
        return list(files_in(str(tmp_path / folder), root=root, exclusion=exclusion, recursive=recursive))

    below = [item for item in whole if item.image.startswith(f"{root}/b/")]
    assert listed("b") == (below if recursive else [item for item in below if item.source_id == "b/c.jpg"])
    assert listed("b/d") == [item for item in whole if item.source_id == "b/d/e.jpg"]
    for left_out in ("b/no", ".hidden", "@eaDir", "link", "none", "a.jpg"):
        assert listed(left_out) == []
    with contextlib.suppress(OSError):  # macOS refuses it
        (tmp_path / os.fsdecode(b"\xff")).mkdir()
    assert set(folders_in(root, root=root, exclusion=exclusion)) == {root, f"{root}/b", f"{root}/b/d"}
    assert set(folders_in(f"{root}/b", root=root, exclusion=exclusion)) == {f"{root}/b", f"{root}/b/d"}
    assert list(folders_in(f"{root}/b/no", root=root, exclusion=exclusion)) == []
