"""What the process that reads a video tells its parent: a line of JSON for each message, a frame's pixels behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from searchdb.errors import DecodeError, DecoderLostError
from searchdb.media.error_transfer import error_from_json, error_to_json

MOST_LINE_BYTES = 256 * 1024
"""Longest line of JSON: the tags of a container, MOST_TAGS of MOST_TAG_CHARACTERS, are less."""
MOST_TAGS, MOST_TAG_CHARACTERS = 64, 2000
"""Tags of a container that are looked at, and characters of each."""
MOST_SIDE = 2**31 - 1
"""Longest side of a video in pixels: the largest number that the columns hold."""
MOST_FRAME_PIXELS = 4_000_000
"""Pixels of a reduced frame: those of 2,000 x 2,000, which only an odd shape or a large model needs."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to read: the file is the process's standard input.

    Args:
        demuxer: FFmpeg's name of the container, which is not guessed again.
        byte_size: bytes of the file that are read; what is appended meanwhile is not.
        every_s: seconds between two frames, or KEY_FRAMES.
        most: number of frames at most; 0 for what the container says only.
        shorter_side, longer_side: pixels that a reduced frame has at least, where the video has them.
        max_pixels: the largest frame decoded, in pixels.
        memory_bytes: what may be allocated.
        frame_cpu_s: processor time until the next frame.
        parent: its process id.
    """

    demuxer: str
    byte_size: int
    every_s: float
    most: int
    shorter_side: int
    longer_side: int
    max_pixels: int
    memory_bytes: int
    frame_cpu_s: int
    parent: int

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """What a video says of itself; width and height are those of the upright picture with square pixels.

    `duration_s` is None if it is unknown; `tags` are the container's, with lower-case names.
    """

    width: int
    height: int
    codec: str
    duration_s: float | None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class Alive:
    """The process is at work: it looks for the next frame."""


@dataclass(frozen=True, kw_only=True)
class RawFrame:
    """One reduced frame: RGB bytes, and its presentation time in seconds from the start."""

    time: float
    width: int
    height: int
    pixels: bytes


@dataclass(frozen=True, kw_only=True)
class End:
    """There are no more frames; `error` says why, if that is not because the video ends."""

    error: DecodeError | None = None


Message = VideoHeader | Alive | RawFrame | End


def write(file: IO[bytes], message: Message) -> None:
    """Write a message."""
    pixels = b""
    match message:
        case VideoHeader():
            values = {"header": asdict(message)}
        case RawFrame():
            pixels = message.pixels
            values = {"frame": [message.time, message.width, message.height]}
        case Alive():
            values = {"alive": True}
        case End():
            values = {"end": None if message.error is None else error_to_json(message.error)}
    file.write(json.dumps(values).encode() + b"\n")
    file.write(pixels)
    file.flush()


def read(file: IO[bytes]) -> Message | None:
    """Return the next message; None at the end of the file.

    Raises:
        DecoderLostError: it is malformed, as only a process writes that a hostile file controls.
    """
    line = file.readline(MOST_LINE_BYTES)
    if not line.endswith(b"\n"):
        return None
    try:
        return _parsed(json.loads(line), file)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as exc:
        raise DecoderLostError("the process that reads the video sent a malformed answer") from exc


def _parsed(values: dict[str, Any], file: IO[bytes]) -> Message | None:
    if "frame" in values:
        time, width, height = float(values["frame"][0]), int(values["frame"][1]), int(values["frame"][2])
        size = 3 * width * height
        if not (math.isfinite(time) and time >= 0 and width > 0 and height > 0 and size <= 3 * MOST_FRAME_PIXELS):
            raise ValueError("a frame of no size or time")
        pixels = file.read(size)
        return RawFrame(time=time, width=width, height=height, pixels=pixels) if len(pixels) == size else None
    if "header" in values:
        return _header(values["header"])
    if "alive" in values:
        return Alive()
    told = values["end"]
    return End(error=None if told is None else error_from_json(told))


def _header(told: dict[str, Any]) -> VideoHeader:
    width, height, duration_s = int(told["width"]), int(told["height"]), told["duration_s"]
    duration_s = None if duration_s is None else float(duration_s)
    if not (0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE) or not 0 <= (duration_s or 0) < math.inf:
        raise ValueError("a video of no size or duration")
    tags = {str(name): str(value) for name, value in dict(told["tags"]).items()}
    return VideoHeader(width=width, height=height, codec=str(told["codec"]), duration_s=duration_s, tags=tags)
