"""Finds a video's frames at given times with PyAV: it seeks where that decodes less, and decodes on where it does not.

Runs in a process of its own (`searchdb.video.helper_process`).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import IO, Any

import av
import av.error
from av.stream import Discard, Disposition

from searchdb.errors import DamagedVideoError, NoVideoStreamError, TooManyPixelsError
from searchdb.video.messages import MOST_TAG_CHARACTERS, MOST_TAGS
from searchdb.video.timeline import Timeline

MOST_STREAMS = 100
"""Streams of a file: a film on a disc has 30 with all its languages and subtitles."""
BUFFER_BYTES = 1 << 18
"""Bytes read at a time."""
LONGEST_S = 30 * 86_400.0
"""Longest duration that is believed without reading the whole video."""
SEEK_GAIN_FRAMES = 8
"""Frames that a seek must save: it empties the decoder, and reads elsewhere in the file."""
UNKNOWN_GAP_S = 10.0
"""Seconds between key frames where no index tells: encoders rarely leave more."""
END_PACKETS = 3000
"""Packets read from just before the end that a container claims, to check it: two minutes of 25 frames a second."""
TOLERANCE_S, TOLERANCE = 1.0, 0.02
"""Seconds, or share of the duration, by which a video may end earlier than its container claims."""
MOST_HEALING_FRAMES = 600
"""Frames passed over after a seek or damage while waiting for a key frame; streams that refresh gradually have none."""
EARLY_S = 0.002
"""A frame that is this much before the time asked for is still the one: times such as 1001/30000 are rounded."""
SPARE_FRAMES = 8
"""Frames to choose from for each time, from which on frames that no other depends on are not decoded at all."""

_DECODE_ERRORS = (av.error.FFmpegError, ValueError, OverflowError)
"""What PyAV raises about packets and frames; its MemoryError is treated apart."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How long a stream is: `truncated_of_s` is what its container claims, if less of it is there.

    `keys` are the times of its key frames, None where only a scan would tell.
    """

    duration_s: float
    truncated_of_s: float | None = None
    keys: Sequence[float] | None = None


class VideoReader:
    """One open video.

    Args:
        file: the bytes; no other file is opened.
        demuxer: FFmpeg's name of the container.
        max_pixels: the largest frame decoded, in pixels.
        alive: called now and then while frames are passed over.

    Raises:
        NoVideoStreamError: it has no video.
        TooManyPixelsError: its frames have more than `max_pixels`.
        DamagedVideoError: its structure cannot be read.
    """

    def __init__(self, file: IO[bytes], demuxer: str, *, max_pixels: int, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._max_pixels = max_pixels
        self.damage: str | None = None
        """What was found to be corrupt on the way, None if nothing."""
        self._file = file
        self._demuxer = demuxer
        self._reached_s = 0.0
        self._open()

    def _open(self) -> None:
        """Open the file; again to start from the beginning, because not every demuxer can seek to its first frame."""
        self._file.seek(0)
        # The demuxer is given, so that no playlist is; what it would open itself needs a protocol, and it has none.
        options = {"protocol_whitelist": "none", "max_streams": str(MOST_STREAMS)}
        try:
            self._container: Any = av.open(
                self._file, format=self._demuxer, options=options, buffer_size=BUFFER_BYTES, metadata_errors="replace"
            )
        except _DECODE_ERRORS as exc:
            _raise_memory_error(exc)
            raise DamagedVideoError(f"the video cannot be opened: {_reason(exc)}") from exc
        self._stream: Any = self._first_stream()
        self._prepare_decoder()
        self._start_s = self._start()
        self._timeline = self._new_timeline()

    # --- what it is -----------------------------------------------------------------------------

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec, such as h264."""
        return str(self._stream.codec_context.codec.canonical_name)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the stored frames."""
        return self._stream.codec_context.width, self._stream.codec_context.height

    @property
    def aspect(self) -> Fraction | None:
        """Ratio of a stored pixel's width to its height; None if unknown."""
        return self._stream.sample_aspect_ratio or None

    @property
    def frame_s(self) -> float:
        """Seconds from one frame to the next, on average."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return 0.04 if not rate or not 0.01 <= rate <= 1000 else float(1 / rate)

    @property
    def tags(self) -> dict[str, str]:
        """The container's tags and those of the stream, with lower-case names, cut to a sensible length."""
        both = {**self._stream.metadata, **self._container.metadata}
        return {
            str(name).lower()[:100]: str(value)[:MOST_TAG_CHARACTERS] for name, value in islice(both.items(), MOST_TAGS)
        }

    def measure(self, *, keys: bool) -> Extent:
        """Find out how long it is, and with `keys` where its key frames are.

        The container's own word is checked at the end that it claims; otherwise all packets are read, not decoded.

        Raises:
            DamagedVideoError: there are no packets.
        """
        claimed = self._claimed_s()
        believed = claimed is not None and claimed <= LONGEST_S and self._ends_at(claimed)
        indexed = self._indexed_keys()
        if believed and claimed is not None and (indexed is not None or not keys):
            return Extent(duration_s=claimed, keys=indexed)
        end, scanned = self._scan()
        if end is None:
            raise DamagedVideoError("the video holds no pictures: it is empty, or truncated before the first one")
        truncated = (
            claimed if claimed is not None and claimed <= LONGEST_S and self._falls_short(end, claimed) else None
        )
        return Extent(duration_s=end, truncated_of_s=truncated, keys=scanned)

    def _first_stream(self) -> Any:
        for stream in self._container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                break
        else:
            raise NoVideoStreamError("the file has no video, only sound or other data")
        if stream.codec_context is None:
            raise DamagedVideoError("the video is in a codec that is not known")
        for other in self._container.streams:
            if other is not stream:
                other.discard = Discard.all
        return stream

    def _prepare_decoder(self) -> None:
        context = self._stream.codec_context
        width, height = context.width, context.height
        if width <= 0 or height <= 0:
            raise DamagedVideoError("the video does not tell its size: it is empty, or corrupt")
        self._check_pixels(width, height)
        context.thread_count = 1  # more take as much memory each, and share the processor time that is given
        context.options = {"max_pixels": str(self._max_pixels)}

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise TooManyPixelsError(width, height, self._max_pixels)

    def _start(self) -> float:
        """Return the time at which players begin: negative ones are those of sound that is cut off."""
        start = self._container.start_time
        if start is not None:
            return max(0.0, start / av.time_base)
        start = self._stream.start_time
        return 0.0 if start is None else max(0.0, float(start * self._stream.time_base))

    def _new_timeline(self) -> Timeline:
        base = float(self._stream.time_base or Fraction(1, 90_000))
        return Timeline(time_base=base, start_s=self._start_s, step_s=self.frame_s)

    def _length(self, packet: Any) -> float:
        """Return the seconds that a packet's frame is shown."""
        return float(packet.duration * self._stream.time_base) if packet.duration else self.frame_s

    def _claimed_s(self) -> float | None:
        """Return the duration that the container claims; None if it does not, or nothing sensible."""
        duration = self._stream.duration
        seconds = None if duration is None else float(duration * self._stream.time_base)
        if self._demuxer == "avi" and seconds is not None:  # FFmpeg shortens it where the file is truncated
            seconds = max(seconds, self._stream.frames * self.frame_s)
        if seconds is None or seconds <= 0:
            total = self._container.duration
            seconds = None if total is None else total / av.time_base
        return seconds if seconds is not None and seconds > 0 else None

    def _falls_short(self, end: float, claimed: float) -> bool:
        return end < claimed - max(TOLERANCE_S, TOLERANCE * claimed)

    def _ends_at(self, claimed: float) -> bool:
        """Whether packets are there until the end that the container claims, and none beyond."""
        end = 0.0
        try:
            self._seek(max(0.0, claimed - TOLERANCE_S))
            for number, packet in enumerate(self._packets()):
                timestamp = packet.pts if packet.pts is not None else packet.dts
                if timestamp is not None and not packet.is_corrupt:
                    start = float(timestamp * self._stream.time_base) - self._start_s
                    end = max(end, start + self._length(packet))
                if number > END_PACKETS or end > claimed + max(TOLERANCE_S, TOLERANCE * claimed):
                    return False
        except _DECODE_ERRORS as exc:
            _raise_memory_error(exc)
            return False
        return not self._falls_short(end, claimed)

    def _indexed_keys(self) -> list[float] | None:
        """Return the times of the key frames from the container's index, None without one. An MP4's is complete."""
        if self._demuxer not in ("mov", "matroska", "avi"):
            return None
        base = self._stream.time_base
        keys = [float(e.timestamp * base) - self._start_s for e in self._stream.index_entries if e.is_keyframe]
        return sorted({max(0.0, key) for key in keys}) if len(keys) > 1 or self._demuxer == "mov" else None

    def _scan(self) -> tuple[float | None, list[float]]:
        """Read all packets; return where the last one ends, None without any, and the times of the key frames."""
        timeline = self._new_timeline()
        end: float | None = None
        keys: list[float] = []
        self._open()
        try:
            for packet in self._packets():
                if packet.is_corrupt:
                    continue
                # In the order of decoding, which only the times of decoding follow.
                time = timeline.at(packet.dts if packet.dts is not None else packet.pts)
                end = max(end or 0.0, time + self._length(packet))
                if packet.is_keyframe:
                    keys.append(time)
        except _DECODE_ERRORS as exc:
            _raise_memory_error(exc)
            self.damage = f"it breaks off after {end or 0.0:,.1f} seconds: {_reason(exc)}"
        return end, keys

    # --- frames ---------------------------------------------------------------------------------

    def frames(self, times: Sequence[float], extent: Extent, *, only_keys: bool) -> Iterator[tuple[float, Any]]:
        """Yield the first frame at or after each of the times, with its own time; each frame once.

        Frames that cannot be decoded are passed over, and `damage` tells of them.
        """
        self._open()
        self._timeline.latest_s = extent.duration_s
        context = self._stream.codec_context
        if only_keys:
            context.skip_frame = "NONKEY"
        elif len(times) > 1 and (times[1] - times[0]) / self.frame_s >= SPARE_FRAMES:
            context.skip_frame = "NONREF"
        position = -1.0
        decoded = self._decoded(healing=False)
        for time in times:
            if time - EARLY_S <= position:
                continue
            if position >= 0 and self._seek_pays(position, time, extent.keys) and self._try_seek(time):
                decoded = self._decoded(healing=True)
            for position, frame in decoded:
                self._reached_s = position
                if position >= time - EARLY_S:
                    yield position, frame
                    break
            else:
                if self.damage is None or not self._try_seek(time):
                    return
                decoded = self._decoded(healing=True)  # behind the damage

    def _seek_pays(self, position: float, time: float, keys: Sequence[float] | None) -> bool:
        if self._timeline.shifted:
            return False
        if not keys:
            return time - position > UNKNOWN_GAP_S
        key = keys[max(0, bisect.bisect_right(keys, time) - 1)]
        return (key - position) / self.frame_s > SEEK_GAIN_FRAMES

    def _try_seek(self, time: float) -> bool:
        try:
            self._seek(time)
        except _DECODE_ERRORS as exc:
            _raise_memory_error(exc)
            return False
        return True

    def _seek(self, time: float) -> None:
        self._container.seek(int((time + self._start_s) / self._stream.time_base), stream=self._stream)
        self._timeline.reset()

    def _packets(self) -> Iterator[Any]:
        for packet in self._container.demux(self._stream):
            self._alive()
            if packet.size:
                yield packet

    def _decoded(self, *, healing: bool) -> Iterator[tuple[float, Any]]:
        """Decode from here on; while `healing`, frames before the next key frame are passed over."""
        passed = 0
        packets = self._packets()
        packet: Any = None
        while True:
            try:
                packet = next(packets, None)
                frames = self._stream.codec_context.decode(packet)
            except EOFError:
                return
            except _DECODE_ERRORS as exc:
                _raise_memory_error(exc)
                self.damage = self.damage or f"it is corrupt after {self._reached_s:,.1f} seconds: {_reason(exc)}"
                if packet is None:  # at the end: the decoder cannot be opened, or cannot give what it holds
                    return
                healing, passed = True, 0
                continue
            for frame in frames:
                time = self._timeline.at(frame.pts)
                if frame.is_corrupt or (healing and not frame.key_frame and passed < MOST_HEALING_FRAMES):
                    passed += 1
                    continue
                healing = False
                self._check_pixels(frame.width, frame.height)
                yield time, frame
            if packet is None:
                return


def _raise_memory_error(exc: BaseException) -> None:
    if isinstance(exc, MemoryError):
        raise exc


def _reason(exc: BaseException) -> str:
    """Return FFmpeg's own words, without numbers and file names."""
    return str(getattr(exc, "strerror", None) or type(exc).__name__).lower()
