"""Reads how far the change to another model is, for `searchdb model status`, `searchdb status` and the page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text

from searchdb.db.counts import count_matching, count_rows
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.switch_tables import model_switches, switch_failures
from searchdb.db.tables import embedding_models
from searchdb.db.tables import images as all_images
from searchdb.db.vectors import NO_CHANGE_OVER, column_of, images_with
from searchdb.switch.lease import is_alive
from searchdb.switch.space import vector_bytes

_AGE = text(
    "SELECT extract(epoch FROM now() - started_at) AS running_s, extract(epoch FROM now() - seen_at) AS silent_s "
    "FROM model_switches WHERE id = :id"
)


@dataclass(frozen=True, kw_only=True)
class SwitchStatus:
    """How far an open change of the model is.

    Attributes:
        model, from_model: the names of the models.
        phase: what is being done: fill, index, texts, change, finish.
        images: images in the collection now; more than 10,000 are an estimate, and so are `done` and `missing` then.
        done: those with a vector by the new model.
        missing: those without, the failed ones left out.
        failed: those that could not be embedded.
        rate_per_s: images embedded per second since it began, 0 while nothing is known.
        seconds_left: until all have a vector, at that rate; None while nothing is known.
        bytes: of the vectors that are stored already.
        host, pid: of the command that runs it.
        alive: whether that command lives, as far as is known. Without it, nothing more is queued.
        started_at, seen_at: when it began, and the command's last sign of life.
    """

    model: str
    from_model: str
    phase: str
    images: int
    done: int
    missing: int
    failed: int
    rate_per_s: float
    seconds_left: float | None
    bytes: int
    host: str
    pid: int
    alive: bool
    started_at: datetime
    seen_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, except for dates."""
        return asdict(self)


def switch_status(connection: Connection) -> SwitchStatus | None:
    """Return how far the open change of the model is; None if none is open.

    Many images, and many of them without a vector, are estimated; the last 10,000 without one are counted, in an index
    that holds only them.
    """
    if open_switch(connection) is None:
        return None
    connection.execute(NO_CHANGE_OVER)  # it would rename the column between reading its name and counting
    switch = open_switch(connection)
    if switch is None:
        return None
    names = dict(connection.execute(sa.select(embedding_models.c.id, embedding_models.c.name)).all())  # type: ignore[arg-type]
    age = connection.execute(_AGE, {"id": switch.id}).one()
    images, empty, failed = _counts(connection, switch)
    done = images - empty
    made = max(min(switch.row_count, images) - empty, 0)
    running_s = float(age.running_s)
    rate = made / running_s if running_s > 1 and switch.phase == "fill" else 0.0
    missing = max(empty - failed, 0)
    return SwitchStatus(
        model=switch.model.name,
        from_model=names.get(switch.from_model_id, "?"),
        phase=switch.phase,
        images=images,
        done=done,
        missing=missing,
        failed=failed,
        rate_per_s=rate,
        seconds_left=missing / rate if rate > 0 else None,
        bytes=done * vector_bytes(switch.model.dimension),
        host=switch.host,
        pid=switch.pid,
        alive=is_alive(switch, float(age.silent_s)),
        started_at=switch.started_at,
        seen_at=switch.seen_at,
    )


def set_phase(engine: Engine, switch: OpenSwitch, phase: str) -> None:
    """Note what is being done."""
    with engine.begin() as connection:
        connection.execute(
            sa.update(model_switches)
            .where(model_switches.c.id == switch.id, model_switches.c.ended_at.is_(None))
            .values(phase=phase)
        )


def _counts(connection: Connection, switch: OpenSwitch) -> tuple[int, int, int]:
    """Return the numbers of images, of those without a vector, and of those among them that failed."""
    rows = count_rows(connection, all_images)
    images = rows.rows
    if switch.changed_at is not None or column_of(connection, switch.model_id) is None:
        return images, 0 if switch.changed_at is not None else images, 0
    name = switch.column.name
    table = images_with(name)
    empty = min(count_matching(connection, all_images, f"{name} IS NULL", rows), images)
    failed = connection.scalar(
        sa.select(sa.func.count())
        .select_from(switch_failures)
        .where(
            switch_failures.c.embedding_model_id == switch.model_id,
            sa.exists().where(table.c.id == switch_failures.c.image_id, table.c[name].is_(None)),
        )
    )
    return images, empty, failed or 0
