"""Sources of images: each turns its input into a stream of SourceItems and RejectedItems."""

from __future__ import annotations

from searchdb.records import MAX_REFERENCE_BYTES


def printable(reference: str) -> str:
    """Return a malformed path or URL in a form safe for databases and terminals: escaped and cut to the limit.

    Control characters, and bytes that are not UTF-8 (lone surrogates in Python), become escapes such as `\\xff`.
    """
    return "".join(map(_printable, reference)).encode()[:MAX_REFERENCE_BYTES].decode("utf-8", "ignore")


def _printable(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
