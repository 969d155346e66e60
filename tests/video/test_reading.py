"""Frames of videos of all kinds, honest and hostile, as the process of its own reads them."""

from __future__ import annotations

import io
import os
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import av.stream
import numpy as np
import pytest
from PIL import Image

from searchdb.errors import (
    DamagedVideoError,
    DecodeInterruptedError,
    DecoderLostError,
    DecodeTooCostlyError,
    NoVideoStreamError,
    TooManyPixelsError,
)
from searchdb.media.formats import SNIFFED_BYTES
from searchdb.video import helper, messages
from searchdb.video.helper import VideoFrames, open_frames
from searchdb.video.messages import RawFrame, Task, VideoHeader
from searchdb.video.pixels import hdr_to_sdr
from searchdb.video.recognition import demuxer_of, is_video
from searchdb.video.sampling import frame_times, spread
from tests.helpers.image_server import make_image
from tests.helpers.videos import cut, draw_video

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
TWO = [(RED, 2.0), (BLUE, 2.0)]
NEAR = 40
"""Difference of a colour that an encoder may make."""


def read(path: Path, *, cancel: threading.Event | None = None, **task: object) -> tuple[list[RawFrame], VideoFrames]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        settings = Task(
            demuxer=demuxer_of(os.pread(descriptor, SNIFFED_BYTES, 0)) or "mov",
            byte_size=os.fstat(descriptor).st_size,
            every_s=1.0,
            most=1000,
            shorter_side=96,
            longer_side=160,
            max_pixels=100_000_000,
            memory_bytes=1 << 30,
            frame_cpu_s=60,
            parent=os.getpid(),
        )
        with open_frames(descriptor, replace(settings, **task), cancel=cancel) as frames:  # pyright: ignore[reportArgumentType]
            return list(frames), frames
    finally:
        os.close(descriptor)


def times(frames: list[RawFrame]) -> list[float]:
    return [round(each.time, 2) for each in frames]


def header(frames: VideoFrames) -> VideoHeader:
    assert frames.header is not None
    return frames.header


def colour(frame: RawFrame) -> np.ndarray:
    pixels = np.frombuffer(frame.pixels, np.uint8).reshape(frame.height, frame.width, 3)
    return pixels.reshape(-1, 3).mean(0)


def is_near(frame: RawFrame, expected: tuple[int, int, int]) -> bool:
    return bool(np.abs(colour(frame) - np.array(expected)).max() < NEAR)


@pytest.mark.parametrize("ending", ["mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "ts"])
def test_a_frame_a_second_of_each_container(tmp_path: Path, ending: str) -> None:
    path = draw_video(tmp_path / f"v.{ending}", TWO, sound=ending in ("mp4", "mkv"))
    frames, found = read(path)
    assert found.error is None
    assert times(frames) == [0, 1, 2, 3]
    assert [is_near(each, RED) for each in frames] == [True, True, False, False]
    assert is_near(frames[3], BLUE)
    assert (header(found).width, header(found).height) == (320, 240)
    assert header(found).duration_s == pytest.approx(4, abs=0.8)  # an MPEG program stream does not tell its last frame


@pytest.mark.parametrize(("every", "expected"), [(0.5, 8), (3.0, 2), (100.0, 1)])
def test_other_steps(tmp_path: Path, every: float, expected: int) -> None:
    frames, _ = read(draw_video(tmp_path / "v.mp4", TWO), every_s=every)
    assert times(frames) == [every * index for index in range(expected)]


def test_more_frames_than_allowed_are_spread(tmp_path: Path) -> None:
    frames, _ = read(draw_video(tmp_path / "v.mp4", [(RED, 9)]), most=3)
    assert times(frames) == [0, 3, 6]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_key_frames(tmp_path: Path, ending: str) -> None:
    path = draw_video(tmp_path / f"v.{ending}", [(RED, 4)], key_every=15)
    frames, found = read(path, every_s=0.0)
    assert found.error is None
    assert times(frames) == [0, 1.5, 3]
    assert times(read(path, every_s=0.0, most=2)[0]) == [0, 1.5]


def test_times_and_their_spread() -> None:
    assert frame_times(2.5, 1.0, 10) == [0, 1, 2]
    assert frame_times(3.0, 1.0, 10) == [0, 1, 2]
    assert frame_times(0.0, 1.0, 10) == [0]
    assert spread([1, 2, 3, 4, 5, 6], 3) == [1, 3, 5]
    assert len(frame_times(7200, 1.0, 2000)) == 2000


# --- Pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rotation", "corners"), [(90, "GWRB"), (180, "WBGR"), (270, "BRWG")])
def test_rotation_is_applied(tmp_path: Path, rotation: int, corners: str) -> None:
    stored = Image.new("RGB", (320, 160), RED)
    stored.paste(GREEN, (160, 0, 320, 80))
    stored.paste(BLUE, (0, 80, 160, 160))
    stored.paste(WHITE, (160, 80, 320, 160))
    frames, found = read(draw_video(tmp_path / "v.mov", [(stored, 1)], rotation=rotation))
    sideways = rotation != 180
    assert (header(found).width, header(found).height) == ((160, 320) if sideways else (320, 160))
    picture = Image.frombytes("RGB", (frames[0].width, frames[0].height), frames[0].pixels)
    names = {"R": RED, "G": GREEN, "B": BLUE, "W": WHITE}
    width, height = picture.size
    places = ((0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8))
    for name, (x, y) in zip(corners, places, strict=True):
        shown = picture.getpixel((int(x * width), int(y * height)))
        assert np.abs(np.array(shown) - np.array(names[name])).max() < NEAR, (name, shown)


def test_wide_pixels_make_a_wide_picture(tmp_path: Path) -> None:
    frames, found = read(draw_video(tmp_path / "v.mp4", [(RED, 1)], aspect=(2, 1)))
    assert (header(found).width, header(found).height) == (640, 240)
    assert frames[0].width / frames[0].height == pytest.approx(640 / 240, rel=0.02)


def test_frames_are_reduced_to_what_is_needed(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", [(Image.new("RGB", (1280, 720), GREEN), 1)])
    frames, found = read(path)
    assert (frames[0].width, frames[0].height) == (170, 96)
    assert header(found).width == 1280


def test_ten_bits_and_alpha(tmp_path: Path) -> None:
    deep, _ = read(draw_video(tmp_path / "deep.mp4", [(GREEN, 1)], pix_fmt="yuv420p10le"))
    assert is_near(deep[0], GREEN)
    path = tmp_path / "alpha.mov"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("qtrle", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "argb"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 4), np.uint8), format="rgba")
            file.mux(stream.encode(frame.reformat(format="argb")))
        file.mux(stream.encode(None))
    clear, _ = read(path)
    assert is_near(clear[0], WHITE)


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.58), (18, 0.75)])
def test_white_of_hdr_becomes_white(transfer: int, white: float) -> None:
    levels = (np.array([[0.0, white / 2, white, 1.0]]) * 65535).astype(np.uint16)
    grey = np.repeat(levels[..., None], 3, axis=2)
    shown = hdr_to_sdr(grey, hlg=transfer == 18, wide=True)[0, :, 0]
    assert shown[0] == 0
    assert 30 < shown[1] < 200
    assert 235 < shown[2] <= shown[3] <= 255


# --- Times ----------------------------------------------------------------------------------------


def test_a_variable_frame_rate_keeps_the_times_of_frames(tmp_path: Path) -> None:
    when = [0.0, 0.1, 2.3, 2.4, 7.0, 7.1]
    frames, found = read(draw_video(tmp_path / "v.mp4", [(RED, 0.4), (BLUE, 0.2)], times=when))
    assert found.error is None
    assert times(frames) == [0, 2.3, 7.0] or times(frames) == [0, 2.3, 2.4, 7.0]


def test_a_duration_that_is_not_told_or_a_lie(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mkv", TWO)
    data = path.read_bytes()
    at = data.index(b"\x44\x89") + 3  # the segment's duration, a double in milliseconds
    for claimed in (0.0, 1e9, 1000.0, float("nan")):
        path.write_bytes(data[:at] + np.array([claimed], ">f8").tobytes() + data[at + 8 :])
        frames, _ = read(path, most=50)
        assert times(frames)[:4] == [0, 1, 2, 3], claimed


def test_joined_streams_whose_timestamps_begin_anew(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.ts", TWO)
    path.write_bytes(path.read_bytes() * 3)
    frames, _ = read(path)
    assert len(frames) >= 4
    assert times(frames) == sorted(set(times(frames)))


def test_seeking_finds_what_decoding_all_finds(tmp_path: Path) -> None:
    scenes = [((20 * index, 255 - 20 * index, 128), 2.0) for index in range(10)]
    rare = draw_video(tmp_path / "rare.mp4", scenes, key_every=1000)  # one key frame: nothing to seek to
    dense = draw_video(tmp_path / "dense.mp4", scenes, key_every=10)
    for every in (1.0, 7.0):
        all_of_it, sought = read(rare, every_s=every)[0], read(dense, every_s=every)[0]
        assert times(all_of_it) == times(sought)
        for one, other in zip(all_of_it, sought, strict=True):
            assert np.abs(colour(one) - colour(other)).max() < 6


# --- Recognition ----------------------------------------------------------------------------------


def test_what_is_a_video_and_what_is_none(tmp_path: Path) -> None:
    for ending in ("mp4", "mov", "mkv", "webm", "avi", "mpg", "ts"):
        assert is_video(draw_video(tmp_path / f"v.{ending}", [(RED, 1)]).read_bytes()[:SNIFFED_BYTES]), ending
    heads = [make_image(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")]
    heads += [b"\0\0\0\x18ftyp" + brand + bytes(16) for brand in (b"heic", b"mif1", b"avif", b"crx ")]
    heads += [
        b"#EXTM3U\n#EXT-X-VERSION:3\nfile.ts\n",
        b'<?xml version="1.0"?><MPD></MPD>',
        b"ffconcat version 1.0\n",
        b"",
    ]
    assert not [head[:20] for head in heads if is_video(head)]


def test_a_photograph_with_a_video_behind_it_is_an_image(tmp_path: Path) -> None:
    video = draw_video(tmp_path / "v.mp4", [(RED, 1)]).read_bytes()
    assert not is_video((make_image() + video)[:SNIFFED_BYTES])


def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path) -> None:
    secret = draw_video(tmp_path / "secret.ts", TWO)
    path = tmp_path / "v.mp4"
    for text in (f"#EXTM3U\n#EXTINF:4,\n{secret}\n", f"ffconcat version 1.0\nfile {secret}\n"):
        path.write_text(text)
        for demuxer in ("mov", "matroska", "mpegts"):
            frames, found = read(path, demuxer=demuxer)
            assert not frames
            assert isinstance(found.error, DamagedVideoError)


# --- Damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "avi", "ts"])
def test_a_truncated_video_keeps_the_frames_before(tmp_path: Path, ending: str) -> None:
    options = {"movflags": "faststart"} if ending == "mp4" else {}
    noise = np.random.default_rng(0)
    scenes = [(noise.integers(0, 255, (120, 160, 3)).astype(np.uint8), 1.0) for _ in range(10)]
    path = cut(draw_video(tmp_path / f"v.{ending}", scenes, options=options), 0.55)
    frames, found = read(path)
    assert 3 <= len(frames) <= 7
    assert times(frames)[:3] == [0, 1, 2]
    if ending != "ts":  # which does not say how long it is
        assert isinstance(found.error, DamagedVideoError), found.error


def test_damage_in_the_middle_loses_no_more_than_it_hits(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    scenes = [(noise.integers(0, 255, (120, 160, 3)).astype(np.uint8), 1.0) for _ in range(10)]
    path = draw_video(tmp_path / "v.avi", scenes)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    frames, _ = read(path)
    assert times(frames)[:3] == [0, 1, 2]
    assert times(frames)[-1] >= 8


def test_a_container_without_its_index_or_with_its_header_only(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", TWO)
    data = path.read_bytes()
    for part in (data[: data.index(b"moov") - 4], data[:40], data[:8]):
        path.write_bytes(part)
        frames, found = read(path)
        assert not frames
        assert isinstance(found.error, DamagedVideoError), found.error


def test_zero_frames_and_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "empty.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        file.start_encoding()
    assert isinstance(read(path)[1].error, DamagedVideoError)
    sound = tmp_path / "sound.m4a"
    with av.open(str(sound), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert isinstance(read(sound)[1].error, NoVideoStreamError)


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    cover = io.BytesIO()
    Image.new("RGB", (64, 64), RED).save(cover, "JPEG")
    with av.open(str(path), "w", format="mp4") as file:
        sound = file.add_stream("aac", rate=8000)
        picture = file.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(packet)
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    assert isinstance(read(path)[1].error, NoVideoStreamError)


def test_random_damage_never_crashes_or_hangs(tmp_path: Path) -> None:
    noise = np.random.default_rng(1)
    for ending in ("mp4", "mkv", "avi"):
        path = draw_video(tmp_path / f"v.{ending}", TWO)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(2):
            hurt = data.copy()
            hurt[noise.integers(100, len(data), 60)] = noise.integers(0, 255, 60)
            path.write_bytes(hurt.tobytes())
            frames, found = read(path, most=20)
            assert len(frames) <= 20
            assert found.error is None or isinstance(found.error, DamagedVideoError | DecodeTooCostlyError), found.error


# --- Limits ---------------------------------------------------------------------------------------


def test_a_decoder_that_cannot_be_opened_ends_the_video(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "a.mp4", TWO, codec="libx265")
    data = path.read_bytes()
    begin = data.index(b"hvcC") + 4
    length = int.from_bytes(data[begin - 8 : begin - 4]) - 8
    kept = 23  # bytes before the parameter sets
    path.write_bytes(data[: begin + kept] + bytes([0xFF]) * (length - kept) + data[begin + length :])
    frames, result = read(path, frame_cpu_s=5)
    assert not frames
    assert isinstance(result.error, DamagedVideoError)


def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", TWO)
    frames, found = read(path, max_pixels=320 * 240 - 1)
    assert not frames
    assert isinstance(found.error, TooManyPixelsError)
    assert found.error.limit == 320 * 240 - 1
    assert read(path, max_pixels=320 * 240)[1].error is None


def test_a_process_without_memory_fails_by_name(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", [(Image.new("RGB", (4000, 3000), RED), 0.2)])
    _, found = read(path, memory_bytes=16_000_000)
    assert isinstance(found.error, DecodeTooCostlyError | DamagedVideoError), found.error


def test_what_is_appended_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.ts", TWO)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() * 2)
    assert times(read(path, byte_size=size)[0]) == [0, 1, 2, 3]


def test_a_frame_that_takes_too_long_ends_it_and_keeps_those_before(tmp_path: Path) -> None:
    """A hostile stream of frames that come to no second, read with a tiny limit."""
    noise = np.random.default_rng(0).integers(0, 60, (1088, 1920, 3)).astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
    path = tmp_path / "v.ts"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 1920, 1088, "yuv420p", 5_000_000
        encoded = bytes((stream.encode(picture) + stream.encode(None))[0])
        for number in range(300):
            packet = av.Packet(encoded)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 90_000), True
            packet.pts = packet.dts = 300 * number if number < 299 else 900_000
            file.mux(packet)
    frames, found = read(path, frame_cpu_s=1)
    assert isinstance(found.error, DecodeTooCostlyError), (found.error, times(frames))
    assert str(found.error).endswith("; open the video in another program and save a copy of it")
    assert times(frames) == [0]


def test_it_stops_when_cancelled(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(DecodeInterruptedError):
        read(draw_video(tmp_path / "v.mp4", TWO), cancel=cancel)


def test_a_silent_process_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "SILENT_S", 0.0)
    monkeypatch.setattr(helper, "POLL_S", 0.001)  # no process starts in so short a time
    _, found = read(draw_video(tmp_path / "v.mp4", TWO))
    assert isinstance(found.error, DecoderLostError)


def test_nonsense_from_the_process_is_refused() -> None:
    for line in (
        b"[]\n",
        b"nonsense\n",
        b'{"frame": [0, 100000, 100000]}\n',
        b'{"frame": [NaN, 1, 1]}\n',
        b'{"frame": [0, Infinity, 1]}\n',
        b'{"header": {"width": "wide", "height": 1, "codec": "h264", "duration_s": null, "tags": {}}}\n',
        b'{"header": {"width": 9e99, "height": 1, "codec": "h264", "duration_s": null, "tags": {}}}\n',
        b'{"header": {"width": 1, "height": 1, "codec": "h264", "duration_s": NaN, "tags": {}}}\n',
        b'{"header": {"width": 1, "height": 1, "codec": "h264", "duration_s": null, "tags": 7}}\n',
        b"[" * 100_000 + b"\n",
        b'{"end": {}}\n',
        b'{"end": {"error": [], "message": "", "values": {}}}\n',
    ):
        with pytest.raises(DecoderLostError):
            messages.read(io.BytesIO(line))
