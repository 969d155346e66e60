"""Checks a model against the vectors that came from elsewhere under its name, before its weights are adopted."""

from __future__ import annotations

import logging

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy import Engine

from searchdb.db.current_model import claim_model, may_be, rename_model, unverified_row
from searchdb.db.driver_errors import is_read_only
from searchdb.db.tables import as_vector, images
from searchdb.embedder import Embedder
from searchdb.errors import ImageError, UnverifiedModelError
from searchdb.media.decode import decode
from searchdb.media.local_files import read_file
from searchdb.media.memory import MemoryBudget
from searchdb.records import FetchedImage, SourceItem

LEAST_COSINE = 0.98
"""Least median cosine of a model's own vectors to the given ones. Other programs resize a little differently, and in
half precision; that leaves 0.99 or more. Another model leaves 0.1 or less."""
COMPARED_IMAGES = 8
"""Images that are embedded again: their median tells models apart, and takes a second on one core."""
_CANDIDATES = 200

logger = logging.getLogger(__name__)


def adopt_model(engine: Engine, embedder: Embedder, *, max_bytes: int, max_pixels: int, memory: MemoryBudget) -> None:
    """Adopt the weights of a model whose vectors came from elsewhere, if they are the collection's; else do nothing.

    A few images whose files are on this machine are embedded again and compared first. Without such files the name has
    to do. A model with another name, such as a folder with the same weights, is adopted only after a comparison.

    Raises:
        UnverifiedModelError: it has the name, and gives other vectors.
        ModelError: it cannot be loaded.
    """
    with engine.connect() as connection:
        row = unverified_row(connection)
        if row is None or row.dimension != embedder.dimension:
            return
        has_name = may_be(row, embedder.identity)
        candidates = connection.execute(
            sa.select(images.c.image, as_vector(images.c.embedding).label("embedding"))
            .where(images.c.video.is_(None), images.c.image.startswith("/"), images.c.sha256.is_not(None))
            .limit(_CANDIDATES)
        ).all()
        read_only = is_read_only(connection)
    given: list[np.ndarray] = []
    pixels: list[Image.Image] = []
    for candidate in candidates:
        try:
            item = SourceItem(image=candidate.image, source="vectors")
            fetched = FetchedImage(item=item, data=read_file(candidate.image, max_bytes))
            decoded = decode(fetched, max_pixels=max_pixels, needed=embedder.shortest_edge, memory=memory)
        except ImageError:
            continue
        pixels.append(embedder.resize(decoded.pixels))
        given.append(candidate.embedding)
        if len(pixels) == COMPARED_IMAGES:
            break
    if pixels:
        cosine = float(np.median((embedder.embed_images(pixels) * np.stack(given)).sum(axis=1)))
        if cosine < LEAST_COSINE and has_name:
            raise UnverifiedModelError(embedder.identity.name, cosine, LEAST_COSINE)
        if cosine < LEAST_COSINE:
            return
        logger.info("%d images embedded again with %s: median cosine %.4f", len(pixels), embedder.identity.name, cosine)
    if read_only or not (has_name or pixels):
        return
    with engine.begin() as connection:
        if has_name:
            claim_model(connection, embedder.identity)
        else:
            rename_model(connection, embedder.identity)
