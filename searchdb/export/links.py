"""Names and links images in HTML files that are read without a server."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from searchdb.clock import time_fragment
from searchdb.records import clean_url, is_url

MAX_TEXT_CHARACTERS = 400
"""Longest text of an image that is shown: a caption of a few lines."""


def shortened(text: str | None) -> str | None:
    """Return a text cut to MAX_TEXT_CHARACTERS; None for a blank one."""
    if not text or not text.strip():
        return None
    text = text.strip()
    return text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[:MAX_TEXT_CHARACTERS]}…"


def shown_name(reference: str) -> str:
    """Return the last part of a path or URL, for people to read; empty if there is none."""
    if not is_url(reference):
        return PurePosixPath(reference).name
    link = web_link(reference)
    parts = urlsplit(link or "")
    return unquote(PurePosixPath(parts.path).name) or parts.hostname or ""


def link_to(reference: str, folder: str | None, time: float | None) -> str | None:
    """Return the URL of an image or, with a `time` in seconds, of this moment of a video; None if it has none.

    It is relative to `folder`, in which the page is, or without a folder a `file:` URL.
    """
    moment = "" if time is None else time_fragment(time)
    if is_url(reference):
        link = web_link(reference)
    elif not os.path.isabs(reference):  # noqa: PTH117 - a path of the database, which need not be one
        link = None
    elif folder is None:
        link = f"file://{quote(reference)}"
    else:
        # Quoting also makes a colon harmless, with which a relative URL would have a scheme.
        link = quote(os.path.relpath(reference, folder))
    return link and link + moment


def web_link(url: str | None) -> str | None:
    """Return an http or https URL without its user and password; None for any other text."""
    try:
        parts = urlsplit(clean_url(url or ""))
    except ValueError:
        return None
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
