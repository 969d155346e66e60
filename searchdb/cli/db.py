"""`searchdb db`: manages the database and the embedded server."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from searchdb.cli import Group, settings_of
from searchdb.cli.output import print_json

if TYPE_CHECKING:
    from searchdb.db.embedded import EmbeddedServer


@click.group("db", cls=Group)
def db_command() -> None:
    """Manage the database and the embedded server."""


@db_command.command("migrate")
@click.pass_context
def db_migrate(ctx: click.Context) -> None:
    """Upgrade the database's schema to this version; safe to repeat and to run concurrently."""
    from searchdb.db.database import Database
    from searchdb.db.embedded_reader import ensure_reader
    from searchdb.db.schema import migrate, outdated_objects
    from searchdb.db.version_table import find_collection

    with Database(settings_of(ctx)) as database:
        migrate(database)
        with database.connect() as connection:
            if database.embedded:
                ensure_reader(connection)
            collection = find_collection(connection)
            outdated = outdated_objects(connection, collection.schema)
    click.echo(f"the schema is at {collection.revision}", err=True)
    if outdated:
        raise click.ClickException(
            f"missing, or not as this version has it: {', '.join(outdated)}. Run `searchdb db repair`"
        )


@db_command.command("repair")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def db_repair(ctx: click.Context, as_json: bool) -> None:
    """Put back functions, keys, indexes and cache tables that a restore or an accident left out; safe to repeat."""
    from searchdb.repair import repair

    report = repair(settings_of(ctx))
    if as_json:
        print_json({"restored": report.restored, "invalid": asdict(report.invalid) if report.invalid else None})
    else:
        for name in report.restored:
            click.echo(f"put back: {name}")
        if not report.restored:
            click.echo("nothing is missing")
    if report.invalid:
        raise click.ClickException(str(report.invalid))


@db_command.command("status")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def db_status(ctx: click.Context, as_json: bool) -> None:
    """Show which database is used, whether it is running, and its schema; does not start it."""
    from searchdb.db.database import Database
    from searchdb.db.embedded import EmbeddedServer
    from searchdb.db.schema import SCHEMA_REVISION, schema_revision

    settings = settings_of(ctx)
    embedded = settings.url() is None
    server = EmbeddedServer.at(settings.home)
    state = {"embedded": embedded, "running": not embedded or server.is_running(), "expected_schema": SCHEMA_REVISION}
    if embedded:
        state |= {"home": str(settings.home), "pinned": server.pinned}
    if state["running"]:
        with Database(settings) as database, database.connect() as connection:
            state |= {"url": database.masked_url, "schema": schema_revision(connection)}
    if as_json:
        print_json(state)
    else:
        for name, value in state.items():
            click.echo(f"{name.replace('_', ' '):16} {value}")


@db_command.command("start")
@click.pass_context
def db_start(ctx: click.Context) -> None:
    """Start the embedded server and keep it running until `searchdb db stop`."""
    from searchdb.db.database import open_database

    server = _embedded_server(ctx)
    with open_database(settings_of(ctx)) as database:
        server.pin()
        click.echo(database.libpq_url)


@db_command.command("stop")
@click.option(
    "--undo", is_flag=True, help="also close the folders that were opened (o+x) to the server's user for root"
)
@click.pass_context
def db_stop(ctx: click.Context, undo: bool) -> None:
    """Stop the embedded server, even if other processes use it."""
    server = _embedded_server(ctx)
    click.echo("stopped" if server.stop() else "it was not running", err=True)
    if undo:
        for folder, closed in server.close_again():
            left = "left as it is, because it was changed since it was opened"
            click.echo(f"{folder}: {'closed again' if closed else left}", err=True)


@db_command.command("url")
@click.pass_context
def db_url(ctx: click.Context) -> None:
    """Print the database's URL, for psql and other programs."""
    from searchdb.database_url import effective_url, libpq_url
    from searchdb.db.embedded import EmbeddedServer

    settings = settings_of(ctx)
    url = settings.url()
    if url is None:
        server = EmbeddedServer.at(settings.home)
        url = server.url
        if not server.is_running():
            click.echo("the embedded server is not running: `searchdb db start` starts it", err=True)
    click.echo(libpq_url(effective_url(url)))


@db_command.command("reader")
@click.option("--name", help="the role [default: the database's name and _reader]")
@click.option("--keep-password", is_flag=True, help="give an existing role only the privileges it lacks")
@click.pass_context
def db_reader(ctx: click.Context, name: str | None, keep_password: bool) -> None:
    """Make a role that may only read the collection, for DATABASE_URL_READ, or renew its password and privileges.

    `searchdb sql` without --write, `searchdb search --where` and the page then read by that role. Our role needs
    CREATEROLE. Run it with --keep-password after an upgrade that migrates the schema. The embedded server has such a
    role of its own, and needs no setting.
    """
    from searchdb.database_url import effective_url, libpq_url
    from searchdb.db.database import open_database
    from searchdb.db.embedded_reader import READER
    from searchdb.db.reader_role import default_name, make_reader, reader_url

    settings = settings_of(ctx)
    if settings.url() is None:
        with open_database(settings) as database, database.reader.connect():
            click.echo(f"the embedded server reads by its own role {READER}: there is nothing to set", err=True)
        return
    with open_database(settings) as database:
        with database.connect() as connection:
            chosen = name or default_name(connection)
            connection.rollback()
            role = make_reader(connection, chosen, keep_password=keep_password)
        done = "created" if role.created else "kept, with all privileges that it needs"
        click.echo(f"the role {role.name} was {done if role.created or role.password is None else 'renewed'}", err=True)
        if role.password is not None:
            click.echo("the password is shown only now: set this variable for each process that reads", err=True)
            click.echo(f"DATABASE_URL_READ={libpq_url(reader_url(effective_url(database.url), role))}")


@db_command.command("shell", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def db_shell(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Open psql on the database; further arguments are passed to psql."""
    from searchdb.database_url import for_a_command_line
    from searchdb.db.database import open_database
    from searchdb.db.embedded_programs import program_path
    from searchdb.db.embedded_start import FOREIGN_VARIABLES

    with open_database(settings_of(ctx)) as database:
        psql = shutil.which("psql") or str(program_path("psql"))
        with for_a_command_line(database.url) as (address, variables):
            unfit = FOREIGN_VARIABLES if database.embedded else frozenset[str]()
            environment = {name: value for name, value in os.environ.items() if name not in unfit}
            environment.update(variables)
            status = subprocess.run([psql, *arguments, address], env=environment, check=False).returncode
            ctx.exit(128 - status if status < 0 else status)  # negative: the signal that ended it


def _embedded_server(ctx: click.Context) -> EmbeddedServer:
    from searchdb.db.embedded import EmbeddedServer

    settings = settings_of(ctx)
    if settings.url() is not None:
        raise click.UsageError("DATABASE_URL names another server: start and stop it with its own tools")
    return EmbeddedServer.at(settings.home)
