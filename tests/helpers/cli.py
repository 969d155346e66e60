"""Runs the command line within the test's process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from searchdb.cli import cli
from searchdb.config import Settings


def run(settings: Settings, *arguments: str | Path, stdin: str | None = None) -> Result:
    """Run a command on a database of the tests."""
    assert settings.database_url is not None
    options = [
        "--database-url", settings.database_url.get_secret_value(), "--home", str(settings.home), "--model", "demo",
        "--allow-private-addresses",
    ]  # fmt: skip
    return CliRunner().invoke(cli, [*options, *map(str, arguments)], input=stdin, prog_name="searchdb")


def output(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout
