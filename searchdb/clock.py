"""Writes a time within a video as people read it."""

from __future__ import annotations


def clock(seconds: float, *, whole: bool = False) -> str:
    """Return seconds as minutes and seconds, such as `0:12.5`, or with hours, such as `1:02:03`.

    `whole` drops the fraction; otherwise up to two decimals are kept.
    """
    hundredths = max(int(seconds) * 100 if whole else round(seconds * 100), 0)
    minutes, left = divmod(hundredths, 60 * 100)
    hours, minutes = divmod(minutes, 60)
    second, fraction = divmod(left, 100)
    decimals = f".{fraction:02d}".rstrip("0") if fraction else ""
    return f"{f'{hours}:{minutes:02d}' if hours else minutes}:{second:02d}{decimals}"
