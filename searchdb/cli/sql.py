"""`searchdb sql`: runs a statement and prints its rows."""

from __future__ import annotations

import sys

import click

from searchdb.cli import open_collection
from searchdb.cli.output import print_json, print_table


@click.command("sql")
@click.argument("query")
@click.option("--write", is_flag=True, help="allow the statement to change data")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def sql_command(ctx: click.Context, query: str, write: bool, as_json: bool) -> None:
    """Run SQL; texts in text_embedding('…') and search_images('…') are embedded first. `-` reads standard input.

    Without --write the statement runs by a role that may SELECT and do nothing else, so that it is safe to run SQL of
    others: on the embedded server always, on others by the role in DATABASE_URL_READ, see `searchdb db reader`. What
    the statement reads is not limited, nor the server's time and memory. Programs of your own user can still reach the
    embedded server as its owner, through its socket.

    \b
    searchdb sql "select i.image, m.similarity, i.country
                  from match_images(text_embedding('a boat'), 0.2, 100) m join images i using (id)
                  where i.taken_at > '2024-01-01' limit 10"
    """
    from searchdb.db import user_sql

    statement = sys.stdin.read() if query == "-" else query
    collection = open_collection(ctx)
    if texts := user_sql.texts_to_embed(statement):
        collection.embed(texts)
    engine = collection.database.engine if write else collection.database.reader
    with engine.connect() as connection:
        result = user_sql.run_sql(connection, statement, write=write)
    if as_json:
        rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
        print_json({"columns": result.columns, "rows": rows})
    elif result.columns:
        print_table(result.columns, result.rows)
