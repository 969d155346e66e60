"""Lets a process of its own decode a costly image, which can be limited and stopped."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

from PIL import Image

from searchdb.errors import (
    DamagedImageError,
    DecodeError,
    DecodeInterruptedError,
    DecoderBusyError,
    DecoderLostError,
    DecodeTooCostlyError,
)
from searchdb.media.error_transfer import error_from_json, error_to_json
from searchdb.media.sandbox import NICENESS, start_helper
from searchdb.media.written.exif import Exif
from searchdb.records import WrittenMetadata

log = logging.getLogger(__name__)

CPU_S = 20
"""Processor time for one image of up to BUDGETED_PIXELS. An honest one takes 5 seconds at most on a machine of 2023."""
BUDGETED_PIXELS = 100_000_000
"""The budget of time grows with the pixels that the settings allow beyond this default."""
WALL_SURPLUS_S = 60
"""Seconds beyond its processor time that a helper may wait for a processor, which all others get first."""
HELPERS = 2
"""Helpers at a time in a process."""
POLL_S = 0.1
"""How often a waiting thread looks whether it is cancelled."""

_turns = threading.BoundedSemaphore(HELPERS)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a helper needs to know besides the bytes: the format's name, the arguments of `decode`, and its memory.

    `memory_bytes` is what it may allocate, besides the programs that it starts with.
    """

    name: str
    max_pixels: int
    needed: int | None
    memory_bytes: int


@contextmanager
def helper_turn(*, wait_s: float | None, cancel: threading.Event | None = None) -> Generator[None]:
    """Hold one of the HELPERS turns; wait for it up to `wait_s` seconds, or without limit.

    Raises:
        DecoderBusyError: none became free.
        DecodeInterruptedError: `cancel` was set.
    """
    deadline = math.inf if wait_s is None else time.monotonic() + wait_s
    while not _turns.acquire(timeout=POLL_S):
        if cancel is not None and cancel.is_set():
            raise DecodeInterruptedError
        if time.monotonic() >= deadline:
            raise DecoderBusyError
    try:
        yield
    finally:
        _turns.release()


def load_in_helper(
    task: Task, data: bytes, *, cancel: threading.Event | None = None, cpu_s: int | None = None
) -> tuple[Image.Image, Exif, tuple[int, int]]:
    """Return what `searchdb.media.image_reader.load` returns, from another process, and the full size of the image.

    `cpu_s` is the limit of processor time, by default CPU_S for each BUDGETED_PIXELS or fewer.

    Raises:
        DecodeError: as `open_image` raises it.
        DecodeTooCostlyError: it took too long, or too much memory.
        DamagedImageError: the data made the decoder crash.
        DecoderLostError: the process could not be started, was killed, or waited too long for a processor.
        DecodeInterruptedError: `cancel` was set.
    """
    limit_s = cpu_s or CPU_S * max(1, math.ceil(task.max_pixels / BUDGETED_PIXELS))
    settings = json.dumps({**asdict(task), "cpu_s": limit_s, "parent": os.getpid(), "niceness": NICENESS})
    process = start_helper(
        "searchdb.media.helper_process", settings, stdin=subprocess.PIPE, purpose=f"decode the {task.name}"
    )
    with process:
        # Not by `communicate`, which cannot go on with its input after a timeout.
        feeding = threading.Thread(target=_feed, args=(process.stdin, data), daemon=True)
        feeding.start()
        process.stdin = None
        try:
            answer, said = _answer(process, task.name, limit_s, cancel)
        finally:
            process.kill()
            feeding.join()
    if process.returncode == 0:
        return _unpacked(answer)
    if -process.returncode == signal.SIGXCPU:
        raise DecodeTooCostlyError(
            f"decoding the {task.name} takes more than {limit_s} seconds of processor time, which is the limit"
        )
    if -process.returncode == signal.SIGKILL:
        raise DecoderLostError(f"the process that decoded the {task.name} was killed: is the machine out of memory?")
    if said:
        log.warning("the process that decoded an image failed: %s", said.decode(errors="replace").splitlines()[-1])
    if process.returncode > 0:  # by an error of Python's or the linker's, as where they cannot load a library
        raise DecoderLostError(f"the process that decodes the {task.name} failed: see the log")
    raise DamagedImageError(f"the image data is corrupt ({task.name}: the decoder ended with {process.returncode})")


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with suppress(BrokenPipeError), pipe:  # it ended before it had read all
        pipe.write(data)


def _answer(
    process: subprocess.Popen[bytes], name: str, limit_s: int, cancel: threading.Event | None
) -> tuple[bytes, bytes]:
    """Wait for the process; return what it wrote to stdout and stderr."""
    wall_s = limit_s + WALL_SURPLUS_S
    deadline = time.monotonic() + wall_s
    while True:
        try:
            return process.communicate(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            if cancel is not None and cancel.is_set():
                raise DecodeInterruptedError from None
            if time.monotonic() > deadline:
                raise DecoderLostError(
                    f"the process that decodes the {name} was not ready after {wall_s} seconds: the machine is busy"
                ) from None


# --- The answer: a line of JSON, then the pixels --------------------------------------------------


def pack(pixels: Image.Image, exif: Exif, full_size: tuple[int, int]) -> tuple[bytes, bytes]:
    """Return the two parts of the answer with an image, whose full size is that before it was reduced."""
    values = {
        "size": pixels.size,
        "full_size": full_size,
        "orientation": exif.orientation,
        "written": exif.written.to_json(),
    }
    return json.dumps(values).encode() + b"\n", pixels.tobytes()


def pack_error(error: DecodeError) -> bytes:
    """Return the answer with an error."""
    return json.dumps(error_to_json(error)).encode() + b"\n"


def _unpacked(answer: bytes) -> tuple[Image.Image, Exif, tuple[int, int]]:
    end = answer.index(b"\n") + 1
    values: dict[str, Any] = json.loads(answer[:end])
    if "error" in values:
        raise error_from_json(values)
    exif = Exif(orientation=values["orientation"], written=WrittenMetadata.from_json(values["written"]))
    width, height = values["size"]
    full_width, full_height = values["full_size"]
    pixels = Image.frombytes("RGB", (width, height), memoryview(answer)[end:])
    return pixels, exif, (full_width, full_height)
