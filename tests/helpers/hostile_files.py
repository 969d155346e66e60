"""Makes a folder of image files as found in practice: unusual, mislabelled, damaged and malicious ones."""

from __future__ import annotations

import functools
import gzip
import io
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.helpers import photo_files

Maker = Callable[[random.Random], bytes]

SIZE = (60, 40)
"""Size of the healthy images: large enough to inspect, small enough to make a thousand in seconds."""

HUGE = 60_000
"""Width and height that the header bombs claim; 10.8 GB as RGB."""


def make_hostile_folder(folder: Path, count: int = 1000, seed: int = 0) -> list[Path]:
    """Fill an empty folder with `count` files, cycling through all kinds, and return their paths in order.

    Healthy files differ in their content. Every ninth file goes into a sub-folder. Besides regular files there are
    symbolic links to healthy ones, broken links, and named pipes; names that the file system refuses are replaced by
    plain ones. KINDS lists the kinds; a file's kind is part of its name, except for those of ODD_NAMES.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    names = sorted(KINDS)
    paths: list[Path] = []
    for number in range(count):
        kind = names[number % len(names)]
        place = folder / f"sub{number % 4}" / "deep" if number % 9 == 8 else folder
        place.mkdir(parents=True, exist_ok=True)
        path = _named(place, kind, number)
        if kind == "special symlink":
            path.symlink_to(next(made for made in paths if made.name.endswith("ok jpeg.jpeg")).absolute())
        elif kind == "special broken symlink":
            path.symlink_to("gone.jpg")
        elif kind == "special fifo":
            os.mkfifo(path)
        else:
            path.write_bytes(KINDS[kind](chance))
        paths.append(path)
    return paths


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the image encoded in one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def drawn(chance: random.Random, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Return an image of a few random coloured shapes."""
    image = Image.new("RGB", size, (chance.randrange(256), chance.randrange(256), chance.randrange(256)))
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        x, y = chance.randrange(size[0]), chance.randrange(size[1])
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        pen.rectangle((x, y, x + size[0] // 3, y + size[1] // 3), fill=colour)
    return image if mode == "RGB" else _in_mode(image, mode)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("RGBA", "LA"):
        converted = image.convert(mode)
        converted.putalpha(Image.linear_gradient("L").resize(image.size))
        return converted
    if mode == "I;16":
        import numpy as np

        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
        assert converted is not None
        return converted
    return image.convert(mode)


# --- Headers --------------------------------------------------------------------------------------


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *extra: bytes, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG with this header, chunks and data, which need not fit each other."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + png_chunk(b"IEND", b"")


def tiff(entries: list[tuple[int, int, int, int]], *, next_ifd: int = 0, data: bytes = b"") -> bytes:
    """Return a little-endian TIFF of one directory at offset 8 with entries (tag, type, count, value)."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", next_ifd) + data


def tiff_entries(width: int, height: int, **changes: int) -> list[tuple[int, int, int, int]]:
    """Return the entries of an uncompressed 8-bit grey TIFF whose data begins at `strip`."""
    tags = {"compression": (259, 3, 1), "bits": (258, 3, 8), "photometric": (262, 3, 1), "strip": (273, 4, 200)}
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, width * height),
    ]
    entries += [(tag, kind, 1, changes.get(name, value)) for name, (tag, kind, value) in tags.items()]
    return sorted(entry for entry in entries if entry[3] < 2**32)


def exif_bytes(**values: Any) -> bytes:
    """Return an EXIF block with orientation, camera, date and position as a phone writes them."""
    exif = Image.Exif()
    exif[0x0112] = values.get("orientation", 1)
    exif[0x010F] = values.get("make", "Canon\0\0")
    exif[0x0110] = values.get("model", "Canon EOS R5 ")
    shot = exif.get_ifd(0x8769)
    shot[0x9003] = values.get("taken", "2024:05:31 18:30:00")
    if "offset" in values:
        shot[0x9011] = values["offset"]
    exif.update(values.get("tags", {}))
    shot |= values.get("shot", {})
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = values.get("latitude", ("N", (48.0, 51.0, 30.0)))
    gps[3], gps[4] = values.get("longitude", ("W", (2.0, 21.0, 0.0)))
    gps |= values.get("gps", {})
    return exif.tobytes()


def _jpeg_with_app1(chance: random.Random, body: bytes) -> bytes:
    whole = encoded(drawn(chance), "JPEG")
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]


def scan_bomb(side: int = 400, scans: int = 1000) -> bytes:
    """Return a progressive JPEG, black and square, that repeats its last scan: each costs a pass over all pixels."""
    whole = encoded(Image.new("RGB", (side, side)), "JPEG", progressive=True, quality=1)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * scans + b"\xff\xd9"


# --- Kinds: healthy -------------------------------------------------------------------------------


def _healthy(kind: str, mode: str = "RGB", size: tuple[int, int] = SIZE, **options: Any) -> Maker:
    return lambda chance: encoded(drawn(chance, mode, size), kind, **options)


def _oriented(orientation: int) -> Maker:
    return lambda chance: encoded(drawn(chance), "JPEG", exif=exif_bytes(orientation=orientation))


def _animated(kind: str) -> Maker:
    def make(chance: random.Random) -> bytes:
        frames = [drawn(chance) for _ in range(3)]
        return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=80)

    return make


def _palette_with_transparency(chance: random.Random) -> bytes:
    image = drawn(chance).quantize(16)
    return encoded(image, "PNG", transparency=bytes(range(0, 256, 16)))


def _cmyk_jpeg(chance: random.Random) -> bytes:
    return encoded(drawn(chance, "CMYK"), "JPEG")


def _png_16_bit(chance: random.Random) -> bytes:
    rows = b"".join(b"\0" + chance.randbytes(20 * 6) for _ in range(10))
    return png(20, 10, data=rows, depth=16)


def _colour_key(chance: random.Random) -> bytes:
    image = drawn(chance)
    return encoded(image, "PNG", transparency=image.getpixel((0, 0)))


# --- Kinds: damaged and malicious -----------------------------------------------------------------


def _truncated(make: Maker) -> Maker:
    def truncated(chance: random.Random) -> bytes:
        whole = make(chance)
        return whole[: chance.randrange(1, len(whole))]

    return truncated


def _flipped(make: Maker) -> Maker:
    def flipped(chance: random.Random) -> bytes:
        data = bytearray(make(chance))
        for _ in range(chance.randrange(1, 30)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(data)

    return flipped


def _constant(data: bytes) -> Maker:
    """Return the same damage each time, with a varying tail after its end so that no two files are equal."""
    return lambda chance: data + b"\n" + chance.randbytes(4).hex().encode() if data else data


@functools.cache
def _text_bomb() -> bytes:
    """64 MB of text in 64 kB, in a chunk type that readers decompress at once."""
    return png(1, 1, png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 * 1024 * 1024), 9)), data=bytes(4))


def _zip(chance: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", chance.randbytes(40).hex())
    return file.getvalue()


def _webp_bomb(chance: random.Random) -> bytes:
    canvas = struct.pack("<I", 16)[:4] + (HUGE - 1).to_bytes(3, "little") + (HUGE - 1).to_bytes(3, "little")
    frame = encoded(drawn(chance), "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _looping_tiff(chance: random.Random) -> bytes:
    data = chance.randbytes(400)
    return tiff(tiff_entries(20, 10), next_ifd=8, data=data)


def _jpeg_exif_loop(chance: random.Random) -> bytes:
    """EXIF whose sub-directory pointers point back to their own directory."""
    entries = [(0x0112, 3, 1, 6), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8)]
    return _jpeg_with_app1(chance, b"Exif\0\0" + tiff(entries, next_ifd=8))


def _jpeg_exif_out_of_range(chance: random.Random) -> bytes:
    entries = [(0x010F, 2, 4_000_000_000, 4_000_000_000), (0x0112, 3, 1, 6), (0x8769, 4, 1, 4_000_000_000)]
    return _jpeg_with_app1(chance, b"Exif\0\0" + tiff(entries))


def _gps_without_denominators(chance: random.Random) -> bytes:
    place = ("N", (17.0, 17.0, 17.0))
    exif = exif_bytes(latitude=place, longitude=place, taken="0000:00:00 00:00:00")
    for order in "<>":
        exif = exif.replace(struct.pack(f"{order}II", 17, 1), bytes(8))
    return encoded(drawn(chance), "JPEG", exif=exif)


def _bmp_huge(chance: random.Random) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, HUGE, HUGE, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + chance.randbytes(30)


def _bmp_empty(chance: random.Random) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 0, 0, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + chance.randbytes(30)


_GIF_HUGE = b"GIF89a" + struct.pack("<HH", HUGE, HUGE) + b"\x80\0\0" + bytes(6) + b"," + bytes(4)
_GIF_HUGE += struct.pack("<HH", HUGE, HUGE) + b"\0\x02\x02L\x01\0;"

_SVG = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
_HTML = b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body></body></html>"

HEALTHY: dict[str, Maker] = {
    "ok jpeg": _healthy("JPEG"),
    "ok jpeg progressive": _healthy("JPEG", progressive=True),
    "ok jpeg grey": _healthy("JPEG", "L"),
    "ok jpeg cmyk": _cmyk_jpeg,
    "ok jpeg broken exif loop": _jpeg_exif_loop,
    "ok jpeg broken exif offsets": _jpeg_exif_out_of_range,
    "ok jpeg broken exif noise": lambda chance: _jpeg_with_app1(chance, b"Exif\0\0" + chance.randbytes(300)),
    "ok jpeg broken exif gps": _gps_without_denominators,
    "ok jpeg with tail": lambda chance: encoded(drawn(chance), "JPEG") + chance.randbytes(500),
    "ok mpo": _animated("MPO"),
    "ok png": _healthy("PNG"),
    "ok png grey": _healthy("PNG", "L"),
    "ok png bilevel": _healthy("PNG", "1"),
    "ok png grey alpha": _healthy("PNG", "LA"),
    "ok png alpha": _healthy("PNG", "RGBA"),
    "ok png palette": _healthy("PNG", "P"),
    "ok png palette transparency": _palette_with_transparency,
    "ok png colour key": _colour_key,
    "ok png 16 bit grey": _healthy("PNG", "I;16"),
    "ok png 16 bit colour": _png_16_bit,
    "ok png animated": _animated("PNG"),
    "ok png one pixel": _healthy("PNG", size=(1, 1)),
    "ok png thread": _healthy("PNG", size=(1, 20_000)),
    "ok gif": _healthy("GIF", "P"),
    "ok gif animated": _animated("GIF"),
    "ok webp": _healthy("WEBP"),
    "ok webp lossless alpha": _healthy("WEBP", "RGBA", lossless=True),
    "ok webp animated": _animated("WEBP"),
    "ok bmp": _healthy("BMP"),
    "ok bmp palette": _healthy("BMP", "P"),
    "ok tiff": _healthy("TIFF"),
    "ok tiff deflate": _healthy("TIFF", compression="tiff_adobe_deflate"),
    "ok tiff cmyk": _healthy("TIFF", "CMYK"),
    "ok tiff lab": _healthy("TIFF", "LAB"),
    "ok tiff ycbcr": _healthy("TIFF", "YCbCr"),
    "ok tiff float": _healthy("TIFF", "F"),
    "ok tiff 32 bit": _healthy("TIFF", "I"),
    "ok tiff directory loop": _looping_tiff,
    "ok tiff reduced": lambda chance: photo_files.tiff_of(
        photo_files.pixels_directory(
            drawn(chance, size=(8, 6)),
            photo_files.REDUCED,
            nested=[photo_files.pixels_directory(drawn(chance), photo_files.FULL)],
        )
    ),
    "ok avif": _healthy("AVIF", speed=10),
    "ok heic": lambda chance: photo_files.heic(drawn(chance)),
    "ok heic alpha": lambda chance: photo_files.heic(drawn(chance, "RGBA")),
    "ok heic burst": lambda chance: photo_files.heic(drawn(chance), frames=[drawn(chance)] * 3),
    "ok heic grid": lambda chance: photo_files.grid_heic(drawn(chance, size=(64, 64)), 3, 2),
    "ok jpeg xl": lambda chance: photo_files.jpeg_xl(drawn(chance)),
    "ok dng": lambda chance: photo_files.encoded_as(drawn(chance), "RAW"),
    "ok raf": lambda chance: photo_files.raf(drawn(chance), SIZE),
    "ok cr3": lambda chance: photo_files.cr3(drawn(chance), SIZE),
} | {f"ok jpeg orientation {n}": _oriented(n) for n in range(1, 9)}
"""Kinds that can be decoded; their names begin with "ok"."""

HARMFUL: dict[str, Maker] = {
    "bad empty": _constant(b""),
    "bad one byte": lambda chance: chance.randbytes(1),
    "bad zeros": lambda chance: bytes(chance.randrange(1, 5000)),
    "bad noise": lambda chance: chance.randbytes(2000),
    "bad text": _constant(b"This is not a picture."),
    "bad text like bmp": _constant(b"BMW is a maker of cars."),
    "bad html": _constant(_HTML),
    "bad svg": _constant(_SVG),
    "bad svg bomb": _constant(b"<!---->" * 140 + b"<sv"),
    "bad json": _constant(b'{"error": "not found"}'),
    "bad pdf": _constant(b"%PDF-1.7\n"),
    "bad eps": _constant(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "bad zip": _zip,
    "bad gzip": lambda chance: gzip.compress(chance.randbytes(50)),
    "bad video": lambda chance: b"\0\0\0\x18ftypmp42" + chance.randbytes(200),
    "bad heic": lambda chance: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + chance.randbytes(200),
    "bad heic huge": lambda chance: photo_files.heic(drawn(chance, size=(64, 64))).replace(
        struct.pack(">II", 64, 64), struct.pack(">II", HUGE, HUGE)
    ),
    "bad heic sequence": lambda chance: b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc" + photo_files.box(b"moov", bytes(300)),
    "bad jpeg xl": lambda chance: photo_files.jpeg_xl(drawn(chance))[:30] + chance.randbytes(200),
    "bad raw": lambda chance: b"FUJIFILMCCD-RAW " + chance.randbytes(400),
    "bad raw cut": lambda chance: photo_files.dng(drawn(chance), preview=None)[:1500],
    "bad tiff only a preview": lambda chance: photo_files.tiff_of(
        photo_files.pixels_directory(drawn(chance), photo_files.REDUCED | {330: (photo_files.LONG, [2**31])})
    ),
    "bad ico": _healthy("ICO"),
    "bad ppm": _healthy("PPM"),
    "bad png huge": lambda chance: png(HUGE, HUGE, data=chance.randbytes(9)),
    "bad png huge grey": lambda chance: png(2**31 - 1, 1, data=chance.randbytes(9), depth=1, colour=0),
    "bad png no width": lambda chance: png(0, 10, data=chance.randbytes(9)),
    "bad png no data": lambda chance: png(50, chance.randrange(1, 900), data=b""),
    "bad png text bomb": lambda chance: _text_bomb() + chance.randbytes(4),
    "bad gif huge": _constant(_GIF_HUGE),
    "bad bmp huge": _bmp_huge,
    "bad bmp no size": _bmp_empty,
    "bad tiff huge": lambda chance: tiff(tiff_entries(HUGE, HUGE), data=chance.randbytes(50)),
    "bad tiff no directory": lambda chance: b"II*\0" + struct.pack("<I", 2**31) + chance.randbytes(50),
    "bad tiff tiles": lambda chance: tiff(
        [*tiff_entries(20, 10, compression=8), (322, 4, 1, HUGE), (323, 4, 1, HUGE), (324, 4, 1, 200)],
        data=chance.randbytes(300),
    ),
    "bad webp huge": _webp_bomb,
    "bad webp cut": lambda chance: encoded(drawn(chance), "WEBP")[:24],
}
"""Kinds that cannot be decoded; their names begin with "bad"."""

BROKEN: dict[str, Maker] = {
    f"{how} {kind}": breaking(HEALTHY[f"ok {kind}"])
    for how, breaking in (("truncated", _truncated), ("flipped", _flipped))
    for kind in (
        "jpeg",
        "jpeg progressive",
        "mpo",
        "png",
        "gif animated",
        "webp",
        "bmp",
        "tiff",
        "tiff deflate",
        "tiff reduced",
        "avif",
        "heic",
        "heic grid",
        "jpeg xl",
        "dng",
        "cr3",
    )
}
"""Kinds that may be decodable, as a flipped bit in a colour does."""

_LIKE_JPEG = _healthy("JPEG")

ODD_NAMES: dict[str, str | bytes] = {
    "name newline": "a\nb.jpg",
    "name emoji": "🐕 dog.jpg",
    "name quotes": 'it\'s "quoted" `name`.jpg',
    "name percent": "100%25 %s %(x)s {0}.jpg",
    "name leading dash": "--help.jpg",
    "name long": "x" * 200 + ".jpg",
    "name not utf-8": b"caf\xe9.jpg",
    "name backslash": "a\\b.jpg",
    "name glob": "[a]*?.jpg",
    "name markup": "<script>alert(1)</script>.jpg",
    "name combining": "e\u0301te\u0301.jpg",
    "name right to left": "\u202egpj.exe",
    "name no extension": "picture",
    "name wrong extension": "picture.txt",
    "name url-like": "http:__x.jpg",
    "name space": "  two  spaces .jpg",
}
"""Kinds whose content is a healthy JPEG and whose name is the problem."""

KINDS: dict[str, Maker] = (
    HEALTHY
    | HARMFUL
    | BROKEN
    | dict.fromkeys(ODD_NAMES, _LIKE_JPEG)
    | dict.fromkeys(("special symlink", "special broken symlink", "special fifo"), _LIKE_JPEG)
)
"""All kinds by name."""


def _named(place: Path, kind: str, number: int) -> Path:
    """Return a free path: an unusual name unchanged the first time, later with a number in front."""
    odd = ODD_NAMES.get(kind)
    if odd is not None:
        name = os.fsdecode(odd)
        path = place / name
        if os.path.lexists(path):
            path = place / f"{number}{name}"
        try:
            path.touch()
        except OSError:  # a file system that takes only UTF-8, or no such character
            return place / f"{number}.jpg"
        return path
    extension = kind.split()[1] if kind.startswith("ok ") else "jpg"
    return place / f"{number:05} {kind}.{extension}"
