"""Hands a DecodeError from a helper process to the process that started it, as JSON."""

from __future__ import annotations

from typing import Any

from searchdb.errors import DecodeError


def error_to_json(error: DecodeError) -> dict[str, Any]:
    """Return an error as JSON values; `error_from_json` reverses it."""
    return {"error": type(error).__name__, "message": str(error), "values": vars(error)}


def error_from_json(values: dict[str, Any]) -> DecodeError:
    """Return the error that `error_to_json` made these values of.

    Raises:
        LookupError, TypeError, ValueError: they are malformed, as a process may write that a hostile file controls.
    """
    kinds = {kind.__name__: kind for kind in DecodeError.__subclasses__()}
    kind = kinds[values["error"]]
    error = kind.__new__(kind, str(values["message"]))  # not __init__, whose parameters differ
    vars(error).update(values["values"])
    return error
