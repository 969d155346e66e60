"""A picture server in a process of its own: any number of distinct JPEGs of 768 x 512, each for next to no work."""

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

PICTURE_SIZE = (768, 512)
"""Pixels: what image servers send as a small rendition."""
JPEG_QUALITY = 80
GRAIN = 8
"""Standard deviation of the noise laid on the drawings, which makes a JPEG as large, and as slow, as a photograph's."""
BASE_PICTURES = 32
"""Drawn pictures that all others are copies of, but for a comment that makes their bytes differ."""

_REQUEST = re.compile(rb"GET /(\d+)\.jpg HTTP/1\.1\r\n")
_START_OF_IMAGE = b"\xff\xd8"
_COMMENT = b"\xff\xfe"
_NUMBER = "{:012}"


@contextmanager
def picture_server() -> Iterator[str]:
    """Serve while in the `with`; yield the URL below which `/0.jpg`, `/1.jpg` and so on lie, as many as one likes."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.server"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the picture server did not start")
            yield url
        finally:
            process.terminate()


def base_pictures() -> list[bytes]:
    """Return the JPEGs that the others are copies of."""
    rng = np.random.default_rng(0)
    pictures = []
    for seed in ALBUM_SEEDS[:BASE_PICTURES]:
        drawn = np.asarray(ImageOps.fit(draw(compose(seed), min(PICTURE_SIZE)), PICTURE_SIZE))
        grain = rng.normal(0, GRAIN, (*drawn.shape[:2], 1))
        file = io.BytesIO()
        Image.fromarray((drawn + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=JPEG_QUALITY)
        pictures.append(file.getvalue())
    return pictures


def numbered(pictures: list[bytes], number: int) -> bytes:
    """Return picture `number`: one of the pictures, with the number as the comment of its file."""
    comment = _NUMBER.format(number).encode()
    length = (2 + len(comment)).to_bytes(2, "big")
    picture = pictures[number % len(pictures)].removeprefix(_START_OF_IMAGE)
    return b"".join((_START_OF_IMAGE, _COMMENT, length, comment, picture))


class _Answers(asyncio.Protocol):
    """Answers requests one after the other; no more of HTTP than searchdb speaks, so that little time goes there."""

    def __init__(self, pictures: list[bytes]) -> None:
        self._pictures = pictures
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
            asked = _REQUEST.match(request)
            if asked is None:
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            body = numbered(self._pictures, int(asked[1]))
            head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
            self._transport.write(head.encode() + body)


async def _serve() -> None:
    pictures = base_pictures()
    server = await asyncio.get_running_loop().create_server(lambda: _Answers(pictures), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
