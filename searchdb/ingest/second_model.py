"""The model that a collection is being switched to: during that, new images get the vectors of both models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from searchdb.db.vectors import VectorColumn
from searchdb.embedder import Embedder


@dataclass(frozen=True, kw_only=True)
class SecondModel:
    """A model that is not the current one, and the column for its vectors."""

    embedder: Embedder
    column: VectorColumn

    @property
    def model_id(self) -> int:
        """The model's id in `embedding_models`."""
        assert self.column.model_id is not None  # noqa: S101 - only the current column may lack it
        return self.column.model_id


FindSecondModel = Callable[[], SecondModel | None]
"""Returns the model that the collection is being switched to; None if there is none, or it cannot be loaded here."""


def no_second_model() -> None:
    """Say that the collection is not being switched."""
