"""Combines the parts of a query into one vector, in which each part counts by its weight and not by its spread."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.best_effort import BestEffortWriter
from searchdb.db.tables import image_sample
from searchdb.errors import QueryError
from searchdb.search.image_sample import OF_CURRENT_MODEL, STORED, measure_on_sample
from searchdb.search.ranking import parameter

WANTED_IMAGES = ("image", "like")
TEXTS = ("text", "not")
UNWANTED = ("not", "unlike")
"""These three are names of a query's parts, as in `Hit.parts`."""
MIDDLE = 0.5
"""The text weight of a query that gives none."""
TEXT_FACTOR = 0.875
"""What a text counts beside an image at the middle. Beside an image of one kind and the text of another that excludes
it, 0.75 is the least with which 45 percent of the first ten hits show the text's kind, and 0.97 the most with which 20
percent show the image's; where one image can show both, the range is about 0.8 to 1."""
UNWANTED_FACTOR = 0.55
"""What an excluded text or disliked images count beside a wanted part. From 0.3 to 0.7 "a, not b" is better than "a"
alone. Of kinds that exclude each other, 0.55 is the least with the best result; where images show several things, 0.4
is best, and from 0.6 on too much of what is wanted is lost."""
SAME = 1 - 1e-6
"""Cosine similarity from which two parts are the same."""
TEXT_SPREAD, IMAGE_SPREAD = 0.02, 0.08
"""Spreads with the CLIP models of OpenAI: they stand in where a collection cannot be measured."""
LEAST_SPREAD = 1e-4
"""Smallest spread that is divided by: images that are all the same have none."""


def measure_spreads(
    connection: Connection, parts: Mapping[str, np.ndarray], writer: BestEffortWriter
) -> dict[str, float]:
    """Return how much the similarities of each part vary: their standard deviation over a sample of the collection.

    Draws the sample when there is none or most of it is gone, in a transaction of its own. Less than MIN_SAMPLE images,
    or a read-only database without a sample, have the usual spreads of CLIP: TEXT_SPREAD and IMAGE_SPREAD.

    Args:
        connection: in a transaction without uncommitted writes.
        parts: unit vectors, float32 of shape (dimension,), by their names.
        writer: stores the sample.
    """
    statement, values = _spreads(tuple(parts)), {f"part_{name}": vector for name, vector in parts.items()}
    found = measure_on_sample(connection, writer, lambda: connection.execute(statement, values).mappings().one())
    if found is None:
        return {name: TEXT_SPREAD if name in TEXTS else IMAGE_SPREAD for name in parts}
    return {name: found[f"part_{name}"] for name in parts}


def weigh(spreads: Mapping[str, float], text_weight: float | None = None) -> dict[str, float]:
    """Return the factor of each part's unit vector, negative for unwanted parts; their absolute values add up to 1.

    CLIP's texts and images lie in two narrow cones. A text's similarities to the images vary by 0.02, an image's by
    0.08, so a plain sum ranks by the image. Divided by its spread, each part moves the ranking as much as its weight
    says, and the sum is still one vector, which the index can search for.

    The text counts `text_weight` times TEXT_FACTOR, the wanted images the rest: nothing at 1, alone at 0. What is
    unwanted counts UNWANTED_FACTOR of a part of its sort, whatever the text weight. This is Rocchio's relevance
    feedback (J. J. Rocchio, in: The SMART Retrieval System, 1971), with spreads.

    Args:
        spreads: of the parts, by their names.
        text_weight: 0 to 1; None is the middle. Without both a text and a wanted image it has no effect.
    """
    wanted_images, unwanted = ([name for name in spreads if name in names] for names in (WANTED_IMAGES, UNWANTED))
    share = MIDDLE if text_weight is None else text_weight
    of_text, of_images = (share, 1 - share) if wanted_images and "text" in spreads else (1.0, 1.0)
    factors: dict[str, float] = {}
    for name, spread in spreads.items():
        if name in unwanted:
            importance = -UNWANTED_FACTOR / len(unwanted)
        else:
            importance = of_text if name == "text" else of_images / len(wanted_images)
        factors[name] = importance * (TEXT_FACTOR if name in TEXTS else 1) / max(spread, LEAST_SPREAD)
    total = sum(map(abs, factors.values()))
    return {name: factor / total for name, factor in factors.items()}


def combine(parts: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Return the unit vector of a whole query, float32 of shape (dimension,): the sum of the parts times their weights.

    Raises:
        QueryError: the same is wanted and unwanted.
    """
    wanted, unwanted = ([parts[name] for name in parts if (name in UNWANTED) is off] for off in (False, True))
    if any(float(one @ other) > SAME for one in wanted for other in unwanted):
        raise cancelled()
    return unit(np.sum([weights[name] * part for name, part in parts.items()], axis=0))


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a vector with length 1, float32.

    Raises:
        QueryError: it has no direction.
    """
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        raise cancelled()
    return (vector / norm).astype(np.float32)


def cancelled() -> QueryError:
    """Return the error for a query of which nothing is left."""
    return QueryError("the parts of the query cancel each other out: the same thing is searched for and excluded")


@cache
def _spreads(names: tuple[str, ...]) -> sa.Select[tuple[float, ...]]:
    """Return the statement for the spreads of parts, whose parameters and columns are `part_<name>`.

    It also has the numbers of images `sampled` and, up to SAMPLE_SIZE, `stored`.
    """
    # A similarity is 1 - distance, so both vary alike.
    distances = {name: image_sample.c.embedding.cosine_distance(parameter(f"part_{name}")) for name in names}
    return sa.select(
        sa.func.count().label("sampled"),
        STORED.label("stored"),
        *(sa.func.stddev_pop(distance).label(f"part_{name}") for name, distance in distances.items()),
    ).where(OF_CURRENT_MODEL)
