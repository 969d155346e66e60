"""The process that reads one video: the file is its standard input, the messages go to standard output."""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import sys
import time
from typing import IO, Any

from searchdb.errors import DamagedVideoError, DecodeError, DecodeTooCostlyError, ExtraMissingError
from searchdb.media.sandbox import enter_sandbox
from searchdb.video.messages import Alive, End, RawFrame, Task, VideoHeader, write
from searchdb.video.sampling import KEY_FRAMES, frame_times, spread

ALIVE_S = 1.0
"""Seconds between two messages that the process is at work."""


class BoundedFile(io.RawIOBase):
    """The first bytes of a regular file, whatever is appended to it, with a position of its own."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def seekable(self) -> bool:
        """Whether it has a position: it has."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, which may be behind the end, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, fewer at the end; all that are left if it is negative."""
        left = max(0, self._size - self._position)
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._position)
        self._position += len(data)
        return data


def main() -> None:
    """Limit this process, then read."""
    task = Task(**json.loads(sys.argv[1]))
    _grant_processor_time(task)
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # whatever a library prints is not an answer
    error: DecodeError | None = None
    try:
        _import_libraries()
        enter_sandbox(parent=task.parent, memory_bytes=task.memory_bytes)
        _read(task, answers)
    except MemoryError:
        limit = f"{task.memory_bytes:,} bytes of memory"
        error = DecodeTooCostlyError(f"reading the video takes more than {limit}, which is the limit", kind="video")
    except DecodeError as exc:
        error = exc
    write(answers, End(error=error))


def _import_libraries() -> None:
    """Import what takes memory that is not for the video."""
    try:
        import av.logging
    except ImportError as exc:
        raise ExtraMissingError("videos", "video") from exc
    for name in ("pixels", "reader"):
        importlib.import_module(f"searchdb.video.{name}")
    av.logging.set_level(None)


def _read(task: Task, answers: IO[bytes]) -> None:
    from searchdb.video.pixels import display_matrix, display_size, reduced_size, swaps_sides, to_rgb, upright
    from searchdb.video.reader import VideoReader

    told = time.monotonic()

    def alive() -> None:
        nonlocal told
        if time.monotonic() - told > ALIVE_S:
            told = time.monotonic()
            write(answers, Alive())

    file: Any = BoundedFile(0, task.byte_size)
    reader = VideoReader(file, task.demuxer, max_pixels=task.max_pixels, alive=alive)
    if not task.most:  # only what the container says
        width, height = display_size(*reader.size, reader.aspect)
        write(answers, VideoHeader(width=width, height=height, codec=reader.codec, duration_s=None, tags=reader.tags))
        return
    only_keys = task.every_s == KEY_FRAMES
    extent = reader.measure(keys=only_keys)
    if only_keys:
        times = spread(extent.keys or [0.0], task.most)
    else:
        times = frame_times(extent.duration_s, task.every_s, task.most)
    count = 0
    for moment, frame in reader.frames(times, extent, only_keys=only_keys):
        shown = display_size(frame.width, frame.height, reader.aspect)
        matrix = display_matrix(frame)
        if not count:
            width, height = shown[::-1] if swaps_sides(matrix) else shown
            header = VideoHeader(
                width=width, height=height, codec=reader.codec, duration_s=extent.duration_s, tags=reader.tags
            )
            write(answers, header)
        size = reduced_size(shown, shorter_side=task.shorter_side, longer_side=task.longer_side)
        pixels = upright(to_rgb(frame, size), matrix)
        count += 1
        write(answers, RawFrame(time=moment, width=pixels.shape[1], height=pixels.shape[0], pixels=pixels.tobytes()))
        _grant_processor_time(task)
    if extent.truncated_of_s is not None:
        raise DamagedVideoError(
            f"the video is truncated: it ends after {extent.duration_s:,.1f} of {extent.truncated_of_s:,.1f} seconds"
        )
    if reader.damage is not None:
        raise DamagedVideoError(f"the video is damaged: {reader.damage}")
    if not count:
        raise DamagedVideoError("the video holds no pictures that can be decoded")


def _grant_processor_time(task: Task) -> None:
    """Allow the processor time of one more frame."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + task.frame_cpu_s
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
