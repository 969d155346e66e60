"""Takes one video through download, hash, decode and embed, a few frames in memory at a time."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol, TypeVar

from PIL import Image
from sqlalchemy import Engine

from searchdb.batches import batched
from searchdb.embedder import Embedder
from searchdb.errors import (
    DamagedVideoError,
    DecodeInterruptedError,
    ExtraMissingError,
    FileUnreadableError,
    ImageError,
    InvalidReferenceError,
    NotAnImageError,
)
from searchdb.ingest.companions import read_companions
from searchdb.ingest.moves import find_moves
from searchdb.ingest.second_model import SecondModel
from searchdb.ingest.video_store import StoredFrame, VideoFacts, VideoOutcome, frames_with_content
from searchdb.media.fetch import Fetcher
from searchdb.media.formats import SNIFFED_BYTES, is_extra_installed
from searchdb.media.hashing import descriptor_sha256
from searchdb.media.pixels import mean_colour
from searchdb.media.regular_file import open_regular, unreadable
from searchdb.media.thumbnails import LONGEST_SIDE, make_thumbnail
from searchdb.records import MAX_REFERENCE_BYTES, FailedImage, SourceItem, WrittenMetadata
from searchdb.video.helper import FRAME_CPU_S, open_frames
from searchdb.video.messages import RawFrame, Task
from searchdb.video.recognition import demuxer_of
from searchdb.video.sampling import DEFAULT_EVERY_S
from searchdb.video.tags import written_in

T = TypeVar("T")

SAME_FRAME = 0.97
"""Cosine to the last kept frame above which a frame shows nothing new: see docs/videos.md for what was measured."""
BATCH = 16
"""Frames embedded at a time: other chunks wait no longer than that for the model."""
SHARPNESS = 2
"""Shorter side of a frame, as a multiple of what the model needs: it scales the frame itself then."""
SUFFIX_BYTES = 16
"""Longest ending of a frame's reference, like `#t=86400.125`."""


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """The settings for videos: frames of each, bytes of a download, pixels of a frame and memory of the decoder."""

    frames: int
    bytes: int
    pixels: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class _HashedFile:
    item: SourceItem
    sha256: bytes


class Retry(Protocol):
    """Calls a function that uses the database until that answers."""

    def __call__(self, call: Callable[[], T], /) -> T:
        """Return what the function returns."""
        ...


class VideoReading:
    """Reads videos for one ingest; several threads may do so at the same time.

    Args:
        engine: the database, for videos with the same bytes.
        embedder: the model.
        embedding: held while the model runs.
        fetcher: downloads URLs.
        downloads: the folder for downloads.
        limits: the settings.
        retry: survives outages of the database.
        stopping: ends what takes long when it is set.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        embedder: Embedder,
        embedding: threading.Lock,
        fetcher: Fetcher,
        downloads: Path,
        limits: VideoLimits,
        retry: Retry,
        stopping: threading.Event,
    ) -> None:
        self._engine = engine
        self._embedder = embedder
        self._embedding = embedding
        self._fetcher = fetcher
        self._downloads = downloads
        self._limits = limits
        self._retry = retry
        self._stopping = stopping

    def read(self, item: SourceItem, second: SecondModel | None = None) -> VideoOutcome | None:
        """Return what a video shows, or why it cannot be read; None if the ingest was stopped meanwhile.

        Its frames get the vectors of a `second` model, too; those copied of a stored video do not.
        """
        try:
            _check(item)
            with self._open(item) as file:
                return self._read(item, file, second)
        except DecodeInterruptedError:
            return None
        except ImageError as exc:
            return VideoOutcome(item=item, failure=FailedImage.of(item, exc))

    def _open(self, item: SourceItem) -> AbstractContextManager[IO[bytes]]:
        if not item.is_url:
            return open_regular(item.image)
        return self._fetcher.download(item, self._downloads, max_bytes=self._limits.bytes, cancel=self._stopping)

    def _read(self, item: SourceItem, file: IO[bytes], second: SecondModel | None) -> VideoOutcome:
        try:
            size = os.fstat(file.fileno()).st_size
            demuxer = demuxer_of(os.pread(file.fileno(), SNIFFED_BYTES, 0))
            sha256 = descriptor_sha256(file.fileno(), size, self._stopping)
        except OSError as exc:
            raise unreadable(exc) from exc
        if demuxer is None:  # the server sends something else now, or the file was replaced
            raise NotAnImageError("the content was a video a moment ago, and is none now")
        embedders = [self._embedder] if second is None else [self._embedder, second.embedder]
        task = Task(
            demuxer=demuxer,
            byte_size=size,
            every_s=DEFAULT_EVERY_S if item.every_s is None else item.every_s,
            most=self._limits.frames,
            shorter_side=SHARPNESS * max(each.shortest_edge for each in embedders),
            longer_side=LONGEST_SIDE,
            max_pixels=self._limits.pixels,
            memory_bytes=self._limits.memory,
            frame_cpu_s=FRAME_CPU_S,
            parent=os.getpid(),
        )
        hashed = _HashedFile(item=item, sha256=sha256)
        moves = self._retry(lambda: find_moves(self._engine, [hashed]))
        known = self._retry(lambda: frames_with_content(self._engine, item, sha256, self._embedder.identity))
        if known is None:
            outcome = self._decode(hashed, file, task, second)
        else:
            facts = replace(known.facts, written=self._written(file, task))
            outcome = VideoOutcome(item=item, facts=facts, frames=known.frames, copied=True)
        return _with_companions(replace(outcome, move=moves[0] if moves else None))

    def _written(self, file: IO[bytes], task: Task) -> WrittenMetadata:
        """Return what the container says, without decoding.

        Raises:
            ImageError: it cannot be read now, although it could be when its frames were stored.
        """
        with open_frames(file.fileno(), replace(task, most=0), cancel=self._stopping) as frames:
            header = frames.read_header()
        if header is None:
            raise frames.error or DamagedVideoError("what the video says of itself cannot be read")
        return written_in(header.tags)

    def _decode(self, hashed: _HashedFile, file: IO[bytes], task: Task, second: SecondModel | None) -> VideoOutcome:
        item = hashed.item
        kept: list[StoredFrame] = []
        with open_frames(file.fileno(), task, cancel=self._stopping) as frames:
            for batch in batched(frames, BATCH):
                kept += self._new_ones(batch, kept[-1] if kept else None, second)
            header = frames.header
            error: ImageError | None = frames.error
        if not item.is_url and os.fstat(file.fileno()).st_size != task.byte_size:
            error = FileUnreadableError("the file changed while it was read: ingest it again when it is complete")
        if header is None or not kept:
            error = error or DamagedVideoError("the video holds no pictures that can be decoded")
            return VideoOutcome(item=item, failure=FailedImage.of(item, error))
        facts = VideoFacts(
            sha256=hashed.sha256,
            byte_size=task.byte_size,
            width=header.width,
            height=header.height,
            codec=header.codec,
            duration_s=header.duration_s,
            every_s=task.every_s,
            written=written_in(header.tags),
        )
        return VideoOutcome(
            item=item, facts=facts, frames=kept, failure=None if error is None else FailedImage.of(item, error)
        )

    def _new_ones(
        self, frames: Sequence[RawFrame], last: StoredFrame | None, second: SecondModel | None
    ) -> list[StoredFrame]:
        """Embed frames, and return those that show something else than the one kept before them."""
        if self._stopping.is_set():
            raise DecodeInterruptedError
        pictures = [Image.frombytes("RGB", (each.width, each.height), each.pixels) for each in frames]
        resized = [self._embedder.resize(picture) for picture in pictures]
        with self._embedding:
            vectors = self._embedder.embed_images(resized)
        new: list[StoredFrame] = []
        shown: list[Image.Image] = []
        for frame, picture, vector in zip(frames, pictures, vectors, strict=True):
            # Rounded up: at that moment a player shows this frame, and not the one before.
            time = math.ceil(frame.time * 1000 - 1e-6) / 1000
            if last is not None and (time <= last.time or float(vector @ last.embedding) > SAME_FRAME):
                continue
            last = StoredFrame(
                time=time, embedding=vector, preview=make_thumbnail(picture), colour=mean_colour(picture)
            )
            new.append(last)
            shown.append(picture)
        if second is None or not new:
            return new
        with self._embedding:
            others = second.embedder.embed_images([second.embedder.resize(picture) for picture in shown])
        return [replace(each, others={second.model_id: vector}) for each, vector in zip(new, others, strict=True)]


def _check(item: SourceItem) -> None:
    """Refuse a video that certainly fails before anything of it is read."""
    if not is_extra_installed("video"):
        raise ExtraMissingError("videos", "video")
    size = len(item.image.encode())
    if size > MAX_REFERENCE_BYTES - SUFFIX_BYTES:
        limit = f"{MAX_REFERENCE_BYTES - SUFFIX_BYTES:,}"
        raise InvalidReferenceError(f"the video's path or URL is {size:,} bytes long, the limit is {limit}")


def _with_companions(outcome: VideoOutcome) -> VideoOutcome:
    """Return the outcome with what the files beside the video say about it."""
    if outcome.facts is None:
        return outcome
    item, written = read_companions(outcome.item, outcome.facts.written)
    return replace(outcome, item=item, facts=replace(outcome.facts, written=written))
