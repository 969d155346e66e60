"""Draws and keeps the sample of images with which texts are compared, for relevance and balances."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.best_effort import BestEffortWriter
from searchdb.db.current_model import CURRENT_MODEL_ID
from searchdb.db.samples import BLOCKS_PER_ROW
from searchdb.db.tables import image_sample, images, norm_in_range
from searchdb.db.vectors import VectorColumn, current_column

SAMPLE_SIZE = 1000
"""Images that a text is compared with, which takes about a millisecond."""
MIN_SAMPLE = 20
"""Fewer images are not enough for a distribution: hits then have no relevance."""
SAMPLE_LOCK_KEY = 0x5A3B1E00
"""Key of the advisory lock that prevents two processes from sampling at once."""
MEASURE_WAIT_S = 2.0
"""Longest wait for another thread that draws the sample or measures the scale, in seconds: with a large model measuring
takes longer, and the waiting searches would occupy all threads of a server."""

# One statement, so that it is one transaction in autocommit, too; DO takes no parameters. The images are drawn from a
# part of a large collection's blocks, unless most rows in them have been deleted.
_REFRESH = """
    DO $$
    DECLARE
        blocks CONSTANT double precision :=
            pg_relation_size('images') / current_setting('block_size')::double precision;
        percent CONSTANT double precision := 100 * least(<blocks> / greatest(blocks, 1), 1);
        drawn bigint;
    BEGIN
        PERFORM pg_advisory_xact_lock(<key>);
        -- Once images is locked, no other model can become the current one: has one since the caller looked?
        PERFORM FROM images LIMIT 0;
        IF '<column>' = 'embedding' AND NOT EXISTS (SELECT FROM embedding_models WHERE id = <model> AND current) THEN
            RETURN;
        END IF;
        DELETE FROM image_sample WHERE embedding_model_id = <model>;
        INSERT INTO image_sample (image_id, embedding_model_id, embedding)
        -- without vectors from before the CHECK on their length
        SELECT id, <model>, <column> FROM images TABLESAMPLE SYSTEM (percent)
        WHERE <usable> ORDER BY random() LIMIT <size>;
        GET DIAGNOSTICS drawn = ROW_COUNT;
        IF drawn < <size> AND percent < 100 THEN
            DELETE FROM image_sample WHERE embedding_model_id = <model>;
            INSERT INTO image_sample (image_id, embedding_model_id, embedding)
            SELECT id, <model>, <column> FROM images WHERE id IN (SELECT id FROM images ORDER BY random() LIMIT <size>)
            AND <usable>;
        END IF;
        DELETE FROM relevance_scale WHERE embedding_model_id = <model>;
    END $$
"""


_drawing = threading.Lock()
"""Held by the thread that draws the sample, so that of many first searches only one does."""

OF_CURRENT_MODEL = image_sample.c.embedding_model_id == CURRENT_MODEL_ID
"""Condition on image_sample: only the vectors by the current model."""
STORED = sa.select(sa.func.count()).select_from(sa.select(images.c.id).limit(SAMPLE_SIZE).subquery()).scalar_subquery()
"""The number of images, counted up to SAMPLE_SIZE."""


def refresh_sample(connection: Connection, column: VectorColumn | None = None) -> None:
    """Draw a new sample in one statement: SAMPLE_SIZE random images, or all there are.

    Call it when the collection has changed much; the vector index's build does. The connection may be in autocommit.

    Args:
        connection: the database.
        column: whose vectors to take; by default the current model's.
    """
    column = column or current_column(connection)
    if column.model_id is None:  # no image yet
        return
    values = {
        "key": SAMPLE_LOCK_KEY,
        "size": SAMPLE_SIZE,
        "blocks": BLOCKS_PER_ROW * SAMPLE_SIZE,
        "model": column.model_id,
        "column": column.name,
        "usable": norm_in_range(column.name),
    }
    statement = _REFRESH
    for name, value in values.items():
        statement = statement.replace(f"<{name}>", str(value))
    connection.execute(text(statement))


def measure_on_sample(
    connection: Connection, writer: BestEffortWriter, measure: Callable[[], Mapping[Any, Any]]
) -> Mapping[Any, Any] | None:
    """Return what is measured on the sample; None if it has less than MIN_SAMPLE images.

    Draws the sample when there is none or most of it is gone, in a transaction of its own, and measures again.

    Args:
        connection: in a transaction without uncommitted writes.
        writer: stores the sample.
        measure: returns `sampled` and STORED as `stored`, beside other values.
    """
    found = measure()
    if _has_shrunk(found):
        connection.commit()
        with held(_drawing) as alone:
            if alone and _has_shrunk(measure()):  # no other thread has drawn it meanwhile
                connection.commit()
                writer.write(connection, refresh_sample)
        found = measure()
    return None if found["sampled"] < MIN_SAMPLE else found


def _has_shrunk(found: Mapping[Any, Any]) -> bool:
    """Whether there is no sample, or most of it is gone."""
    return found["sampled"] < min(found["stored"], SAMPLE_SIZE) / 2


@contextmanager
def held(lock: threading.Lock) -> Generator[bool]:
    """Hold a lock, and yield whether it was free within MEASURE_WAIT_S."""
    alone = lock.acquire(timeout=MEASURE_WAIT_S)
    try:
        yield alone
    finally:
        if alone:
            lock.release()
