"""Record the vector index's parameters for each build, and its measured recall."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("index_builds", sa.Column("m", sa.Integer))
    op.add_column("index_builds", sa.Column("ef_construction", sa.Integer))
    op.create_table(
        "index_recalls",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False, comment="of the queries: text or pictures"),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("lists", sa.Integer),
        sa.Column("setting", sa.Integer, nullable=False, comment="probes of ivfflat, ef_search of hnsw"),
        sa.Column("row_count", sa.BigInteger, nullable=False, comment="rows of images when it was measured"),
        sa.Column("queries", sa.Integer, nullable=False),
        sa.Column("match_count", sa.Integer, nullable=False, comment="the k of recall@k"),
        sa.Column("recall", sa.Double, nullable=False),
        sa.Column("p50_ms", sa.Double, nullable=False),
        sa.Column("p95_ms", sa.Double, nullable=False),
        sa.Column("exact_p50_ms", sa.Double, nullable=False),
        sa.Column("exact_p95_ms", sa.Double, nullable=False),
        sa.Column("target", sa.Double, comment="the recall that the setting was tuned to; NULL: only measured"),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint("kind IN ('text', 'pictures')", name="index_recalls_kind_check"),
        comment="match_images compared with an exact scan: the history of the recall, and of the tuning.",
    )


def downgrade() -> None:
    op.drop_table("index_recalls")
    op.drop_column("index_builds", "ef_construction")
    op.drop_column("index_builds", "m")
