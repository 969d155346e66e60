"""Ratings, folders, sidecars, videos and watched folders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.bundled import migrations_folder
from searchdb.db.schema import refuse_taken_names

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

IS_FRAME = "video IS NOT NULL"
NEW = ("frame_previews", "folder_watches", "videos")


def upgrade() -> None:
    refuse_taken_names(op.get_bind(), NEW)
    _previews()
    _watches()
    # Last, because it locks the table until the migration ends. New columns without a default rewrite no rows.
    op.add_column("images", sa.Column("rating", sa.SmallInteger, comment="1 to 5 stars, 0 none, -1 rejected"))
    folder = "below the folder that was ingested, beginning with its name, like Pictures/2024/Rome; NULL for URLs"
    op.add_column("images", sa.Column("folder", sa.Text, comment=folder))
    beside = "of the files beside it that its metadata comes from, to notice changes; NULL: none"
    op.add_column("images", sa.Column("companion_state", sa.Text, comment=beside))
    op.add_column("images", sa.Column("video", sa.Text, comment="path or URL of the video that this is a frame of"))
    op.add_column("images", sa.Column("video_time", sa.Double, comment="seconds from the start of the video"))
    op.create_check_constraint("rating", "images", "rating BETWEEN -1 AND 5")
    op.create_index("images_rating_idx", "images", ["rating"], postgresql_where=sa.text("rating IS NOT NULL"))
    # Serves the folder itself and, whatever the collation, everything below it. A fifth of the size of SP-GiST.
    op.create_index("images_folder_idx", "images", ["folder"], postgresql_ops={"folder": "text_pattern_ops"})
    op.create_index("images_video_idx", "images", ["video", "video_time"], postgresql_where=sa.text(IS_FRAME))
    frames = "frames of videos, among those stored"
    op.add_column("ingest_chunks", sa.Column("frames", sa.Integer, nullable=False, server_default="0", comment=frames))
    op.execute((migrations_folder() / "sql" / "videos_v1.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    op.execute("DROP VIEW videos")
    op.drop_column("ingest_chunks", "frames")
    for name in ("rating", "folder", "companion_state", "video", "video_time"):
        op.drop_column("images", name)
    op.drop_table("folder_watches")
    op.drop_table("frame_previews")


def _previews() -> None:
    op.create_table(
        "frame_previews",
        sa.Column("image_id", sa.BigInteger, autoincrement=False),
        sa.Column("webp", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("image_id"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], ondelete="CASCADE"),
        comment="Small pictures of the frames of videos, which are shown without decoding the video again.",
    )


def _watches() -> None:
    now = sa.text("now()")
    op.create_table(
        "folder_watches",
        sa.Column("id", sa.BigInteger, sa.Identity()),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("paths", ARRAY(sa.Text), nullable=False),
        sa.Column("polling", sa.Boolean, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("changed_at", sa.DateTime(timezone=True), comment="when it last followed a change; NULL: never"),
        sa.Column("waiting", sa.Integer, nullable=False, server_default="0", comment="files still being written"),
        sa.Column("problem", sa.Text, comment="why it cannot follow changes now; NULL: it can"),
        sa.PrimaryKeyConstraint("id"),
        comment="The running `searchdb watch` processes.",
    )
