"""Add indexes for filters, the tables of relevance, and the time of use of cached queries."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    op.execute((SQL / "image_words_v1.sql").read_text(encoding="utf-8"))
    op.create_index("images_source_idx", "images", ["source"])
    for name in ("country", "city", "camera"):
        op.create_index(f"images_{name}_idx", "images", [sa.text(f"lower({name})")])
    op.create_index("images_taken_at_idx", "images", ["taken_at"])
    op.create_index("images_place_idx", "images", ["latitude", "longitude"])
    shape = ("sign((width - height)::double precision)", "LEAST(width, height)")
    op.create_index("images_shape_idx", "images", [sa.text(part) for part in shape])
    op.create_index("images_words_idx", "images", [sa.text("image_words(description, tags)")], postgresql_using="gin")

    op.create_table(
        "image_sample",
        sa.Column("image_id", sa.BigInteger, autoincrement=False, primary_key=True),
        sa.Column("embedding", Vector(512), nullable=False, comment="a copy, so that a query reads one place"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="image_sample_image_id_fkey", ondelete="CASCADE"),
        comment="Pictures by chance: what a text's similarities are compared with for relevance.",
    )
    op.execute("ALTER TABLE image_sample ALTER COLUMN embedding SET STORAGE PLAIN")

    op.create_table(
        "relevance_scale",
        sa.Column("embedding_model_id", sa.Integer, primary_key=True),
        sa.Column("background_low", sa.Double, nullable=False),
        sa.Column("background_high", sa.Double, nullable=False),
        sa.Column("lift_low", sa.Double, nullable=False),
        sa.Column("lift_high", sa.Double, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.ForeignKeyConstraint(
            ["embedding_model_id"],
            ["embedding_models.id"],
            name="relevance_scale_embedding_model_id_fkey",
            ondelete="CASCADE",
        ),
        comment="What everyday words find in image_sample: the two ends of relevance.",
    )

    op.add_column(
        "query_embeddings",
        sa.Column(
            "last_used_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
            comment="to the hour or so",
        ),
    )


def downgrade() -> None:
    op.drop_column("query_embeddings", "last_used_at")
    op.drop_table("relevance_scale")
    op.drop_table("image_sample")
    for name in ("words", "shape", "place", "taken_at", "camera", "city", "country", "source"):
        op.drop_index(f"images_{name}_idx", "images")
    op.execute("DROP FUNCTION image_words(text, text[])")
