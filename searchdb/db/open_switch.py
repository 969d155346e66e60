"""Reads the open change from one model to another, which those that write images must know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.switch_tables import model_switches
from searchdb.db.tables import embedding_models
from searchdb.db.vectors import VectorColumn
from searchdb.records import ModelIdentity


@dataclass(frozen=True, kw_only=True)
class OpenSwitch:
    """A change of the model that has not ended: a row of `model_switches`, with the model that it leads to.

    `phase` is what is being done: fill, index, texts, change, finish. `host`, `pid` and `process` are those of the
    command that runs it, `seen_at` its last sign of life, `row_count` the number of images when it began, and
    `changed_at` when the model became the current one.
    """

    id: int
    model: ModelIdentity
    model_id: int
    from_model_id: int
    phase: str
    host: str
    pid: int
    process: str
    row_count: int
    started_at: datetime
    seen_at: datetime
    changed_at: datetime | None

    @property
    def column(self) -> VectorColumn:
        """The column with the model's vectors, before it becomes the current one."""
        return VectorColumn.beside(self.model_id, self.model.dimension)


def open_switch(connection: Connection) -> OpenSwitch | None:
    """Return the open change of the model, if there is one; at most one is open at a time."""
    switch, model = model_switches.c, embedding_models.c
    statement = (
        sa.select(model_switches, model.name, model.weights_sha256, model.dimension)
        .join(embedding_models, model.id == switch.embedding_model_id)
        .where(switch.ended_at.is_(None))
    )
    row = connection.execute(statement).mappings().one_or_none()
    if row is None:
        return None
    return OpenSwitch(
        id=row["id"],
        model=ModelIdentity(name=row["name"], weights_sha256=row["weights_sha256"], dimension=row["dimension"]),
        model_id=row["embedding_model_id"],
        **{
            name: row[name]
            for name in (
                "from_model_id",
                "phase",
                "host",
                "pid",
                "process",
                "row_count",
                "started_at",
                "seen_at",
                "changed_at",
            )
        },
    )
