"""`searchdb search` and `searchdb embed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import click

from searchdb.cli import open_collection
from searchdb.cli.output import hit_json, print_hits, print_json

FILTER_OPTIONS = (
    click.option("--source", multiple=True, metavar="NAME", help="ingested from: demo, files, urls, unsplash"),
    click.option("--country", multiple=True, metavar="NAME", help="taken in this country; repeat for any of several"),
    click.option("--city", multiple=True, metavar="NAME", help="taken in this city; repeat for any of several"),
    click.option("--camera", multiple=True, metavar="NAME", help="taken with this camera; repeat for any of several"),
    click.option("--tag", multiple=True, metavar="TAG", help="has this tag; repeat for all of several"),
    click.option("--any-tag", multiple=True, metavar="TAG", help="has this tag; repeat for any of several"),
    click.option(
        "--taken-after", metavar="DATE", help="taken on this day or later: 2024-05-31, 2024-05-31T18:00+02:00"
    ),
    click.option("--taken-before", metavar="DATE", help="taken before this day or moment"),
    click.option("--orientation", type=click.Choice(["landscape", "portrait", "square"]), help="the picture's shape"),
    click.option("--min-size", type=int, metavar="PIXELS", help="its shorter side is at least this long"),
    click.option("--near", metavar="LAT,LON", help="taken around this point, in degrees; with --radius-km"),
    click.option("--radius-km", type=float, metavar="KM", help="at most so far from --near"),
    click.option("--words", metavar="TEXT", help='words in description or tags: a "a phrase" or -without'),
    click.option("--exclude-id", type=int, multiple=True, metavar="ID", help="not this picture; may be repeated"),
    click.option("--where", metavar="SQL", help='a condition on the columns of images: "width > 2000 AND ..."'),
)
"""The fields of `Filters`, under their names."""


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(FILTER_OPTIONS):
        command = option(command)
    return command


@click.command("search")
@click.argument("text", required=False)
@click.option("--image", metavar="PATH|URL", help="a picture to search by, alone or with TEXT")
@click.option("--like", type=int, metavar="ID", help="a stored picture to search by")
@click.option("--not", "exclude", metavar="TEXT", help="what it should not be")
@click.option("--threshold", type=float, default=0.0, show_default=True, help="least cosine similarity, -1 to 1")
@click.option("--min-relevance", type=float, default=0.0, show_default=True, help="least relevance to TEXT, 0 to 1")
@click.option("--count", type=int, default=10, show_default=True, help="number of hits")
@click.option("--offset", type=int, default=0, show_default=True, help="hits to pass over")
@_filtered
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def search_command(
    ctx: click.Context,
    text: str | None,
    image: str | None,
    like: int | None,
    exclude: str | None,
    threshold: float,
    min_relevance: float,
    count: int,
    offset: int,
    as_json: bool,
    **filters: Any,
) -> None:
    """Rank the stored pictures by similarity to a text, a picture, or both.

    Relevance tells how well a picture answers TEXT, from 0 to 1, whatever the text; similarity differs by text.

    \b
    searchdb search "a dog sitting on a bench"
    searchdb search "at the beach" --image me.jpg --not "other people"
    searchdb search "a boat" --country Chile --taken-after 2024-01-01 --orientation landscape
    """
    if text is None and image is None and like is None:
        raise click.UsageError("nothing to search for: give TEXT, --image or --like")
    from searchdb.search.filters import Filters

    given = Filters(**filters)
    limits = {"threshold": threshold, "min_relevance": min_relevance, "count": count, "offset": offset}
    hits = open_collection(ctx).search(text, image=image, like=like, exclude=exclude, **limits, **filters)
    if as_json:
        asked = {"text": text, "image": image, "like": like, "not": exclude}
        query = {**asked, **limits, "filters": given.to_json()}
        print_json({"query": query, "hits": [hit_json(hit) for hit in hits]})
        return
    named = " + ".join(str(part) for part in (text, image, like and f"picture {like}") if part)
    wanted = f"{named}, not {exclude}" if exclude else named
    if given:
        wanted += f" ({'; '.join(f'{name} {_in_words(value)}' for name, value in given.to_json().items())})"
    if hits:
        print_hits(hits, title=f"Ranked results for: {wanted}", offset=offset)
    else:
        relevant = f" and {min_relevance} relevant" if min_relevance else ""
        click.echo(f"No picture is at least {threshold} similar{relevant} to: {wanted}", err=True)


@click.command("embed")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--json", "as_json", is_flag=True, help="print the vectors as JSON")
@click.pass_context
def embed_command(ctx: click.Context, texts: tuple[str, ...], as_json: bool) -> None:
    """Embed texts, so that SQL's text_embedding() finds them."""
    vectors = open_collection(ctx).embed(texts)
    if as_json:
        embeddings = [{"text": t, "embedding": v.tolist()} for t, v in zip(texts, vectors, strict=True)]
        print_json({"embeddings": embeddings})
    else:
        click.echo(f"stored {len(texts)} query embedding{'s' if len(texts) > 1 else ''}", err=True)


def _in_words(value: Any) -> str:
    return ", ".join(map(str, cast(list[Any], value))) if isinstance(value, list) else str(value)
