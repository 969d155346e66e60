"""Cleans texts from files: character sets, padding, control characters, length, and what devices write by default."""

from __future__ import annotations

import codecs
import re
import unicodedata

from searchdb.records import nfc

MAX_DESCRIPTION_CHARACTERS = 10_000
"""Longest description that is kept, as of one that comes by the API. What is longer is a log or a document."""
MAX_LINE_CHARACTERS = 1000
"""Longest title, creator or copyright notice that is kept."""
MAX_NAME_CHARACTERS = 300
"""Longest camera, country, city, label or keyword that is kept: PostgreSQL's indexes on them refuse texts of more than
2,704 bytes, and a character has up to 4."""
MAX_ENCODED_BYTES = 4 * MAX_DESCRIPTION_CHARACTERS
"""What is read of an encoded text, which may be as long as its file."""

_CONTROLS = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff]"
)
"""Characters that show nothing or turn the direction of what follows. Joiners are kept: scripts and emoji need them."""
_LINE_END = re.compile("\r\n|[\r\n\x0b\x0c\x85\u2028\u2029]")
_UNREADABLE_SHARE = 0.25
"""A text with more replacement characters than this was in another character set, or was never text."""

_BY_DEVICES = re.compile(
    r"""
    (konica\ )?([\w-]+\ )?digital\ (still\ )?camera | \w+\ [cd]sc | dcf\ \d\.\d | \w+-\w*\d\w*\ image
    | exif[ _]jpeg([ _].*)? | jpeg\ encoded\ by\ .* | samsung\ .*camera.* | <\ ?kenox\ .*> | maker:.*
    | dcim.* | default | (no\ )?comments? | (no\ )?(image\ )?description | user\ ?comments? | untitled | none | null
    | n/a | unknown | charset=.{0,40} | binary\ comment | \d | \d{5,} | \d[\d-]*[_~][\d_~-]*
    | (created|processed|edited|generated|file\ (source|written)|optimized)\ (with|by|in|using)\b.{0,80}
    | (dsc[fn]?|img|imgp|image|pict|p|dcp|cimg|mvi|gopr|pxl|dji|vid)[ _-]?\d{3,}[\d_-]*(\.\w{2,4})?
    | (<\?xml | <metadata | \{\s*" | \[\{ | \[\w+\]\s[\w\ ]+= | imagej= | oiio:sha-1= | software: | kofax\ pdf\ filter
       | aperio\ image\ library) (?s:.*)
    """,
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
"""What cameras and programs write as title or description without anybody having written it, and names of files."""
_CHARSET_PREFIX = re.compile(r'charset="?(ascii|unicode|jis|undefined)"? ', re.IGNORECASE)
"""Exiv2's prefix of a comment, which some programs copy into the comment itself."""


def decoded(raw: bytes) -> str:
    """Return the text of bytes that should be ASCII or UTF-8, and are Windows-1252 or Latin-1 if they cannot be."""
    cut = raw[:MAX_ENCODED_BYTES]
    try:
        # A character that the cut divides is left out.
        return codecs.getincrementaldecoder("utf-8-sig")().decode(cut, final=len(cut) == len(raw))
    except UnicodeDecodeError:
        pass
    try:
        return cut.decode("cp1252")
    except UnicodeDecodeError:
        return cut.decode("latin-1")


def redecoded(text: str) -> str:
    """Return a text that Pillow has read as Latin-1 in its own character set."""
    try:
        return decoded(text[: MAX_ENCODED_BYTES + 1].encode("latin-1"))
    except UnicodeEncodeError:
        return text[:MAX_ENCODED_BYTES]


def exif_text(value: object) -> str:
    """Return a string of EXIF, as Pillow gives it, without the padding behind a NUL; empty if it is no string."""
    text = decoded(value) if isinstance(value, bytes) else redecoded(value) if isinstance(value, str) else ""
    return text.split("\0", 1)[0]


def one_line(text: str, *, limit: int = MAX_LINE_CHARACTERS) -> str | None:
    """Return the text in NFC on one line, cut to `limit` characters; None if nothing is left."""
    plain = _CONTROLS.sub(" ", text[:MAX_ENCODED_BYTES])
    return nfc(" ".join(plain.split()))[:limit].rstrip() or None


def name(text: str) -> str | None:
    """Return the text of a camera, country, city, label or keyword on one line."""
    return one_line(text, limit=MAX_NAME_CHARACTERS)


def camera(make: str, model: str) -> str | None:
    """Return "Make Model", without the make if the model already begins with its first word."""
    make, model = _printable(make), _printable(model)
    if make and model and model.lower().split()[0] == make.lower().split()[0]:
        return name(model)
    return name(f"{make} {model}")


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def description(text: str) -> str | None:
    """Return a description in NFC with its line ends, cut to its limit; None if no person wrote it."""
    lines = _LINE_END.sub("\n", _CHARSET_PREFIX.sub("", text[:MAX_ENCODED_BYTES], count=1)).split("\n")
    joined = "\n".join(one_line(line, limit=MAX_DESCRIPTION_CHARACTERS) or "" for line in lines)
    whole = re.sub(r"\n{3,}", "\n\n", joined).strip()[:MAX_DESCRIPTION_CHARACTERS].rstrip()
    return whole if _is_written_by_people(whole) else None


def title(text: str) -> str | None:
    """Return a title on one line; None if no person wrote it."""
    line = one_line(text)
    return line if line is not None and _is_written_by_people(line) else None


def _is_written_by_people(text: str) -> bool:
    if text.count("\ufffd") > _UNREADABLE_SHARE * len(text) or _BY_DEVICES.fullmatch(text):
        return False
    # Question marks are what is left of another character set; emoji are symbols.
    return any(unicodedata.category(character)[0] in "LN" or ord(character) > 0x2000 for character in text)
