"""Loads the templates of the HTML files that are written: the contact sheet, and the comparison of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from jinja2 import Template


def load_template(path: Path, **filters: Callable[..., str]) -> Template:
    """Return the template in a file, with further filters by name; what it shows is escaped, and must be given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # loads slowly

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cast("dict[str, Any]", environment.filters).update(filters)  # pyright: ignore[reportUnknownMemberType] - untyped
    return environment.get_template(path.name)
