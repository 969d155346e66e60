"""Where pictures come from: each source turns what it is given into a stream of SourceItems and RejectedItems."""

from __future__ import annotations

from searchdb.records import MAX_REFERENCE_BYTES


def printable(reference: str) -> str:
    """Return a malformed path or URL so that every database and terminal takes it: escaped, and cut to the limit.

    Bytes that are not UTF-8, which Python holds as lone surrogates, and control characters become `\\xff` and the like.
    """
    return "".join(map(_printable, reference)).encode()[:MAX_REFERENCE_BYTES].decode("utf-8", "ignore")


def _printable(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
