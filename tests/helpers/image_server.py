"""A real HTTP server on 127.0.0.1 that serves images, and every fault that image servers have."""

from __future__ import annotations

import functools
import gzip
import io
import socket
import ssl
import struct
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from PIL import Image

DRIP_S = 0.02
"""Pause between the bytes of the dripping routes: far below any read timeout, so only a deadline ends them."""

ORIENTATION_TAG = 0x0112
"""EXIF's; 6 says that the stored image must be turned clockwise by 90 degrees to be upright."""

BOMB_BYTES = 64 * 1024 * 1024
"""What `/gzip-bomb` unpacks to; it is sent as some 65 kB."""


def make_image(
    kind: str = "JPEG", *, size: tuple[int, int] = (48, 32), seed: int = 0, orientation: int | None = None
) -> bytes:
    """Return a small encoded image whose colours depend on the seed, as stored (EXIF may say it lies on its side)."""
    image = Image.new("RGB", size, ((37 * seed) % 256, (91 * seed + 80) % 256, (53 * seed + 160) % 256))
    colour = ((seed * 29 + 200) % 256, (seed // 256 * 41 + 40) % 256, 90)  # all else repeats after 256 seeds
    image.paste(colour, (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    file = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION_TAG] = orientation
    image.save(file, kind, **({"exif": exif} if exif else {}))
    return file.getvalue()


def huge_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """Return a PNG of some bytes whose header promises an image of that size; its data ends after a row's start."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class ImageServer:
    """Serves while in its `with`, every answer `delay_s` seconds late.

    `requests` counts by path, `hits` by path and query (`/ok.jpg?seed=3`), `connections` what was accepted; `headers`
    holds the last request's of each path. `bodies` and `redirects` (to a Location) may be filled with further
    paths. Other paths are those of the table at the end of this module; `/ok.jpg`, `/ok.png`, `/ok.webp` and
    `/exif-rotated.jpg` also take `?seed=N` for different images. `/gated` is answered once `gate` is set.
    """

    def __init__(self, *, host: str = "127.0.0.1", delay_s: float = 0) -> None:
        self.delay_s = delay_s
        self.requests: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.connections = 0
        self.headers: dict[str, dict[str, str]] = {}
        self.bodies: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.gate = threading.Event()
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server((host, 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        # Bound but not listening: a connection to it is refused for as long as it is held.
        self._deaf = socket.socket()
        self._deaf.bind((host, 0))

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_address[1]

    @property
    def closed_port(self) -> int:
        """A port of the same host that refuses connections."""
        return self._deaf.getsockname()[1]

    def url(self, path: str, *, host: str = "127.0.0.1") -> str:
        """Return the URL of a path, which begins with a slash."""
        return f"http://{host}:{self.port}{path}"

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS; call before it serves."""
        # The handshake is left to the connection's own thread, so that a client that refuses harms no other.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._deaf.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined at the end, so that no socket outlives its test
    block_on_close = True
    request_queue_size = 1024  # some hundred clients may come at once; the kernel caps it at its own limit

    def __init__(self, address: tuple[str, int], owner: ImageServer) -> None:
        super().__init__(address, _Handler)
        self.owner = owner
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.owner.lock:
            self.owner.connections += 1
            self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        with self.owner.lock:
            self._open.discard(request)
        super().close_request(request)

    def server_close(self) -> None:
        with self.owner.lock:
            for connection in self._open:  # idle kept-alive ones, whose threads wait for another request
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(
            sys.exception(), ConnectionError | ssl.SSLError
        ):  # clients that give up are what these tests are about
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - no other makes it

    def do_GET(self) -> None:
        owner = self.server.owner
        path = urlsplit(self.path).path
        with owner.lock:
            owner.requests[path] += 1
            owner.hits[self.path] += 1
            owner.headers[path] = dict(self.headers.items())
        if owner.delay_s and owner.closing.wait(owner.delay_s):
            self.close_connection = True
            return
        if path in owner.bodies:
            self.answer(owner.bodies[path])
        elif path in owner.redirects:
            self.answer(b"elsewhere", status=302, kind="text/plain", Location=owner.redirects[path])
        elif path in ROUTES:
            ROUTES[path](self)
        else:
            self.answer(b"no such image", status=404, kind="text/plain")

    def answer(self, body: bytes = b"", *, status: int = 200, kind: str = "image/jpeg", **headers: str) -> None:
        """Send an honest answer; `Retry_After="3"` becomes a header."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def number(self, name: str, default: int = 0) -> int:
        """Return an integer of the query."""
        return int(parse_qs(urlsplit(self.path).query).get(name, [str(default)])[0])

    def seen(self) -> int:
        """Return how often this path was asked for, this time included."""
        owner = self.server.owner
        with owner.lock:
            return owner.requests[urlsplit(self.path).path]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        pass


def _image(kind: str, orientation: int | None = None) -> Callable[[_Handler], None]:
    def route(handler: _Handler) -> None:
        body = make_image(kind, seed=handler.number("seed"), orientation=orientation)
        handler.answer(body, kind=f"image/{kind.lower()}")

    return route


def _status(status: int, **headers: str) -> Callable[[_Handler], None]:
    def route(handler: _Handler) -> None:
        handler.answer(b"", status=status, kind="text/plain", **headers)

    return route


def _then_ok(status: int, **headers: str) -> Callable[[_Handler], None]:
    """Fail the first `?times=N` requests (1), then serve."""

    def route(handler: _Handler) -> None:
        if handler.seen() <= handler.number("times", 1):
            _status(status, **headers)(handler)
        else:
            handler.answer(make_image())

    return route


def _redirect(target: Callable[[ImageServer], str], status: int = 302, body: bytes = b"") -> Callable[[_Handler], None]:
    def route(handler: _Handler) -> None:
        handler.answer(body, status=status, Location=target(handler.server.owner))

    return route


def _hops(handler: _Handler) -> None:
    """Redirect `?left=N` times, then serve."""
    left = handler.number("left")
    if left:
        handler.answer(status=302, Location=f"/hops?left={left - 1}")
    else:
        handler.answer(make_image())


def _begin(handler: _Handler, **headers: str) -> None:
    """Send the head of an answer whose connection ends with its body."""
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Content-Type", "image/jpeg")
    handler.send_header("Connection", "close")
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def _drip(handler: _Handler, data: bytes, pause_s: float = DRIP_S) -> None:
    for byte in data:
        if handler.server.owner.closing.wait(pause_s):
            return
        handler.wfile.write(bytes((byte,)))


def _drip_body(handler: _Handler) -> None:
    _begin(handler, Content_Length="100000")
    _drip(handler, bytes(100_000))


def _one_byte_a_second(handler: _Handler) -> None:
    _begin(handler, Content_Length="5000")
    _drip(handler, make_image().ljust(5000, b"\0"), pause_s=1)


def _gated(handler: _Handler) -> None:
    handler.server.owner.gate.wait()
    handler.answer(make_image())


def _set_cookie(handler: _Handler) -> None:
    handler.answer(make_image(), Set_Cookie="visitor=42; Path=/")


def _redirect_and_set_cookie(handler: _Handler) -> None:
    handler.answer(status=302, Location="/ok.jpg", Set_Cookie="visitor=42; Path=/")


def _understated(handler: _Handler) -> None:
    """Promise ten bytes and send a hundred thousand times as many."""
    _begin(handler, Content_Length="10")
    handler.wfile.write(bytes(1_000_000))


def _drip_headers(handler: _Handler) -> None:
    handler.close_connection = True
    _drip(handler, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 60_000)


def _silent(handler: _Handler) -> None:
    handler.close_connection = True
    handler.server.owner.closing.wait()


def _half(handler: _Handler) -> None:
    body = make_image()
    _begin(handler, Content_Length=str(len(body)))
    handler.wfile.write(body[: len(body) // 2])


def _half_then_ok(handler: _Handler) -> None:
    if handler.seen() == 1:
        _half(handler)
    else:
        handler.answer(make_image())


def _half_chunked(handler: _Handler) -> None:
    body = make_image()
    _begin(handler, Transfer_Encoding="chunked")
    handler.wfile.write(b"%x\r\n%s" % (len(body), body[: len(body) // 2]))


def _chunked(handler: _Handler) -> None:
    body = make_image()
    _begin(handler, Transfer_Encoding="chunked")
    for start in range(0, len(body), 100):
        part = body[start : start + 100]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
    handler.wfile.write(b"0\r\n\r\n")


def _no_length(handler: _Handler) -> None:
    _begin(handler)
    handler.wfile.write(make_image())


def _endless(handler: _Handler) -> None:
    _begin(handler)
    while not handler.server.owner.closing.is_set():
        handler.wfile.write(bytes(65536))


def _endless_chunks(handler: _Handler) -> None:
    _begin(handler, Transfer_Encoding="chunked")
    while not handler.server.owner.closing.is_set():
        handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")


def _endless_chunk_size(handler: _Handler) -> None:
    _begin(handler, Transfer_Encoding="chunked")
    while not handler.server.owner.closing.is_set():
        handler.wfile.write(b"0" * 65536)


def _endless_redirect_body(handler: _Handler) -> None:
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /ok.jpg\r\nConnection: close\r\n\r\n")
    try:
        while not handler.server.owner.closing.is_set():
            handler.wfile.write(bytes(65536))
    except ConnectionError:
        return


def _gzip_bomb(handler: _Handler) -> None:
    handler.answer(_bomb(), Content_Encoding="gzip")


@functools.cache
def _bomb() -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=9) as packed:
        for _ in range(BOMB_BYTES // (1024 * 1024)):
            packed.write(bytes(1024 * 1024))
    return file.getvalue()


def _raw(data: bytes) -> Callable[[_Handler], None]:
    def route(handler: _Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(data)

    return route


def _reset(handler: _Handler) -> None:
    handler.close_connection = True
    # Closing with a zero linger sends RST, as a crashed server or a firewall does.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close(handler.connection.detach())


ROUTES: dict[str, Callable[[_Handler], None]] = {
    "/ok.jpg": _image("JPEG"),
    "/ok.png": _image("PNG"),
    "/ok.webp": _image("WEBP"),
    "/exif-rotated.jpg": _image("JPEG", orientation=6),
    "/huge-png": lambda handler: handler.answer(huge_png(), kind="image/png"),
    "/wrong-type": lambda handler: handler.answer(make_image(), kind="text/html"),
    "/no-length": _no_length,
    "/chunked": _chunked,
    "/gzip": lambda handler: handler.answer(gzip.compress(make_image()), Content_Encoding="gzip"),
    "/html": lambda handler: handler.answer(b"<!DOCTYPE html><title>Not here</title>", kind="text/html"),
    "/empty": lambda handler: handler.answer(b""),
    "/204": _status(204),
    "/206": lambda handler: handler.answer(make_image()[:100], status=206, Content_Range="bytes 0-99/800"),
    "/304": _status(304),
    "/403": _status(403),
    "/404": _status(404),
    "/410": _status(410),
    "/500": _status(500),
    "/503": _status(503),
    "/503-then-200": _then_ok(503),
    "/429-then-200": _then_ok(429, Retry_After="0"),
    "/429-retry-after-1": _then_ok(429, Retry_After="1"),
    "/429-for-an-hour": _status(429, Retry_After="3600"),
    "/503-until-2099": _status(503, Retry_After="Thu, 01 Jan 2099 00:00:00 GMT"),
    "/503-until-1999": _then_ok(503, Retry_After="Fri, 01 Jan 1999 00:00:00 GMT"),
    "/redirect": _redirect(lambda server: "/ok.jpg"),
    "/redirect-with-space": _redirect(lambda server: "/a picture.jpg"),
    "/redirect-loop": _redirect(lambda server: "/redirect-loop"),
    "/redirect-to-file": _redirect(lambda server: "file:///etc/passwd"),
    "/redirect-to-closed-port": _redirect(lambda server: f"http://127.0.0.1:{server.closed_port}/"),
    "/redirect-to-metadata": _redirect(lambda server: "http://169.254.169.254/latest/meta-data/"),
    "/redirect-malformed": _redirect(lambda server: "http://ann:secret@[bad/"),
    "/redirect-and-set-cookie": _redirect_and_set_cookie,
    "/set-cookie": _set_cookie,
    "/redirect-nowhere": _status(302),
    "/hops": _hops,
    "/gated": _gated,
    "/one-byte-a-second": _one_byte_a_second,
    "/drip": _drip_body,
    "/drip-headers": _drip_headers,
    "/silent": _silent,
    "/half": _half,
    "/half-then-ok": _half_then_ok,
    "/half-chunked": _half_chunked,
    "/endless": _endless,
    "/understated": _understated,
    "/endless-chunks": _endless_chunks,
    "/endless-chunk-size": _endless_chunk_size,
    "/endless-redirect-body": _endless_redirect_body,
    "/too-long": lambda handler: _begin(handler, Content_Length="999999999999"),
    "/bad-gzip": lambda handler: handler.answer(b"this is not gzip", Content_Encoding="gzip"),
    "/gzip-bomb": _gzip_bomb,
    "/garbage": _raw(b"\x00\x01\x02 not HTTP at all\r\n\r\n"),
    "/hang-up": _raw(b""),
    "/reset": _reset,
}
