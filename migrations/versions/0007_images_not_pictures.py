"""Say image, not picture: rename stored error classes (NotAPictureError is now NotAnImageError) and reword comments."""

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

COMMENTS = {
    "TABLE embedding_models": (
        "The models that vectors were made with; the pictures all carry the current one.",
        "The models that vectors were made with. All images have vectors of the current one.",
    ),
    "TABLE images": ("The searchable pictures.", "The searchable images."),
    "COLUMN images.colour": (
        "mean of the picture, like #8a7f66; NULL: unknown",
        "mean colour, like #8a7f66; NULL: unknown",
    ),
    "TABLE image_sample": (
        "Pictures by chance: what a text's similarities are compared with for relevance.",
        "A random sample of images: a text's similarities to them are its background for relevance.",
    ),
    "TABLE unsplash_photos": (
        "Unsplash: the photos, whether or not they are pictures in images.",
        "Unsplash: the photos, whether or not they are in images.",
    ),
}
"""Comments before and after."""


def upgrade() -> None:
    _rename(RENAMED)
    for target, (_, after) in COMMENTS.items():
        _comment(target, after)


def downgrade() -> None:
    _rename({new: old for old, new in RENAMED.items()})
    for target, (before, _) in COMMENTS.items():
        _comment(target, before)


def _comment(target: str, text: str) -> None:
    quoted = text.replace("'", "''")
    op.execute(f"COMMENT ON {target} IS '{quoted}'")


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
