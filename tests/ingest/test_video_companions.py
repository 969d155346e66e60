"""Videos with files beside them: sidecars describe all frames, and are read again without decoding the video."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.db.tables import frame_previews, images
from searchdb.media.embed import CLIPEmbedder
from searchdb.video.helper import VideoFrames
from tests.helpers.image_server import make_image
from tests.helpers.sidecars import write_takeout, write_xmp
from tests.helpers.videos import draw_video

SCENES = [((250, 20, 20), 2.0), ((20, 20, 250), 2.0), ((20, 250, 20), 2.0)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_video(tmp_path_factory.mktemp("film") / "clip.mp4", SCENES, fps=4, metadata={"title": "Our holidays"})


@pytest.fixture
def clip(tmp_path: Path, film: Path) -> Path:
    """A video in a folder of its own."""
    path = tmp_path.resolve() / "films" / "2024" / "clip.mp4"
    path.parent.mkdir(parents=True)
    shutil.copy(film, path)
    return path


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which nothing is decoded or embedded."""

    def forbid() -> None:
        read = VideoFrames.__iter__
        monkeypatch.setattr(
            VideoFrames, "__iter__", lambda self: pytest.fail("decoded") if self._task.most else read(self)
        )
        monkeypatch.setattr(CLIPEmbedder, "embed_images", lambda *_: pytest.fail("embedded"))

    return forbid


def rows(collection: SearchDB) -> list[dict[str, Any]]:
    """The frames in the order of their times, each with its preview."""
    statement = sa.select(images, frame_previews.c.webp).outerjoin(frame_previews).order_by(images.c.video_time)
    with collection.database.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def said(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["description"], row["rating"], row["tags"], row["taken_at"] and row["taken_at"].year


def test_sidecars_describe_all_frames_and_are_read_again_without_decoding(
    collection: SearchDB, clip: Path, undecodable: Callable[[], None]
) -> None:
    os.utime(clip, (1_700_000_000, 1_700_000_000))
    write_xmp(clip.with_suffix(".xmp"), rating=4)
    write_takeout(clip.with_name("clip.mp4.json"))
    report = collection.ingest_files(clip.parent.parent)
    assert (report.stored, report.frames, report.sidecars, report.failed.total()) == (1, 3, 2, 0)
    before = rows(collection)
    assert {row["video_time"]: said(row)[:2] for row in before} == dict.fromkeys((0.0, 2.0, 4.0), ("from XMP", 4))
    assert all((row["tags"], row["taken_at"].year) == (["2024", "lake"], 2020) for row in before)
    assert all(row["metadata"]["title"] == "Our holidays" for row in before)
    assert collection.ingest_files(clip.parent.parent).unchanged == 1

    undecodable()
    write_xmp(clip.with_suffix(".xmp"), rating=1, text="changed", keyword="river")
    report = collection.ingest_files(clip.parent.parent)
    assert (report.stored, report.copied, report.frames) == (1, 1, 3)
    after = rows(collection)
    assert all(said(row) == ("changed", 1, ["2024", "river"], 2020) for row in after)
    for one, other in zip(before, after, strict=True):
        kept = ("id", "image", "video_time", "colour", "webp", "metadata")
        assert {name: one[name] for name in kept} == {name: other[name] for name in kept}
        assert (one["embedding"] == other["embedding"]).all()

    clip.with_suffix(".xmp").unlink()
    clip.with_name("clip.mp4.json").unlink()
    assert collection.ingest_files(clip.parent.parent).stored == 1
    last = rows(collection)
    assert all(said(row) == ("Our holidays", None, ["2024"], 2023) for row in last)
    assert all(row["metadata"].keys() >= {"video", "time", "duration", "codec", "every"} for row in last)
    assert [row["id"] for row in last] == [row["id"] for row in before]
    assert collection.ingest_files(clip.parent.parent, reread=True).unchanged == 1


def test_a_video_moved_with_its_sidecar_keeps_its_rows(
    collection: SearchDB, clip: Path, undecodable: Callable[[], None]
) -> None:
    folder = clip.parent.parent
    write_xmp(clip.with_suffix(".xmp"))
    collection.ingest_files(folder)
    before = rows(collection)
    undecodable()
    new = folder / "2025"
    new.mkdir()
    clip.rename(new / "other.mp4")
    clip.with_suffix(".xmp").rename(new / "other.xmp")
    report = collection.ingest_files(folder, prune=True)
    assert (report.stored, report.copied, report.gone) == (1, 1, 0)
    after = rows(collection)
    assert [row["id"] for row in after] == [row["id"] for row in before]
    assert {(row["folder"], row["description"], tuple(row["tags"])) for row in after} == {
        ("films/2025", "from XMP", ("2025", "lake"))
    }
    assert collection.ingest_files(folder).unchanged == 1
    write_xmp(new / "other.xmp", text="changed")
    collection.ingest_files(folder)
    assert {row["description"] for row in rows(collection)} == {"changed"}
    (new / "other.mp4").rename(new / "without.mp4")
    collection.ingest_files(folder)
    assert {row["description"] for row in rows(collection)} == {"Our holidays"}
    assert [row["id"] for row in rows(collection)] == [row["id"] for row in before]
    assert collection.ingest_files(folder).unchanged == 1


def test_the_folder_of_a_video_that_is_read_again_is_kept(collection: SearchDB, clip: Path) -> None:
    collection.ingest_files(clip.parent.parent)
    os.utime(clip, (9, 9))
    write_xmp(clip.with_suffix(".xmp"))
    assert collection.ingest_files(clip.parent).stored == 1
    assert {row["folder"] for row in rows(collection)} == {"films/2024"}


def test_a_video_joins_the_photo_of_its_name_and_leaves_it(collection: SearchDB, clip: Path) -> None:
    """As when the photo of a Live Photo is copied after the video, and deleted before it."""
    folder = clip.parent
    video = clip.rename(folder / "IMG_1.MOV")
    collection.ingest_files(folder)
    assert len(rows(collection)) == 3
    photo = folder / "IMG_1.JPG"
    photo.write_bytes(make_image())
    report = collection.ingest_files(folder)
    assert (report.stored, report.parts, report.gone) == (1, 1, 0)
    [row] = rows(collection)
    assert (row["image"], row["video"], row["metadata"]["live"]) == (str(photo), None, str(video))
    photo.unlink()
    report = collection.ingest_files(folder, prune="always")
    assert (report.stored, report.frames, report.removed) == (1, 3, 1)
    assert {row["video"] for row in rows(collection)} == {str(video)}
