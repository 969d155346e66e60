"""Defines the `searchdb` command: the options that override settings, and the handling of errors and signals."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

import click

from searchdb.cli.streams import standard_streams
from searchdb.errors import ModelUnavailableError, SearchDBError

if TYPE_CHECKING:
    from searchdb.client import SearchDB
    from searchdb.config import Settings

COMMANDS = {
    "demo": "demo",
    "db": "db",
    "ingest": "ingest",
    "watch": "watch",
    "worker": "worker",
    "failures": "failures",
    "verify": "verify",
    "search": "search",
    "export": "export",
    "embed": "search",
    "sql": "sql",
    "index": "index",
    "model": "model",
    "status": "status",
    "serve": "serve",
}
"""Commands in the order of the help, and the modules of this package that define them."""


LONGEST_SUMMARY = 200
"""Characters of a command's first sentence in the help; click would cut it to what fits on one line."""


class Group(click.Group):
    """A group whose help has the whole first sentence of each command, on several lines where it needs them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(LONGEST_SUMMARY)) for name, command in commands if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Commands(Group):
    """A group that imports a command's module when it is used, and prints our errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name."""
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        return getattr(import_module(f"searchdb.cli.{COMMANDS[cmd_name]}"), f"{cmd_name}_command")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; without --debug our errors and the system's become one line and exit status 1."""
        try:
            return super().invoke(ctx)
        except SearchDBError as exc:
            if ctx.params["debug"]:
                raise
            raise click.ClickException(" ".join(str(exc).split())) from exc
        except OSError as exc:
            if ctx.params["debug"] or exc.errno == errno.EPIPE:
                raise
            raise click.ClickException(_system_error(exc)) from exc
        except UnicodeEncodeError as exc:
            if ctx.params["debug"]:
                raise
            wrong = ascii(exc.object[exc.start : exc.end])
            message = (
                f"the bytes {wrong} are not valid UTF-8: correct them, or set a UTF-8 locale such as LC_ALL=C.UTF-8"
            )
            raise click.ClickException(message) from exc


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="searchdb")
@click.option("--database-url", metavar="URL", help="PostgreSQL to use [DATABASE_URL; default: the embedded server]")
@click.option("--home", type=click.Path(file_okay=False), help="folder of the embedded server [SEARCHDB_HOME]")
@click.option("--model", help="hub name, folder, or 'demo' [SEARCHDB_MODEL; default: the collection's]")
@click.option("--device", help="auto, cpu, cuda, cuda:0, mps [SEARCHDB_DEVICE]")
@click.option("--dtype", help="auto, float32, bfloat16, float16 [SEARCHDB_DTYPE]")
@click.option(
    "--allow-private-addresses",
    is_flag=True,
    default=None,
    help="fetch from private networks too [SEARCHDB_ALLOW_PRIVATE_ADDRESSES]",
)
@click.option("--max-image-bytes", type=int, help="largest file to read, in bytes [SEARCHDB_MAX_IMAGE_BYTES]")
@click.option("--max-image-pixels", type=int, help="largest image to decode, in pixels [SEARCHDB_MAX_IMAGE_PIXELS]")
@click.option("--decode-memory", type=int, help="memory for decoding images, in bytes [SEARCHDB_DECODE_MEMORY]")
@click.option("-v", "--verbose", is_flag=True, help="log progress to stderr")
@click.option("--debug", is_flag=True, help="show tracebacks")
@click.pass_context
def cli(ctx: click.Context, verbose: bool, debug: bool, **overrides: Any) -> None:
    """Semantic image search in SQL."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Bad images are recorded in ingest_failures, and the worker logs outages; these libraries would repeat both.
    for chatty in ("httpx", "PIL", "procrastinate", "psycopg.pool"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL if not debug else level)
    ctx.obj = {name: value for name, value in overrides.items() if value is not None}


def settings_of(ctx: click.Context, **overrides: Any) -> Settings:
    """Return the settings: `overrides` take precedence over the command line, and that over the environment."""
    from searchdb.config import Settings

    return Settings(**(ctx.obj | overrides))


def open_collection(ctx: click.Context, **overrides: Any) -> SearchDB:
    """Return the collection, open until the command ends."""
    from searchdb.client import SearchDB

    return ctx.with_resource(SearchDB(settings_of(ctx, **overrides)))


@contextmanager
def models_as_arguments(*names: str | None) -> Generator[None]:
    """Give the advice that fits an argument, if a model cannot be loaded that one of the command's arguments names."""
    try:
        yield
    except ModelUnavailableError as exc:
        if exc.name not in names:
            raise
        raise ModelUnavailableError(exc.name, exc.reason, as_argument=True) from exc


def _system_error(error: OSError) -> str:
    """Return what the operating system refused, in one line; what can be said better is translated where it occurs."""
    if error.errno == errno.ENOENT and error.filename is None and not _has_current_folder():
        return "the current folder no longer exists: change to another one"
    name = "" if error.filename is None else f"{error.filename}: "
    return " ".join(f"{name}{error.strerror or error}".split())


def _has_current_folder() -> bool:
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        return False
    return True


def _interrupt(number: int, _frame: object) -> NoReturn:
    """Exit after clean-up, such as storing the current chunk; a second signal exits at once."""
    signal.signal(number, lambda number, _frame: os._exit(128 + number))
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _hide_secrets() -> None:
    """Start this process again with a secret in --database-url moved to the environment, as serve's children get it.

    Every user of the machine can read a command line, for as long as the command runs.
    """
    arguments = sys.argv[1:]
    kept, url = _without_database_url(arguments)
    if url is None or not arguments or sys.orig_argv[-len(arguments) :] != arguments:
        return
    from searchdb.database_url import SECRETS, parameters, parse_url

    try:
        if not SECRETS & parameters(parse_url(url)).keys():
            return
    except ValueError:  # may hold a secret, too
        pass
    program = [sys.executable, *sys.orig_argv[1 : -len(arguments)], *kept]
    os.execve(sys.executable, program, os.environ | {"DATABASE_URL": url})  # noqa: S606 - ourselves


def _without_database_url(arguments: list[str]) -> tuple[list[str], str | None]:
    """Return the arguments without the option before the command, and the option's value; None if it is not there."""
    kept, url = list[str](), None
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        option = next((each for each in cli.params if name in each.opts), None)
        if name == "--database-url":
            url = value if equals else next(rest, None)
        elif isinstance(option, click.Option):
            kept += [argument] if equals or option.is_flag else [argument, *islice(rest, 1)]
        else:
            return [*kept, argument, *rest], url
    return kept, url


def main() -> None:
    """Run the command line."""
    _hide_secrets()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as with nohup
            signal.signal(number, _interrupt)
    with standard_streams():
        cli(prog_name="searchdb")
