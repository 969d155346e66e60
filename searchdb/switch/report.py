"""What a change to another model did, and the images that it could not embed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from searchdb.db.database import Database
from searchdb.db.open_switch import OpenSwitch
from searchdb.db.switch_tables import switch_failures
from searchdb.db.tables import images


@dataclass(frozen=True, kw_only=True)
class UnembeddedImage:
    """An image that the new model could not embed, and why: class of the error and message."""

    id: int
    image: str
    error: str
    message: str


@dataclass(frozen=True, kw_only=True)
class SwitchReport:
    """What a switch did: the models' names, the number of images that changed, and those that could not be embedded.

    `locked_s` is how long searches waited for the change-over. `changed` is false for a command that was stopped.
    """

    model: str
    from_model: str | None
    images: int
    unembedded: Sequence[UnembeddedImage] = field(default_factory=tuple)
    locked_s: float = 0.0
    changed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "model": self.model,
            "from_model": self.from_model,
            "images": self.images,
            "changed": self.changed,
            "locked_s": self.locked_s,
            "unembedded": [
                {"id": each.id, "image": each.image, "error": each.error, "message": each.message}
                for each in self.unembedded
            ],
        }


def unembedded(database: Database, switch: OpenSwitch) -> list[UnembeddedImage]:
    """Return the images that the new model could not embed, in the order of their references."""
    failure = switch_failures.c
    statement = (
        sa.select(images.c.id, images.c.image, failure.error, failure.message)
        .join(switch_failures, failure.image_id == images.c.id)
        .where(failure.embedding_model_id == switch.model_id)
        .where(sa.text(f"images.{switch.column.name} IS NULL"))
        .order_by(images.c.image)
    )
    with database.connect() as connection:
        return [UnembeddedImage(**row) for row in connection.execute(statement).mappings()]
