"""Measure relevance by the log-odds of similarities: a new scale, measured anew by the next search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BEFORE = ("background_low", "background_high", "lift_low", "lift_high")
AFTER = ("bias_weight", "bias_low", "bias_high", "mean", "spread", "lower_spread", "midpoint", "unit")
SAMPLE_COMMENTS = (
    "A random sample of images: a text's similarities to them are its background for relevance.",
    "A random sample of images: relevance and the weights of combined queries are measured on it.",
)
SCALE_COMMENTS = (
    "What everyday words find in image_sample: the two ends of relevance.",
    "What the everyday texts measure in image_sample: the scale of relevance.",
)


def upgrade() -> None:
    _replace_columns(BEFORE, AFTER)
    comment = "mean vector of the everyday texts"
    op.add_column("relevance_scale", sa.Column("everyday_vector", Vector(512), nullable=False, comment=comment))
    op.execute("ALTER TABLE relevance_scale ALTER COLUMN everyday_vector SET STORAGE PLAIN")  # read for each hit
    op.create_table_comment("image_sample", SAMPLE_COMMENTS[1])
    op.create_table_comment("relevance_scale", SCALE_COMMENTS[1])


def downgrade() -> None:
    op.drop_column("relevance_scale", "everyday_vector")
    _replace_columns(AFTER, BEFORE)
    op.create_table_comment("image_sample", SAMPLE_COMMENTS[0])
    op.create_table_comment("relevance_scale", SCALE_COMMENTS[0])


def _replace_columns(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    op.execute("DELETE FROM relevance_scale")  # a cache
    for name in before:
        op.drop_column("relevance_scale", name)
    for name in after:
        op.add_column("relevance_scale", sa.Column(name, sa.Double, nullable=False))
