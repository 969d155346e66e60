"""Fixtures of the tests of the vector index."""

from __future__ import annotations

import pytest

from searchdb.index import build


@pytest.fixture
def quick_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hnsw built with pgvector's defaults: in a quarter of the time, where its recall is not what is tested."""
    monkeypatch.setattr(build, "HNSW_M", 16)
    monkeypatch.setattr(build, "HNSW_EF_CONSTRUCTION", 64)
