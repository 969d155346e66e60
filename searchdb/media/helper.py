"""Lets a process of its own decode a costly image, which can be limited and stopped."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import IO, Any

from PIL import Image

from searchdb.errors import DamagedImageError, DecodeError, DecodeInterruptedError, DecodeTooCostlyError
from searchdb.media.exif import Exif

log = logging.getLogger(__name__)

CPU_S = 20
"""Processor time for one image of up to BUDGETED_PIXELS. An honest one takes 5 seconds at most on a machine of 2023."""
BUDGETED_PIXELS = 100_000_000
"""The budget of time grows with the pixels that the settings allow beyond this default."""
WALL_FACTOR = 4
"""A helper that waits for processors, not for itself, has this many times its processor time to finish."""
MEMORY_BYTES = 3 * 1024**3
"""Address space of a helper: the programs it loads take 200 MB, an image of 100 megapixels up to 2 GB."""
POLL_S = 0.1
"""How often a waiting thread looks whether it is cancelled."""

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
"""The rest of the environment, with passwords and tokens, is not for a process that reads hostile files."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a helper needs to know besides the bytes: the format's name, and the arguments of `decode`."""

    name: str
    max_pixels: int
    needed: int | None


def load_in_helper(
    task: Task, data: bytes, *, cancel: threading.Event | None = None, cpu_s: int | None = None
) -> tuple[Image.Image, Exif]:
    """Return what `searchdb.media.image_reader.load` returns, from another process.

    `cpu_s` is the limit of processor time, by default CPU_S for each BUDGETED_PIXELS or fewer.

    Raises:
        DecodeError: as `open_image` raises it.
        DecodeTooCostlyError: it took too long, or too much memory.
        DamagedImageError: the data made the decoder crash.
        DecodeInterruptedError: `cancel` was set.
    """
    limit_s = cpu_s or CPU_S * max(1, math.ceil(task.max_pixels / BUDGETED_PIXELS))
    settings = json.dumps({**asdict(task), "cpu_s": limit_s, "memory_bytes": MEMORY_BYTES})
    try:
        # -P: modules are not taken from the current folder. A session of its own: Ctrl-C is for this process only.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "searchdb.media.helper_process", settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as exc:  # too many processes, or no memory for one
        error = DecodeTooCostlyError(f"no process can be started now to decode the {task.name} ({exc.strerror})")
        error.retryable = True
        raise error from exc
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
        raise _took_too_long(task.name, limit_s)
    if -process.returncode == signal.SIGKILL:
        raise DecodeTooCostlyError(f"the process that decoded the {task.name} was killed, probably for its memory")
    if said:
        log.warning("the process that decoded an image failed: %s", said.decode(errors="replace").splitlines()[-1])
    raise DamagedImageError(f"the image data is corrupt ({task.name}: the decoder ended with {process.returncode})")


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with suppress(BrokenPipeError), pipe:  # it ended before it had read all
        pipe.write(data)


def _answer(
    process: subprocess.Popen[bytes], name: str, limit_s: int, cancel: threading.Event | None
) -> tuple[bytes, bytes]:
    """Wait for the process; return what it wrote to stdout and stderr."""
    deadline = time.monotonic() + WALL_FACTOR * limit_s
    while True:
        try:
            return process.communicate(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            if cancel is not None and cancel.is_set():
                raise DecodeInterruptedError from None
            if time.monotonic() > deadline:
                raise _took_too_long(name, limit_s) from None


def _took_too_long(name: str, limit_s: int) -> DecodeTooCostlyError:
    return DecodeTooCostlyError(f"decoding the {name} takes more than {limit_s} seconds, which is the limit")


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # A thread per core would take address space for nothing.
    return kept | {"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path)), "OPENBLAS_NUM_THREADS": "1"}


# --- The answer: a line of JSON, then the pixels --------------------------------------------------


def pack(pixels: Image.Image, exif: Exif) -> tuple[bytes, bytes]:
    """Return the two parts of the answer with an image."""
    values = asdict(exif)
    values["taken_at"] = exif.taken_at and exif.taken_at.isoformat()
    return json.dumps({"size": pixels.size, "exif": values}).encode() + b"\n", pixels.tobytes()


def pack_error(error: DecodeError) -> bytes:
    """Return the answer with an error."""
    return json.dumps({"error": type(error).__name__, "message": str(error), "values": vars(error)}).encode() + b"\n"


def _unpacked(answer: bytes) -> tuple[Image.Image, Exif]:
    end = answer.index(b"\n") + 1
    values: dict[str, Any] = json.loads(answer[:end])
    if "error" in values:
        kinds = {kind.__name__: kind for kind in DecodeError.__subclasses__()}
        kind = kinds[values["error"]]
        error = kind.__new__(kind, values["message"])  # not __init__, whose parameters differ
        vars(error).update(values["values"])
        raise error
    exif = values["exif"]
    exif["taken_at"] = exif["taken_at"] and datetime.fromisoformat(exif["taken_at"])
    width, height = values["size"]
    return Image.frombytes("RGB", (width, height), memoryview(answer)[end:]), Exif(**exif)
