"""`searchdb verify`: compares stored images with their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from searchdb.cli import open_collection
from searchdb.cli.output import print_json, printable
from searchdb.plurals import counted

if TYPE_CHECKING:
    from searchdb.ingest.verify import Difference


ADVICE = {
    "changed": "`searchdb ingest files PATH --reread` reads changed files again",
    "missing": "`searchdb ingest files PATH --prune` removes missing images; --moved-to FOLDER looks for them there",
    "moved": "--fix-moved gives moved images their new path",
    "unreadable": "check the permissions and the disk of unreadable files",
}
"""What can be done about each kind of difference."""


@click.command("verify")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@click.option("--moved-to", multiple=True, metavar="FOLDER", help="look for missing files here too; may be repeated")
@click.option("--fix-moved", is_flag=True, help="give moved images their new path; they keep their id and metadata")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def verify_command(
    ctx: click.Context, paths: tuple[str, ...], moved_to: tuple[str, ...], fix_moved: bool, as_json: bool
) -> None:
    """Compare stored images with their files: which changed, are missing, moved or unreadable.

    Reads the files of all stored images, or of those below the paths. Missing files are searched by their content in
    the paths and in the folders of --moved-to. Changes nothing unless --fix-moved is given. Exits with status 1 if an
    image differs from its file.
    """
    from searchdb.ingest.verify import to_json

    differences: list[dict[str, Any]] = []

    def show(difference: Difference) -> None:
        if as_json:
            differences.append(to_json(difference))
            return
        detail = difference.moved_to or difference.reason
        shown = f"{difference.image} -> {detail}" if difference.kind == "moved" else difference.image
        reason = f": {detail}" if difference.kind == "unreadable" else ""
        click.echo(f"{difference.kind:<11}{printable(shown + reason)}")

    report = open_collection(ctx).verify(*paths, moved_to=moved_to, fix_moved=fix_moved, found=show)
    numbers = report.to_json()
    if as_json:
        print_json(numbers | {"differences": differences})
    outcomes = ", ".join(f"{numbers[name]:,} {name}" for name in ("unchanged", *report.counts))
    fixed = f" ({report.fixed:,} fixed)" if report.fixed else ""
    skipped = f"; {counted(report.skipped, 'image')} at URLs skipped" if report.skipped else ""
    click.echo(f"{counted(report.checked, 'image')} checked: {outcomes}{fixed}{skipped}", err=True)
    for kind, count in report.counts.items():
        if kind != "moved" or count > report.fixed:
            click.echo(ADVICE[kind], err=True)
    if report.differing:
        ctx.exit(1)
