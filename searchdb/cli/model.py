"""`searchdb model`: lists the models that a collection can use, and shows what one is."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from searchdb.cli import Group, models_as_arguments, open_collection
from searchdb.cli.output import print_json, print_table

if TYPE_CHECKING:
    from searchdb.media.models.description import ModelDescription

SUBCOMMANDS: dict[str, str] = {
    "list": "model",
    "show": "model",
    "compare": "model_compare",
    "switch": "model_switch",
    "status": "model_switch",
    "forget": "model_switch",
}
"""Subcommands in the order of the help, and the modules of this package that define them as `<name>_command`."""


class ModelGroup(Group):
    """A group that imports a subcommand's module when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand by name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        return getattr(import_module(f"searchdb.cli.{SUBCOMMANDS[cmd_name]}"), f"{cmd_name}_command")


@click.group("model", cls=ModelGroup)
def model_command() -> None:
    """Show which models there are, and change the collection's."""


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def list_command(ctx: click.Context, as_json: bool) -> None:
    """List the collection's models, those on this machine, and recommended ones."""
    from searchdb.db.stored_models import stored_models
    from searchdb.media.models.description import models_here
    from searchdb.media.models.recommended import RECOMMENDED

    with open_collection(ctx).database.connect() as connection:
        stored = stored_models(connection)
    here = models_here()
    if as_json:
        print_json(
            {
                "collection": [
                    {
                        "name": model.identity.name,
                        "weights": model.identity.short_weights,
                        "dimension": model.identity.dimension,
                        "current": model.current,
                        "retired_at": model.retired_at,
                        "verified": model.verified,
                        "kept": model.kept,
                    }
                    for model in stored
                ],
                "this_machine": [description_json(model) for model in here],
                "recommended": [asdict(model) for model in RECOMMENDED],
            }
        )
        return
    click.echo("Models of this collection:" if stored else "Models of this collection: none yet")
    if stored:
        print_table(
            ("", "model", "numbers", "weights", "switched from", "vectors"),
            (
                (
                    "current" if model.current else "",
                    model.identity.name,
                    model.identity.dimension,
                    model.identity.short_weights if model.verified else "unknown",
                    model.retired_at and f"{model.retired_at:%Y-%m-%d %H:%M}",
                    "kept" if model.kept else "dropped",
                )
                for model in stored
            ),
        )
    click.echo("\nModels on this machine:")
    print_table(
        ("model", "family", "numbers", "size", "languages", "licence"),
        (
            (model.name, model.family, model.dimension, _size(model), _languages(model), model.licence or "not stated")
            for model in here
        ),
    )
    click.echo("\nRecommended models (docs/models.md has their figures):")
    print_table(
        ("model", "numbers", "languages", "for"),
        ((model.name, model.dimension, model.languages, ", ".join(model.needs)) for model in RECOMMENDED),
    )


@click.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def show_command(name: str, as_json: bool) -> None:
    """Show what a model is: family, numbers, context, languages, licence, size.

    NAME is a hub name, a folder or `demo`. Of a model that is not on this machine only its small files are fetched.
    """
    from searchdb.media.models.description import describe_model

    with models_as_arguments(name):
        model = describe_model(name)
    if as_json:
        print_json(description_json(model))
        return
    width, height = model.image_size
    for label, value in (
        ("model", model.name),
        ("family", model.family),
        ("numbers", f"{model.dimension:,}" + ("" if model.usable else ", which searchdb cannot store")),
        ("context", f"{model.context_length:,} tokens"),
        ("image", f"{width} x {height} pixels"),
        ("languages", _languages(model)),
        ("licence", model.licence or "not stated"),
        ("size", _size(model)),
        ("weights", model.weights or "not on this machine"),
        ("folder", model.folder),
    ):
        click.echo(f"{label:<10} {value}")


def description_json(model: ModelDescription) -> dict[str, Any]:
    """Return a description as JSON values."""
    return asdict(model) | {"usable": model.usable}


def _languages(model: ModelDescription) -> str:
    most = 6
    if len(model.languages) > most:
        return f"{', '.join(model.languages[:most])} and {len(model.languages) - most} more"
    return ", ".join(model.languages) or "not stated"


def _size(model: ModelDescription) -> str:
    return "not on this machine" if model.bytes_on_disk is None else f"{model.bytes_on_disk / 1e6:,.0f} MB"
