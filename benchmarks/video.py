"""How fast are frames of videos read? By seeking and by decoding all, side by side, for several key frame distances."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import av
import numpy as np

from benchmarks.report import interleaved, table
from searchdb.video import reader
from searchdb.video.helper_process import BoundedFile
from searchdb.video.reader import VideoReader
from searchdb.video.sampling import frame_times

LENGTH_S, QUICK_LENGTH_S = 240, 24
SIZE, RATE = (1280, 720), 25
KEY_DISTANCES_S: Mapping[str, int] = {"a key frame a second": 1, "every 4 seconds": 4, "every 10 seconds": 10}
STEPS_S = (1, 10)
ROUNDS, QUICK_ROUNDS = 3, 2


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and tables of them: seconds of video read in a second, in one process on one core."""
    length = QUICK_LENGTH_S if quick else LENGTH_S
    figures: dict[str, float] = {}
    rows: dict[str, str] = {}
    for title, distance in KEY_DISTANCES_S.items():
        path = home / f"{distance}.mp4"
        _draw(path, length, distance)
        for step in STEPS_S:
            sides = {
                "seek": lambda path=path, step=step: _read(path, step),
                "all": lambda path=path, step=step: _read_without_seeking(path, step),
            }
            seconds = interleaved(sides, QUICK_ROUNDS if quick else ROUNDS)
            rates = {name: length / value for name, value in seconds.items()}
            figures |= {f"video_{name}_{distance}_{step}_per_s": rate for name, rate in rates.items()}
            ratio = f"{rates['seek'] / rates['all']:.1f} times as fast"
            rows[f"{title}, one frame every {step} s"] = (
                f"{rates['seek']:,.0f} x real time, {ratio} as decoding all ({rates['all']:,.0f} x)"
            )
    width, height = SIZE
    return figures, table(f"videos, H.264, {width} x {height}, {RATE} frames/s, {length} s, one core", rows)


def _read(path: Path, step: float) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file = BoundedFile(descriptor, path.stat().st_size)
        video = VideoReader(file, "mov", max_pixels=10**8, alive=lambda: None)  # pyright: ignore[reportArgumentType]
        extent = video.measure(keys=False)
        times = frame_times(extent.duration_s, step, 10_000)
        return sum(1 for _ in video.frames(times, extent, only_keys=False))
    finally:
        os.close(descriptor)


def _read_without_seeking(path: Path, step: float) -> int:
    with mock.patch.object(reader, "SEEK_GAIN_FRAMES", float("inf")):
        return _read(path, step)


def _draw(path: Path, length: int, distance: int) -> None:
    """Write a video of a picture that moves, with some noise, so that it takes as long to decode as a real one."""
    width, height = SIZE
    noise = np.random.default_rng(0)
    wide = noise.integers(0, 255, (height // 16, width // 8, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    grain = noise.integers(0, 8, (8, height, width, 1), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = distance * RATE
        stream.options = {"preset": "veryfast", "sc_threshold": "0"}
        for number in range(length * RATE):
            left = number * 2 % width
            picture = wide[:, left : left + width] ^ grain[number % 8]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        file.mux(stream.encode(None))
