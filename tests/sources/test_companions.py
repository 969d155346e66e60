"""Which files of a folder belong to an image beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from searchdb.records import Companion, SourceItem
from searchdb.sources import companions
from searchdb.sources.exclusion import Exclusion
from searchdb.sources.files import files

LONG = "a photograph whose name is longer than the names of Takeout.jpg"


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def walk(folder: Path | list[Path], exclusion: Exclusion) -> dict[str, list[str]]:
    """Each item's name, with the names of its companions."""
    found = list(files(folder if isinstance(folder, list) else [folder], exclusion=exclusion))
    items = [each for each in found if isinstance(each, SourceItem)]
    assert len(items) == len(found)
    return {Path(item.image).name: [Path(each.path).name for each in item.companions] for item in items}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # XMP: of a name with or without the image's suffix, in any case
        (["x.jpg", "x.xmp"], {"x.jpg": ["x.xmp"]}),
        (["x.jpg", "x.jpg.XMP", "x.xmp"], {"x.jpg": ["x.jpg.XMP", "x.xmp"]}),
        (["x.JPG", "x.jpg.xmp"], {"x.JPG": ["x.jpg.xmp"]}),
        (["x.png", "x.tif", "x.xmp"], {"x.png": ["x.xmp"], "x.tif": ["x.xmp"]}),
        (["x.png", "x.tif", "x.tif.xmp"], {"x.png": [], "x.tif": ["x.tif.xmp"]}),
        (["a.b.jpg", "a.b.xmp", "a.jpg"], {"a.b.jpg": ["a.b.xmp"], "a.jpg": []}),
        (["x.MOV", "x.mov.xmp"], {"x.MOV": ["x.mov.xmp"]}),
        # RAW files beside what the camera developed
        (["x.JPG", "x.NEF"], {"x.JPG": ["x.NEF"]}),
        (["x.heic", "x.dng", "x.dng.xmp", "x.xmp"], {"x.heic": ["x.xmp", "x.dng.xmp", "x.dng"]}),
        (["x.heic", "x.jpg", "x.cr3"], {"x.heic": [], "x.jpg": ["x.cr3"]}),
        (["x.CR2", "x.xmp"], {"x.CR2": ["x.xmp"]}),
        (["x.png", "x.arw"], {"x.png": [], "x.arw": []}),
        (["P.RAW-01.COVER.jpg", "P.RAW-02.ORIGINAL.dng"], {"P.RAW-01.COVER.jpg": ["P.RAW-02.ORIGINAL.dng"]}),
        # Live Photos and motion photos
        (["x.HEIC", "x.MOV"], {"x.HEIC": ["x.MOV"]}),
        (["x.jpg", "x.mov"], {"x.jpg": ["x.mov"]}),
        (["film.jpg", "film.mp4"], {"film.jpg": [], "film.mp4": []}),
        (["x.jpg", "x.mp4", "x.jpg.json"], {"x.jpg": ["x.jpg.json", "x.mp4"]}),
        (["x.jpg", "x.mp4", "x.jpg.json", "x.mp4.json"], {"x.jpg": ["x.jpg.json"], "x.mp4": ["x.mp4.json"]}),
        (["P.MP", "P.MP.jpg"], {"P.MP.jpg": ["P.MP"]}),
        # Google Takeout
        (["x.jpg", "x.jpg.json"], {"x.jpg": ["x.jpg.json"]}),
        (["x.jpg", "x.jpg.supplemental-metadata.json"], {"x.jpg": ["x.jpg.supplemental-metadata.json"]}),
        (["x.jpg", "x.jpg.supplemental-me.json"], {"x.jpg": ["x.jpg.supplemental-me.json"]}),
        (["x.jpg", "x.jpg..json"], {"x.jpg": ["x.jpg..json"]}),
        (["x(1).jpg", "x.jpg", "x.jpg(1).json"], {"x(1).jpg": ["x.jpg(1).json"], "x.jpg": []}),
        (
            ["x(1).jpg", "x.jpg.supplemental-metadata(1).json"],
            {"x(1).jpg": ["x.jpg.supplemental-metadata(1).json"]},
        ),
        (["x.jpg", "x-edited.jpg", "x.jpg.json"], {"x.jpg": ["x.jpg.json"], "x-edited.jpg": ["x.jpg.json"]}),
        (["x-bearbeitet(2).jpg", "x.jpg(2).json"], {"x-bearbeitet(2).jpg": ["x.jpg(2).json"]}),
        ([LONG, f"{LONG[:46]}.json"], {LONG: [f"{LONG[:46]}.json"]}),
        ([LONG, f"{LONG[:45]}.json"], {LONG: [], f"{LONG[:45]}.json": []}),
        (["x.NEF", "x.jpg", "x.NEF.json"], {"x.jpg": ["x.NEF.json", "x.NEF"]}),
        # No sidecars
        (["x.jpg", "notes.json"], {"x.jpg": [], "notes.json": []}),
    ],
    ids=str,
)  # fmt: skip
def test_pairs(tmp_path: Path, names: list[str], expected: dict[str, list[str]]) -> None:
    exclusion = Exclusion()
    assert walk(make(tmp_path, *names), exclusion) == expected
    assert len(expected) + exclusion.sidecars + exclusion.parts == len(names)
    assert exclusion.count == 0


def test_sidecars_without_an_image_and_what_phones_leave_behind_are_left_out(tmp_path: Path) -> None:
    left = ["x.xmp", "y.jpg.json", "y.jpg.supplemental-metad.json", "IMG_1.AAE", "MVI_1.THM", "metadata.json"]
    exclusion = Exclusion()
    assert walk(make(tmp_path, *left, "z.jpg"), exclusion) == {"z.jpg": []}
    assert (exclusion.count, exclusion.sidecars, exclusion.parts) == (len(left), 0, 0)


def test_companions_have_path_kind_size_and_time(tmp_path: Path) -> None:
    make(tmp_path, "x.jpg", "x.nef", "x.xmp", "x.jpg.json")
    os.utime(tmp_path / "x.xmp", (5, 5))
    (item,) = (each for each in files([tmp_path]) if isinstance(each, SourceItem))
    assert [(Path(each.path).name, each.kind, each.byte_size) for each in item.companions] == [
        ("x.xmp", "xmp", 5), ("x.jpg.json", "takeout", 10), ("x.nef", "raw", 5),
    ]  # fmt: skip
    assert item.companions[0].modified_at is not None
    assert item.companions[0].modified_at.timestamp() == 5
    assert item.companions[0].path == str(tmp_path / "x.xmp")
    assert SourceItem.from_json(item.to_json()) == item
    assert isinstance(item.companions[0], Companion)


def test_what_is_no_regular_file_is_no_companion(tmp_path: Path) -> None:
    make(tmp_path, "x.jpg", "y.nef", "y.jpg/inside.png", "x.xmp/inside.gif", "z.jpg", "z.heic")
    (tmp_path / "z.xmp").symlink_to("nowhere")
    expected = {"x.jpg": [], "inside.gif": [], "inside.png": [], "y.nef": [], "z.jpg": [], "z.heic": []}
    assert walk(tmp_path, Exclusion()) == expected


def test_a_large_video_is_no_part_of_a_live_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "x.heic", "x.mov")
    monkeypatch.setattr(companions, "MAX_LIVE_BYTES", 4)
    assert walk(tmp_path, Exclusion()) == {"x.heic": [], "x.mov": []}


def test_excluded_files_belong_to_nothing(tmp_path: Path) -> None:
    make(tmp_path, "x.jpg", "x.nef", "x.xmp")
    assert walk(tmp_path, Exclusion(patterns=["*.xmp", "*.nef"])) == {"x.jpg": []}
    assert walk(tmp_path, Exclusion(patterns="*.jpg")) == {"x.nef": ["x.xmp"]}


def test_a_sidecar_or_part_that_is_named_stands_for_its_image(tmp_path: Path) -> None:
    make(tmp_path, "x.jpg", "x.nef", "x.xmp", "y.png", "y.xmp", "lone.xmp")
    both = ["x.xmp", "x.nef"]
    exclusion = Exclusion()
    assert walk([tmp_path / "x.xmp"], exclusion) == {"x.jpg": both}
    assert (exclusion.sidecars, exclusion.parts, exclusion.count) == (1, 0, 0)
    exclusion = Exclusion()
    every = sorted(tmp_path.iterdir())  # as the shell expands *
    found = list(files(every, exclusion=exclusion))
    assert [Path(each.image).name for each in found] == ["x.jpg", "y.png"]
    assert (exclusion.sidecars, exclusion.parts, exclusion.count) == (2, 1, 1)
    assert [Path(each.image).name for each in files([f"{tmp_path}/*"])] == ["x.jpg", "y.png"]
    assert [Path(each.image).name for each in files([f"{tmp_path}/*.nef"])] == ["x.jpg"]
    assert list(files([tmp_path / "lone.xmp"])) == []


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("album", {"a.jpg": "album", "b.jpg": "album/2024", "c.jpg": "album/2024/R\u00e9union"}),
        ("album/2024", {"b.jpg": "2024", "c.jpg": "2024/R\u00e9union"}),
        ("album/2024/b.jpg", {"b.jpg": "2024"}),
        ("album/*", {"a.jpg": "album", "b.jpg": "album/2024", "c.jpg": "album/2024/R\u00e9union"}),
        ("album/**/?.jpg", {"a.jpg": "album", "b.jpg": "album/2024", "c.jpg": "album/2024/R\u00e9union"}),
    ],
)
def test_folders_begin_with_the_named_one(tmp_path: Path, named: str, expected: dict[str, str]) -> None:
    make(tmp_path / "album", "a.jpg", "2024/b.jpg", "2024/Re\u0301union/c.jpg")
    found = [each for each in files([tmp_path / named]) if isinstance(each, SourceItem)]
    assert {Path(each.image).name: each.folder for each in found} == expected
