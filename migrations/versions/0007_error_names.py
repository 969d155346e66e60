"""Rename stored error classes from Picture to Image: NotAPictureError is now NotAnImageError."""

from __future__ import annotations

from collections.abc import Mapping

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

RENAMED = {
    "PictureError": "ImageError",
    "NotAPictureError": "NotAnImageError",
    "DamagedPictureError": "DamagedImageError",
}


def upgrade() -> None:
    _rename(RENAMED)


def downgrade() -> None:
    _rename({new: old for old, new in RENAMED.items()})


def _rename(names: Mapping[str, str]) -> None:
    """Rename error classes in the failures, and in the counts of the chunks, which are JSON objects keyed by class."""
    stored = ", ".join(f"'{name}'" for name in names)
    cases = " ".join(f"WHEN '{name}' THEN '{new}'" for name, new in names.items())
    # Both statements are made of this module's own names.
    op.execute(f"UPDATE ingest_failures SET error = CASE error {cases} END WHERE error IN ({stored})")  # noqa: S608
    # Summed, because a chunk may count errors under both the old and the new name.
    counts = (
        f"SELECT CASE key {cases} ELSE key END AS name, sum(CAST(value AS bigint)) AS count "  # noqa: S608
        "FROM jsonb_each_text(failed) GROUP BY 1"
    )
    renamed = f"SELECT jsonb_object_agg(name, count) FROM ({counts}) AS counts"  # noqa: S608
    op.execute(f"UPDATE ingest_chunks SET failed = ({renamed}) WHERE failed ?| ARRAY[{stored}]")  # noqa: S608
