"""Writes times within a video, for people and for players."""

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


def decimal_seconds(seconds: float) -> str:
    """Return seconds with at most three decimals and no trailing zeros, such as `12.5` or `100`."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def time_fragment(seconds: float) -> str:
    """Return the fragment of a URL with which a player starts at this second, such as `#t=12.5`."""
    return f"#t={decimal_seconds(seconds)}"
