"""Videos through the real ingest: found by what they show, stored whole, moved, verified, pruned, and interrupted."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import frame_previews, images, ingest_pending
from searchdb.errors import ConfigError, NotAnImageError
from searchdb.ingest import videos as ingest_videos
from searchdb.ingest.known_failures import Limits
from searchdb.media.decode import decode
from searchdb.records import FetchedImage, SourceItem
from searchdb.video.helper import VideoFrames
from tests.helpers.cli import run
from tests.helpers.helper_processes import helpers_of
from tests.helpers.image_server import ImageServer, make_image
from tests.helpers.runs import SHORT_SILENCE, Run
from tests.helpers.videos import cut, draw_scene, draw_video
from tests.helpers.waiting import until

SCENES = ("cat", "boat", "mountain", "butterfly", "house")
SECONDS = 3
COLOURS = [(250, 20, 20), (20, 20, 250), (20, 250, 20)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of five scenes of three seconds each."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    tags = {
        "title": "Our holidays",
        "com.apple.quicktime.creationdate": "2024-05-06T09:08:09+0200",
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.model": "iPhone 15",
        "com.apple.quicktime.location.ISO6709": "+41.9028+012.4964+020.1/",
    }
    return draw_video(path, [(draw_scene(kind, size=192), SECONDS) for kind in SCENES], fps=8, metadata=tags)


@pytest.fixture
def folder(tmp_path: Path, film: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(film, folder / "film.mp4")
    return folder


def rows(collection: SearchDB, *columns: str) -> list[Any]:
    wanted = [images.c[name] for name in columns or ("image",)]
    with collection.database.connect() as connection:
        found = connection.execute(sa.select(*wanted).order_by(images.c.video, images.c.video_time, images.c.image))
        return [tuple(row) if columns[1:] else row[0] for row in found]


def at(path: Path, *seconds: int) -> list[str]:
    return [f"{path}#t={each}" for each in seconds]


def failures(collection: SearchDB) -> dict[str, str]:
    return {Path(each.image).name: each.error for each in collection.store.failures()}


def test_a_text_finds_the_second_that_shows_it(collection: SearchDB, folder: Path) -> None:
    report = collection.ingest_files(folder)
    assert (report.stored, report.frames, dict(report.failed)) == (1, 5, {})
    assert rows(collection) == at(folder / "film.mp4", 0, 3, 6, 9, 12)
    for index, kind in enumerate(SCENES):
        best = collection.search(f"a {kind}", count=1)[0]
        assert (best.video, best.video_time) == (str(folder / "film.mp4"), SECONDS * index), kind


def test_what_is_stored_with_each_frame(collection: SearchDB, folder: Path) -> None:
    (folder / "2024").mkdir()
    path = (folder / "film.mp4").rename(folder / "2024" / "film.mp4")
    collection.ingest_files(folder)
    status = path.stat()
    for row in rows(collection, "width", "height", "byte_size", "camera", "latitude", "taken_at", "tags", "metadata"):
        width, height, size, camera, latitude, taken_at, tags, metadata = row
        assert (width, height, size, camera) == (288, 192, status.st_size, "Apple iPhone 15")
        assert latitude == pytest.approx(41.9028)
        assert taken_at.isoformat() == "2024-05-06T07:08:09+00:00"
        assert tags == ["2024"]
        assert metadata == metadata | {"video": str(path), "duration": 15.0, "codec": "h264", "every": 1.0}
    with collection.database.connect() as connection:
        previews = connection.scalars(sa.select(frame_previews.c.webp)).all()
        video = connection.execute(sa.text("SELECT * FROM videos")).mappings().one()
    assert len(previews) == 5
    assert all(bytes(each[8:12]) == b"WEBP" for each in previews)
    assert (video["video"], video["frames"], video["duration_s"], video["codec"]) == (str(path), 5, 15.0, "h264")


def test_nothing_is_done_again_and_another_step_reads_again(collection: SearchDB, folder: Path) -> None:
    collection.ingest_files(folder)
    before = rows(collection, "id", "image")
    assert collection.ingest_files(folder).unchanged == 1
    assert collection.ingest_files(folder, reread=True).unchanged == 1
    assert collection.ingest_files(folder, every=6).stored == 1
    assert rows(collection, "id", "image") == [before[0], before[2], before[4]]  # 0, 6 and 12 keep their ids
    assert collection.ingest_files(folder).unchanged == 1  # nothing was asked for
    assert collection.ingest_files(folder, every=6).unchanged == 1
    assert collection.ingest_files(folder, every="key").stored == 1
    assert len(rows(collection)) == 5
    with pytest.raises(ConfigError, match="every is 0"):
        collection.ingest_files(folder, every=0)


def test_a_touched_file_and_a_copy_take_the_vectors_without_decoding(
    collection: SearchDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.ingest_files(folder)
    read = VideoFrames.__iter__
    monkeypatch.setattr(VideoFrames, "__iter__", lambda self: pytest.fail("decoded") if self._task.most else read(self))
    os.utime(folder / "film.mp4", (1, 1))
    shutil.copy(folder / "film.mp4", folder / "copy.mp4")
    report = collection.ingest_files(folder)
    assert (report.stored, report.copied, report.frames) == (2, 2, 10)
    assert rows(collection) == [*at(folder / "copy.mp4", 0, 3, 6, 9, 12), *at(folder / "film.mp4", 0, 3, 6, 9, 12)]


def test_a_moved_video_keeps_its_rows(collection: SearchDB, folder: Path) -> None:
    collection.ingest_files(folder)
    before = rows(collection, "id", "embedding")
    (folder / "film.mp4").rename(folder / "renamed.mp4")
    report = collection.ingest_files(folder, prune=True)
    assert (report.stored, report.copied, report.gone) == (1, 1, 0)
    assert rows(collection) == at(folder / "renamed.mp4", 0, 3, 6, 9, 12)
    after = rows(collection, "id", "embedding")
    assert [id_ for id_, _ in after] == [id_ for id_, _ in before]
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(after, before, strict=True))
    assert {each["video"] for each in rows(collection, "metadata")} == {str(folder / "renamed.mp4")}


def test_gone_files_count_a_video_once(settings: Settings, collection: SearchDB, folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(make_image(seed=number))
    collection.ingest_files(folder)
    (folder / "film.mp4").unlink()
    report = collection.ingest_files(folder)
    assert (report.gone, report.removed) == (1, 0)
    assert len(collection.gone_files(folder)) == 5
    result = run(settings, "ingest", "files", str(folder), "--prune")
    assert "the file of 1 stored image or video no longer exists: removed 1 of them" in result.stderr
    assert [Path(each).name for each in rows(collection)] == ["0.jpg", "1.jpg", "2.jpg"]


def test_verify_reads_a_video_once_and_finds_it_elsewhere(collection: SearchDB, folder: Path, tmp_path: Path) -> None:
    collection.ingest_files(folder)
    assert collection.verify(folder).to_json()["checked"] == 1
    found: list[Any] = []
    (tmp_path / "elsewhere").mkdir()
    new = (folder / "film.mp4").rename(tmp_path / "elsewhere" / "film.mp4")
    report = collection.verify(folder, moved_to=tmp_path / "elsewhere", fix_moved=True, found=found.append)
    assert (report.counts["moved"], report.fixed) == (1, 1)
    assert (found[0].image, found[0].moved_to) == (str(folder / "film.mp4"), str(new))
    assert rows(collection) == at(new, 0, 3, 6, 9, 12)
    new.write_bytes(new.read_bytes() + b"\0")
    assert collection.verify().counts["changed"] == 1


def test_a_file_that_becomes_a_video_and_back(collection: SearchDB, folder: Path, film: Path) -> None:
    path = folder / "thing"
    path.write_bytes(make_image())
    (folder / "film.mp4").unlink()
    for content, count in ((film.read_bytes(), 5), (make_image(), 1), (film.read_bytes(), 5)):
        path.write_bytes(content)
        collection.ingest_files(folder)
        assert len(rows(collection)) == count


def test_failures_are_named_and_frames_before_the_damage_kept(collection: SearchDB, folder: Path) -> None:
    noise = np.random.default_rng(0)
    scenes = [(noise.integers(0, 255, (96, 128, 3)).astype(np.uint8), 1.0) for _ in range(10)]
    half = cut(draw_video(folder / "half.mkv", scenes), 0.6)
    (folder / "nothing.mp4").write_bytes((folder / "film.mp4").read_bytes()[:2000])
    report = collection.ingest_files(folder)
    assert (report.stored, dict(report.failed)) == (1, {"DamagedVideoError": 2})
    assert failures(collection) == {"half.mkv": "DamagedVideoError", "nothing.mp4": "DamagedVideoError"}
    kept = [image for image in rows(collection) if image.startswith(str(half))]
    assert 1 <= len(kept) < 10
    assert collection.store.counts() == {"images": 5 + len(kept), "failed": 1, "pending": 0}
    again = collection.ingest_files(folder)
    assert (again.unchanged, again.known_failures, again.done) == (2, 1, 3)  # what could be read is stored
    assert collection.ingest_files(folder, retry_failed=True).failed.total() == 2
    draw_video(half, scenes)  # mended
    assert collection.ingest_files(folder).stored == 1
    assert failures(collection) == {"nothing.mp4": "DamagedVideoError"}


def test_without_the_extra_the_failure_names_it_and_is_lifted_by_it(
    collection: SearchDB, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        assert dict(collection.ingest_files(folder).failed) == {"ExtraMissingError": 1}
        (failure,) = collection.store.failures()
        assert "pip install 'searchdb[video]'" in failure.message
        assert collection.ingest_files(folder).known_failures == 1
        assert not Limits.of(settings).lift(failure.error, failure.message)
    assert collection.ingest_files(folder).stored == 1
    assert not failures(collection)


def test_near_identical_frames_are_dropped_and_the_limit_holds(settings: Settings, tmp_path: Path) -> None:
    path = draw_video(tmp_path / "still.mp4", [(draw_scene("cat", size=128), 12)])
    with SearchDB(settings) as collection:
        assert collection.ingest_files(path).frames == 1
    scenes = [(draw_scene("cat", size=128, skip=index), 1.0) for index in range(12)]
    draw_video(path, scenes)
    with SearchDB(settings.model_copy(update={"max_video_frames": 4})) as collection:
        assert collection.ingest_files(path).frames <= 4
        assert rows(collection, "video_time") == [0, 3, 6, 9]


def test_images_of_the_chunk_do_not_wait_for_its_videos(
    collection: SearchDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(make_image(seed=number))
    stored: list[int] = []
    read = ingest_videos.VideoReading.read

    def watched(self: Any, *arguments: Any) -> Any:
        stored.append(len(rows(collection)))
        return read(self, *arguments)

    monkeypatch.setattr(ingest_videos.VideoReading, "read", watched)
    collection.ingest_files(folder)
    assert stored == [3]


# --- URLs -----------------------------------------------------------------------------------------


def test_a_video_by_url(settings: Settings, film: Path, tmp_path: Path) -> None:
    urls = tmp_path / "urls.txt"
    with ImageServer() as server, SearchDB(settings) as collection:
        server.bodies["/film.mp4"] = film.read_bytes()
        urls.write_text(f"{server.url('/film.mp4')}\n{server.url('/ok.jpg')}\n")
        report = collection.ingest_urls(str(urls), every=3)
        assert (report.stored, report.frames) == (2, 5)
        assert f"{server.url('/film.mp4')}#t=3" in rows(collection)
        assert not list((settings.home / "downloads").iterdir())
        assert collection.ingest_urls(str(urls)).unchanged == 2
        upload = FetchedImage(item=SourceItem(image="x", source="api"), data=film.read_bytes())
        with pytest.raises(NotAnImageError, match="looks like a video"):  # as the API adds it, and searches by it
            decode(upload, max_pixels=10**8)


def test_a_download_within_its_limit_only(settings: Settings, film: Path, tmp_path: Path) -> None:
    urls = tmp_path / "urls.txt"
    size = film.stat().st_size
    with ImageServer() as server:
        server.bodies["/film.mp4"] = film.read_bytes()
        urls.write_text(f"{server.url('/film.mp4')}\n")
        with SearchDB(settings.model_copy(update={"max_video_bytes": size - 1})) as collection:
            assert dict(collection.ingest_urls(str(urls)).failed) == {"TooManyBytesError": 1}
            (failure,) = collection.store.failures()
            assert "SEARCHDB_MAX_VIDEO_BYTES" in failure.message
            assert collection.ingest_urls(str(urls)).known_failures == 1
        with SearchDB(settings.model_copy(update={"max_video_bytes": size, "max_image_bytes": 10})) as collection:
            assert collection.ingest_urls(str(urls)).stored == 1  # the limit was raised; that of images is another


# --- Interruptions --------------------------------------------------------------------------------


@pytest.fixture
def long_film(tmp_path: Path) -> Path:
    """A video that takes a while: many scenes, all decoded."""
    folder = tmp_path / "long"
    folder.mkdir()
    noise = np.random.default_rng(0)
    scenes = [(noise.integers(0, 255, (24, 32, 3)).astype(np.uint8), 1.0) for _ in range(40)]
    return draw_video(folder / "long.mkv", scenes, fps=4, size=(320, 240))


def pending(collection: SearchDB) -> int:
    with collection.database.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(ingest_pending)) or 0


def test_a_stop_in_the_middle_leaves_it_queued(
    collection: SearchDB, long_film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.ingest_files(long_film, enqueue_only=True)
    stop = threading.Event()
    new_ones = ingest_videos.VideoReading._new_ones  # pyright: ignore[reportPrivateUsage]

    def stopping(self: Any, *batch: Any) -> Any:
        stop.set()
        until(self._stopping.is_set, "the stop")
        return new_ones(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(ingest_videos.VideoReading, "_new_ones", stopping)
        report = collection.work(stop=stop)
    assert (report.stored, report.frames, rows(collection), pending(collection)) == (0, 0, [], 1)
    assert collection.work(drain=True).stored == 1
    assert pending(collection) == 0


SLOW = """
import time
from searchdb.ingest import videos
new_ones = videos.VideoReading._new_ones
def slow(self, *batch):
    time.sleep(0.3)
    return new_ones(self, *batch)
videos.VideoReading._new_ones = slow
"""
"""A worker that spends a while on each batch of frames."""


@pytest.mark.slow
def test_a_killed_worker_leaves_nothing_and_another_one_stores_all(
    settings: Settings, collection: SearchDB, long_film: Path, tmp_path: Path
) -> None:
    collection.ingest_files(long_film, enqueue_only=True)
    before = f"{SHORT_SILENCE}\n{SLOW}\nvideos.BATCH = 4\nprint('ready', flush=True)"
    first = Run(settings, tmp_path / "first", ["worker"], before=before)
    until(lambda: helpers_of(first.process.pid), "the process that reads the video")
    (helper,) = helpers_of(first.process.pid)
    time.sleep(0.5)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    until(lambda: not Path(f"/proc/{helper}").exists(), "the end of the helper")
    assert rows(collection) == []
    assert pending(collection) == 1
    others = [Run(settings, tmp_path / str(n), ["worker", "--drain"], before=SHORT_SILENCE) for n in range(2)]
    for other in others:
        other.process.wait()
    assert len(rows(collection)) > 20
    assert pending(collection) == 0
    assert not failures(collection)


@pytest.mark.slow
def test_two_hours_take_no_more_memory_than_a_minute(
    collection: SearchDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hours at a frame a second, of which 200 are read; the process that reads is measured at its end."""
    scenes: list[Any] = [(COLOURS[index % 3], 60.0) for index in range(120)]
    path = draw_video(tmp_path / "long.mp4", scenes, fps=1, size=(64, 48), key_every=10)
    monkeypatch.setattr(ingest_videos, "SAME_FRAME", 2.0)  # keep all
    peaks: list[int] = []
    iterate = VideoFrames.__iter__

    def measured(self: Any) -> Any:
        for frame in iterate(self):
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            if "VmHWM:" in status:  # else it has ended, and what it wrote is still read
                peaks.append(int(status.split("VmHWM:")[1].split()[0]))
            yield frame

    monkeypatch.setattr(VideoFrames, "__iter__", measured)
    collection.embedder.load()
    collection.ingest_files(draw_video(tmp_path / "short.mp4", scenes[:2], fps=1, size=(64, 48)))
    own, helper = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, max(peaks)
    limited = SearchDB(collection.settings.model_copy(update={"max_video_frames": 200}))
    with limited:
        assert limited.ingest_files(path).frames == 200
    assert max(peaks) - helper < 30_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own < 100_000
    assert rows(collection, "video_time")[:3] == [0, 36, 72] or rows(collection, "video_time")[0] == 0
