"""Fixtures of the tests that run whole processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from searchdb.config import Settings
from tests.helpers.runs import Runs


@pytest.fixture
def runs(settings: Settings, tmp_path: Path) -> Iterator[Runs]:
    """Starts processes on the test's collection."""
    with Runs(settings, tmp_path) as runs:
        yield runs
