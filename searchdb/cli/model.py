"""`searchdb model`: the group of commands about embedding models."""

from __future__ import annotations

import click

from searchdb.cli import Group
from searchdb.cli.model_compare import compare_command


@click.group("model", cls=Group)
def model_command() -> None:
    """Compare embedding models."""


model_command.add_command(compare_command)
