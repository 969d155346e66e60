"""`searchdb search` and `searchdb embed`."""

from __future__ import annotations

from typing import Any, cast

import click

from searchdb.cli import open_collection
from searchdb.cli.index_prose import stale_index_advice
from searchdb.cli.output import hit_json, print_hits, print_json
from searchdb.cli.query_options import filter_options, query_options


@click.command("search")
@query_options
@click.option("--count", type=int, default=10, show_default=True, help="number of hits")
@click.option("--offset", type=int, default=0, show_default=True, help="hits to skip")
@click.option("--one-per-video", is_flag=True, help="of a video's frames only the best, with their number")
@filter_options
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def search_command(
    ctx: click.Context,
    text: str | None,
    image: str | None,
    like: tuple[int, ...],
    unlike: tuple[int, ...],
    exclude: str | None,
    text_weight: float | None,
    threshold: float,
    min_relevance: float,
    count: int,
    offset: int,
    one_per_video: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Rank the stored images by similarity to a text, an image, or both.

    Relevance says how well an image matches TEXT, on one scale from 0 to 1; similarities of different texts cannot be
    compared.

    \b
    searchdb search "a dog sitting on a bench"
    searchdb search "at the beach" --image me.jpg --not "other people" --text-weight 0.6
    searchdb search --like 12 --like 31 --unlike 7
    searchdb search "a boat" --country Chile --taken-after 2024-01-01 --orientation landscape
    """
    if text is None and image is None and not like:
        raise click.UsageError("nothing to search for: give TEXT, --image or --like")
    from searchdb.index.status import index_status
    from searchdb.search.filters import Filters

    given = Filters(**filters)
    limits = {"threshold": threshold, "min_relevance": min_relevance, "count": count, "offset": offset}
    limits |= {"one_per_video": one_per_video}
    asked = {"image": image, "like": like, "unlike": unlike, "exclude": exclude, "text_weight": text_weight}
    collection = open_collection(ctx)
    hits = collection.search(text, **asked, **limits, **filters)
    with collection.database.begin() as connection:
        if (advice := stale_index_advice(index_status(connection))) is not None:
            click.echo(advice, err=True)
    if as_json:
        parts = {"text": text, "image": image, "like": like, "unlike": unlike, "not": exclude}
        query = {
            **parts,
            "text_weight": text_weight,
            **limits,
            "one_per_video": one_per_video,
            "filters": given.to_json(),
        }
        print_json({"query": query, "hits": [hit_json(hit) for hit in hits]})
        return
    named = " + ".join(str(part) for part in (text, image, _images_in_words(like)) if part)
    wanted = ", not ".join(str(part) for part in (named, exclude, _images_in_words(unlike)) if part)
    if given:
        wanted += f" ({'; '.join(f'{name} {_in_words(value)}' for name, value in given.to_json().items())})"
    if hits:
        print_hits(hits, title=f"Ranked results for: {wanted}", offset=offset)
    else:
        relevant = f" and a relevance of at least {min_relevance}" if min_relevance else ""
        click.echo(f"No image has a similarity of at least {threshold}{relevant} to: {wanted}", err=True)


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


def _images_in_words(ids: tuple[int, ...]) -> str:
    return f"image{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids))}" if ids else ""


def _in_words(value: Any) -> str:
    return ", ".join(map(str, cast(list[Any], value))) if isinstance(value, list) else str(value)
