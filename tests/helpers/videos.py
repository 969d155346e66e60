"""Draws videos with PyAV: of plain colours, of arrays and images, and of the demo's scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from searchdb.demo.scenes import EVALUATION_SEEDS, compose, draw

SIZE = (320, 240)
"""Width and height of a video of plain colours, in pixels."""
CODECS = {".avi": "mpeg4", ".mpg": "mpeg2video", ".mpeg": "mpeg2video", ".ts": "mpeg2video", ".webm": "libvpx"}
"""The codec by the file's ending; H.264 for all others."""

Pixels = Image.Image | np.ndarray | tuple[int, int, int]
"""An image, an array of shape (height, width, 3), or a colour."""


def draw_video(
    path: Path,
    scenes: Sequence[tuple[Pixels, float]],
    *,
    codec: str | None = None,
    container: str | None = None,
    fps: int = 10,
    size: tuple[int, int] | None = None,
    rotation: int = 0,
    aspect: tuple[int, int] = (1, 1),
    key_every: int | None = None,
    pix_fmt: str | None = None,
    metadata: Mapping[str, str] | None = None,
    sound: bool = False,
    options: Mapping[str, str] | None = None,
    times: Sequence[float] | None = None,
) -> Path:
    """Write a video that shows each of the scenes for its seconds, and return its path.

    Args:
        path: the file; its ending chooses the container and the codec unless they are given.
        scenes: what to show, each with its seconds.
        codec: the encoder, such as libx264, mpeg4 or libvpx.
        container: the format, such as mp4, mov, matroska, webm, avi or mpegts.
        fps: frames a second.
        size: width and height of the stored frames; by default those of the first image, made even, or SIZE.
        rotation: degrees counterclockwise by which players turn the frames, as a phone writes it.
        aspect: the sample aspect ratio, width and height of a pixel.
        key_every: frames from one key frame to the next; by default one second.
        pix_fmt: the pixels' format, such as yuv420p10le; by default the codec's usual one.
        metadata: what the container says, such as title and creation_time.
        sound: add a silent audio stream.
        options: of the container, such as movflags.
        times: the frames' presentation times in seconds, in place of those of `fps`.
    """
    name = codec or CODECS.get(path.suffix.lower(), "libx264")
    first = scenes[0][0]
    width, height = size or (SIZE if isinstance(first, tuple) else Image.fromarray(_array(first, None)).size)
    width, height = width // 2 * 2, height // 2 * 2
    is_mov = (container or path.suffix.lstrip(".")) in ("mp4", "mov", "m4v")
    flags = {"movflags": "use_metadata_tags"} if is_mov and metadata else {}
    with av.open(str(path), "w", format=container, options={**flags, **(options or {})}) as file:
        file.metadata.update(metadata or {})
        stream: Any = file.add_stream(name, rate=fps)
        stream.width, stream.height = width, height
        stream.pix_fmt = pix_fmt or stream.codec.video_formats[0].name
        if not pix_fmt and any(each.name == "yuv420p" for each in stream.codec.video_formats):
            stream.pix_fmt = "yuv420p"
        stream.gop_size = key_every or fps
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        if name == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "18", "sc_threshold": "0"}
        elif name.startswith("libvpx"):
            stream.options = {"deadline": "realtime", "cpu-used": "8"}
            stream.codec_context.thread_count = 1  # several wait for each other without sleeping
            stream.bit_rate = 1_000_000
        else:
            stream.bit_rate = 2_000_000
        fine = Fraction(1, 1000)
        if times is not None:
            stream.codec_context.time_base = fine
        if rotation:
            stream.set_display_rotation(rotation)
        silence: Any = file.add_stream("aac", rate=8000) if sound else None
        position = 0
        for pixels, seconds in scenes:
            frame = av.VideoFrame.from_ndarray(_array(pixels, (width, height)), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            for _ in range(round(seconds * fps)):
                if times is None:
                    frame.pts, frame.time_base = position, Fraction(1, fps)
                else:
                    frame.pts, frame.time_base = round(times[position] * 1000), fine
                file.mux(stream.encode(frame))
                position += 1
        file.mux(stream.encode(None))
        if silence is not None:
            _add_silence(file, silence, position / fps)
    return path


def draw_scene(kind: str, *, size: int = 256, skip: int = 0) -> Image.Image:
    """Return a drawing of the demo that shows things of one kind, such as "cat", which a search by its name finds.

    `skip` gives others of the kind.
    """
    alone = (scene for scene in map(compose, EVALUATION_SEEDS) if [each.kind for each in scene.groups] == [kind])
    return draw(next(islice(alone, skip, None)), size)


def cut(path: Path, share: float) -> Path:
    """Cut a file to a share of its bytes, and return its path."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def _array(pixels: Pixels, size: tuple[int, int] | None) -> np.ndarray:
    if isinstance(pixels, tuple):
        width, height = size or SIZE
        return np.full((height, width, 3), pixels, np.uint8)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return np.asarray(image.convert("RGB") if size in (None, image.size) else image.convert("RGB").resize(size))


def _add_silence(file: Any, stream: Any, seconds: float) -> None:
    samples = 1024
    for start in range(0, int(seconds * 8000), samples):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
