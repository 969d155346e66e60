"""The distribution of similarities between recent texts and a sample of the images."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.db.database import Database
from searchdb.db.tables import query_embeddings
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.image_sample import refresh_sample
from searchdb.search.similarity_histogram import TEXTS, similarity_histogram
from tests.helpers.vectors import clustered, fill


def test_an_empty_collection_has_no_histogram(database: Database) -> None:
    with database.connect() as connection:
        assert similarity_histogram(connection) is None


def test_the_histogram_compares_recent_texts_with_the_sample(demo_collection: SearchDB) -> None:
    demo_collection.search("a red boat", count=1)
    with demo_collection.database.connect() as connection:
        histogram = similarity_histogram(connection)
        texts = connection.scalars(sa.select(query_embeddings.c.query)).all()
    assert histogram is not None
    assert set(EVERYDAY_TEXTS) <= set(texts)
    stored = len(set(texts) - set(EVERYDAY_TEXTS))
    assert histogram.texts == min(stored, TEXTS), "the everyday texts, which nobody searched for, do not count"
    assert histogram.images > 100
    assert sum(histogram.pairs) == pytest.approx(1)
    assert sum(histogram.best) == pytest.approx(1)
    middles = np.linspace(histogram.low, histogram.high, 2 * len(histogram.pairs) + 1)[1::2]
    assert np.dot(middles, histogram.best) > np.dot(middles, histogram.pairs)


def test_equal_similarities_span_no_range(database: Database) -> None:
    """As of a single image, searched for by its own text: in single precision the bins would have no width."""
    fill(database, clustered(1))
    with database.begin() as connection:
        refresh_sample(connection)
        connection.exec_driver_sql(
            "INSERT INTO query_embeddings (embedding_model_id, query, embedding) "
            "SELECT embedding_model_id, 'it', embedding FROM images"
        )
        histogram = similarity_histogram(connection)
    assert histogram is not None
    assert sum(histogram.pairs) == pytest.approx(1)
