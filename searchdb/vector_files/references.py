"""Makes the references of rows: absolute paths and URLs, of what a column says or by a template."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from searchdb.errors import InvalidReferenceError, SourceError
from searchdb.records import MAX_REFERENCE_BYTES, clean_url, is_url, mask_credentials
from searchdb.sources import printable
from searchdb.vector_files.names import path_of

_SHOWN_CHARS = 80

Template = Callable[[Mapping[str, Any], Any], str]
"""Makes a reference from a row's columns and the value of its reference column, or its index."""


def template_of(text: str, columns: Collection[str], name: str) -> Template:
    """Return the function that fills a template such as `https://example.org/{}.jpg` or `{folder}/{key}.jpg`.

    In a URL the values are percent-encoded.

    Raises:
        SourceError: the template has no field, or one that is no column.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as exc:
        raise SourceError(f"the template {printable(text)!r} is malformed: {exc}") from exc
    names = [field for _, field, _, _ in parts if field is not None]
    if not names:
        raise SourceError(f"the template {printable(text)!r} needs a field: {{}}, or the name of a column in braces")
    for field, form, conversion in (
        (field, form, conversion) for _, field, form, conversion in parts if field is not None
    ):
        if form or conversion:
            raise SourceError(f"the template {printable(text)!r} may only have fields such as {{}} and {{name}}")
        if field and field not in columns:
            raise SourceError(
                f"the template has the field {{{printable(field)}}}, but {name} has no such column; it has "
                f"{', '.join(map(printable, columns)) or 'none'}"
            )
    encode = quote if is_url(text.lower()) else str

    def fill(row: Mapping[str, Any], own: Any) -> str:
        filled: list[str] = []
        for literal, field, _, _ in parts:
            filled.append(literal)
            if field is not None:
                value = path_of(row.get(field) if field else own)
                if value is None or value == "":
                    raise InvalidReferenceError(f"the row has no {field or 'reference'}")
                try:
                    filled.append(encode(str(value)))
                except UnicodeEncodeError as exc:
                    raise InvalidReferenceError(f"the row's {field or 'reference'} is not valid UTF-8") from exc
        return "".join(filled)

    return fill


def reference_of(value: Any, base: str | None) -> str:
    """Return the absolute path or URL that a value names; relative paths begin in `base`.

    Raises:
        InvalidReferenceError: it names none, or is too long.
    """
    value = path_of(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InvalidReferenceError("the row has no reference")
    text = str(value)
    if is_url(text.strip().lower()):
        try:
            return clean_url(text)
        except ValueError as exc:
            raise InvalidReferenceError(f"the reference {_shown(text)} {exc}") from None
    if text.startswith("file://"):
        try:
            text = unquote(urlsplit(text).path)
        except ValueError as exc:
            raise InvalidReferenceError(f"the reference {_shown(text)} has a malformed host") from exc
    elif "://" in text:
        raise InvalidReferenceError(
            f"the reference {_shown(text)} is neither a path nor an http(s) URL: make one of it with "
            "--reference-template"
        )
    return _path(text, base)


def _path(text: str, base: str | None) -> str:
    if "\0" in text:
        raise InvalidReferenceError(f"the reference {_shown(text)} holds a NUL character")
    if not _is_encodable(text):  # most functions of os raise for it
        raise InvalidReferenceError(f"the reference {_shown(text)} is not valid UTF-8")
    path = os.path.expanduser(text)  # noqa: PTH111 - pathlib raises for an unknown ~user
    if not os.path.isabs(path):  # noqa: PTH117 - a text, which Path would normalise
        if base is None:
            raise InvalidReferenceError(
                f"the reference {_shown(text)} is neither an absolute path nor a URL: name the folder of relative "
                "paths with --base, or for ids give --reference-template 'https://example.org/{}.jpg'"
            )
        path = os.path.join(base, path)  # noqa: PTH118
    folder, name = os.path.split(os.path.normpath(path))
    path = os.path.join(_resolved(folder), name)  # noqa: PTH118
    if not _is_encodable(path):  # where a symbolic link leads
        raise InvalidReferenceError(f"the reference {_shown(text)} leads to a path that is not valid UTF-8")
    size = len(path.encode())
    if size > MAX_REFERENCE_BYTES:
        raise InvalidReferenceError(f"the path is {size:,} bytes long, the limit is {MAX_REFERENCE_BYTES:,}")
    return path


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=1024)  # many files are in the same folder, and each part of a path takes a system call
def _resolved(folder: str) -> str:
    """Return a folder without symbolic links, as an ingest of files names it."""
    return os.path.realpath(folder)


def _shown(text: str) -> str:
    shown = mask_credentials(printable(text))
    return repr(shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}...")
