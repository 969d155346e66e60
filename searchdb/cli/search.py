"""`searchdb search` and `searchdb embed`."""

from __future__ import annotations

import click

from searchdb.cli import open_collection
from searchdb.cli.output import hit_json, print_hits, print_json


@click.command("search")
@click.argument("text", required=False)
@click.option("--image", metavar="PATH|URL", help="a picture to search by, alone or with TEXT")
@click.option("--like", type=int, metavar="ID", help="a stored picture to search by")
@click.option("--not", "exclude", metavar="TEXT", help="what it should not be")
@click.option("--threshold", type=float, default=0.0, show_default=True, help="least cosine similarity, -1 to 1")
@click.option("--count", type=int, default=10, show_default=True, help="number of hits")
@click.option("--offset", type=int, default=0, show_default=True, help="hits to pass over")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def search_command(
    ctx: click.Context,
    text: str | None,
    image: str | None,
    like: int | None,
    exclude: str | None,
    threshold: float,
    count: int,
    offset: int,
    as_json: bool,
) -> None:
    """Rank the stored pictures by similarity to a text, a picture, or both.

    \b
    searchdb search "a dog sitting on a bench"
    searchdb search "at the beach" --image me.jpg --not "other people"
    """
    if text is None and image is None and like is None:
        raise click.UsageError("nothing to search for: give TEXT, --image or --like")
    hits = open_collection(ctx).search(
        text, image=image, like=like, exclude=exclude, threshold=threshold, count=count, offset=offset
    )
    query = {
        "text": text,
        "image": image,
        "like": like,
        "not": exclude,
        "threshold": threshold,
        "count": count,
        "offset": offset,
    }
    if as_json:
        print_json({"query": query, "hits": [hit_json(hit) for hit in hits]})
        return
    asked = " + ".join(str(part) for part in (text, image, like and f"picture {like}") if part)
    wanted = f"{asked}, not {exclude}" if exclude else asked
    if hits:
        print_hits(hits, title=f"Ranked results for: {wanted}", offset=offset)
    else:
        click.echo(f"No picture is at least {threshold} similar to: {wanted}", err=True)


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
