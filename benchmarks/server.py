"""Serves any number of distinct JPEGs of 768 x 512 from a separate process, at almost no cost per image."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from searchdb.demo.album import ALBUM_SEEDS
from searchdb.demo.composition import compose
from searchdb.demo.postcards import draw

IMAGE_SIZE = (768, 512)
"""Pixels: the size of a typical small rendition."""
JPEG_QUALITY = 80
GRAIN = 8
"""Standard deviation of noise added to the drawings: a JPEG is then as large, and decodes as slowly, as a photo's."""
BASE_IMAGES = 32
"""Number of drawn images; all others are copies of them, distinguished by a comment in the file."""

_REQUEST = re.compile(rb"GET /(\d+)\.jpg HTTP/1\.1\r\n")
_START_OF_IMAGE = b"\xff\xd8"
_COMMENT = b"\xff\xfe"
_NUMBER = "{:012}"


@contextmanager
def image_server() -> Iterator[str]:
    """Serve inside a `with`; yield the URL below which `/0.jpg`, `/1.jpg` and so on can be fetched, without limit."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.server"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the image server did not start")
            yield url
        finally:
            process.terminate()


def base_images() -> list[bytes]:
    """Return the JPEGs that all others are copies of."""
    rng = np.random.default_rng(0)
    images = []
    for seed in ALBUM_SEEDS[:BASE_IMAGES]:
        drawn = np.asarray(ImageOps.fit(draw(compose(seed), min(IMAGE_SIZE)), IMAGE_SIZE))
        grain = rng.normal(0, GRAIN, (*drawn.shape[:2], 1))
        file = io.BytesIO()
        Image.fromarray((drawn + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=JPEG_QUALITY)
        images.append(file.getvalue())
    return images


def numbered(images: list[bytes], number: int) -> bytes:
    """Return image `number`: one of the base images, with the number as a comment in the file."""
    comment = _NUMBER.format(number).encode()
    length = (2 + len(comment)).to_bytes(2, "big")
    image = images[number % len(images)].removeprefix(_START_OF_IMAGE)
    return b"".join((_START_OF_IMAGE, _COMMENT, length, comment, image))


class _Connection(asyncio.Protocol):
    """Answers requests in order; implements only the HTTP that searchdb uses, to cost little time."""

    def __init__(self, images: list[bytes]) -> None:
        self._images = images
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        while b"\r\n\r\n" in self._received:
            request, _, self._received = self._received.partition(b"\r\n\r\n")
            matched = _REQUEST.match(request)
            if matched is None:
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            body = numbered(self._images, int(matched[1]))
            head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
            self._transport.write(head.encode() + body)


async def _serve() -> None:
    images = base_images()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(images), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
