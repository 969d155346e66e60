"""The distribution of similarities between recent texts and a sample of the images."""

from __future__ import annotations

import numpy as np
import pytest

from searchdb.client import SearchDB
from searchdb.db.database import Database
from searchdb.search.similarity_histogram import similarity_histogram


def test_an_empty_collection_has_no_histogram(database: Database) -> None:
    with database.connect() as connection:
        assert similarity_histogram(connection) is None


def test_the_histogram_compares_recent_texts_with_the_sample(demo_collection: SearchDB) -> None:
    demo_collection.search("a red boat", count=1)
    with demo_collection.database.connect() as connection:
        histogram = similarity_histogram(connection)
    assert histogram is not None
    assert histogram.texts >= 1
    assert histogram.images > 100
    assert sum(histogram.pairs) == pytest.approx(1)
    assert sum(histogram.best) == pytest.approx(1)
    middles = np.linspace(histogram.low, histogram.high, 2 * len(histogram.pairs) + 1)[1::2]
    assert np.dot(middles, histogram.best) > np.dot(middles, histogram.pairs)
