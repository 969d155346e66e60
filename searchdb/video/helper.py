"""Lets a process of its own read a video, and hands over its frames one by one; it can be limited and stopped."""

from __future__ import annotations

import io
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from searchdb.errors import (
    DamagedVideoError,
    DecodeError,
    DecodeInterruptedError,
    DecoderLostError,
    DecodeTooCostlyError,
)
from searchdb.media.sandbox import start_helper
from searchdb.video.messages import Alive, End, Message, RawFrame, Task, VideoHeader, read

FRAME_CPU_S = 60
"""Processor time until the next frame: of 4K with a key frame every ten seconds, one takes 30 on a core of 2023."""
SILENT_S = 120.0
"""Longest wait for a message: a busy machine, or a network share that spins up a disk, takes a minute."""
EXIT_S = 10.0
"""Seconds that a process may take to end after its last message."""
KEPT_ERROR_BYTES = 10_000
"""Bytes of the end of its stderr that are kept for the log."""
POLL_S = 0.1
"""How often a waiting thread looks whether it is cancelled."""

log = logging.getLogger(__name__)


class VideoFrames:
    """The frames of one video, as they come; iterate once.

    `error` says, after the last frame, why there are no more, if that is not because the video ends.
    """

    def __init__(
        self, answers: IO[bytes], error_output: _ErrorOutput, process: subprocess.Popen[bytes], task: Task
    ) -> None:
        self._answers = answers
        self._error_output = error_output
        self._process = process
        self._task = task
        self.header: VideoHeader | None = None
        """What the video says of itself; set with the first frame."""
        self.error: DecodeError | None = None

    def __iter__(self) -> Iterator[RawFrame]:
        count = 0
        while True:
            try:
                message = self._next()
            except DecoderLostError as exc:
                self.error = exc
                return
            if isinstance(message, VideoHeader):
                self.header = message
            elif isinstance(message, RawFrame) and count < self._task.most:
                count += 1
                yield message
            elif not isinstance(message, Alive):
                self.error = message.error if isinstance(message, End) else self._cause_of_death()
                return

    def read_header(self) -> VideoHeader | None:
        """Return what the video says of itself, without its frames; None where it cannot be opened."""
        for _ in self:
            break
        return self.header

    def _next(self) -> Message | None:
        return read(self._answers)

    def _cause_of_death(self) -> DecodeError:
        """Return why the process ended without a last message."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_S)  # a kill before would hide the cause
        self._process.kill()
        code = self._process.wait()
        said = self._error_output.text()
        if -code == signal.SIGXCPU:
            return DecodeTooCostlyError(
                f"reading a frame of the video takes more than {self._task.frame_cpu_s} seconds of processor time, "
                "which is the limit",
                kind="video",
            )
        if -code == signal.SIGKILL:
            return DecoderLostError("the process that read the video was killed: is the machine out of memory?")
        if said:
            log.warning("the process that read a video failed: %s", said.splitlines()[-1])
        if code >= 0:
            return DecoderLostError("the process that reads the video failed: see the log")
        return DamagedVideoError(f"the video is corrupt: the decoder ended with {code}")


@contextmanager
def open_frames(descriptor: int, task: Task, *, cancel: threading.Event | None = None) -> Generator[VideoFrames]:
    """Start a process that reads the file, and end it at the end of the block.

    Raises:
        DecodeInterruptedError: while frames are read: `cancel` was set.
        DecoderLostError: the process could not be started.
    """
    process = start_helper("searchdb.video.helper_process", task.to_json(), stdin=descriptor, purpose="read the video")
    with process:
        assert process.stdout is not None and process.stderr is not None  # noqa: PT018, S101 - pipes
        pipe: Any = _Pipe(process.stdout.fileno(), cancel)
        error_output = _ErrorOutput(process.stderr)
        try:
            yield VideoFrames(io.BufferedReader(pipe, 1 << 20), error_output, process, task)
        finally:
            process.kill()
            error_output.join()


class _ErrorOutput:
    """The end of what a process writes to stderr, which is read all the time: a full pipe would block the process."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._end = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._pipe.fileno(), 1 << 16):
            self._end = (self._end + data)[-KEPT_ERROR_BYTES:]

    def join(self) -> None:
        """Wait for the end of the process, which was killed."""
        self._thread.join()

    def text(self) -> str:
        """Return the end, after the process has ended."""
        self._thread.join()
        return self._end.decode(errors="replace").strip()


class _Pipe(io.RawIOBase):
    """A pipe whose reads end when the process is silent for too long, or reading is cancelled."""

    def __init__(self, descriptor: int, cancel: threading.Event | None) -> None:
        self._descriptor = descriptor
        self._cancel = cancel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        deadline = time.monotonic() + SILENT_S
        poll = select.poll()  # unlike select, it takes any descriptor
        poll.register(self._descriptor, select.POLLIN)
        while not poll.poll(1000 * POLL_S):
            if self._cancel is not None and self._cancel.is_set():
                raise DecodeInterruptedError
            if time.monotonic() > deadline:
                raise DecoderLostError(
                    f"the process that reads the video said nothing for {SILENT_S:.0f} seconds: the machine, or the "
                    "disk, is busy"
                )
        if self._cancel is not None and self._cancel.is_set():
            raise DecodeInterruptedError
        return os.readv(self._descriptor, [buffer])
