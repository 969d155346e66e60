"""Create images, models, query cache, failures, the vector index and the search functions."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    # Loads the extension's library; before that, only a superuser may use its settings in CREATE FUNCTION ... SET.
    op.execute("SELECT '[1]'::vector")

    op.create_table(
        "embedding_models",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("weights_sha256", sa.LargeBinary, nullable=False),
        sa.Column("current", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.UniqueConstraint("weights_sha256", name="embedding_models_weights_sha256_key"),
        comment="The models that vectors were made with; the pictures all carry the current one.",
    )
    op.create_index(
        "embedding_models_one_current_idx",
        "embedding_models",
        [sa.text("(true)")],
        unique=True,
        postgresql_where=sa.text("current"),
    )

    op.create_table(
        "images",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("image", sa.Text, nullable=False, comment="absolute path or URL: what to show"),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_id", sa.Text),
        sa.Column("embedding", Vector(512), nullable=False, comment="unit vector, STORAGE PLAIN"),
        sa.Column("embedding_model_id", sa.Integer, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False, comment="of the encoded file"),
        sa.Column("width", sa.Integer, nullable=False, comment="pixels, upright"),
        sa.Column("height", sa.Integer, nullable=False, comment="pixels, upright"),
        sa.Column("description", sa.Text),
        sa.Column("credit", sa.Text),
        sa.Column("credit_url", sa.Text),
        sa.Column("page_url", sa.Text),
        sa.Column("taken_at", sa.DateTime(timezone=True)),
        sa.Column("camera", sa.Text),
        sa.Column("country", sa.Text),
        sa.Column("city", sa.Text),
        sa.Column("latitude", sa.Double, comment="degrees, north positive"),
        sa.Column("longitude", sa.Double, comment="degrees, east positive"),
        sa.Column("tags", ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("metadata", JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("byte_size", sa.BigInteger, nullable=False, comment="of the encoded file"),
        sa.Column("modified_at", sa.DateTime(timezone=True), comment="the file's, to notice changes; NULL for URLs"),
        sa.Column("ingested_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.UniqueConstraint("image", name="images_image_key"),
        sa.ForeignKeyConstraint(["embedding_model_id"], ["embedding_models.id"], name="images_embedding_model_id_fkey"),
        sa.CheckConstraint("octet_length(image) <= 2048", name="images_image_length_check"),
        comment="The searchable pictures.",
    )
    # 512 numbers are 2,056 bytes, just over the size at which PostgreSQL stores values outside the row. Stored in the
    # row, an exact scan reads one place instead of two.
    op.execute("ALTER TABLE images ALTER COLUMN embedding SET STORAGE PLAIN")
    op.create_index("images_sha256_idx", "images", ["sha256"])
    op.create_index("images_tags_idx", "images", ["tags"], postgresql_using="gin")
    # ivfflat learns its centres from the existing rows, and here there are none. With one list it scans every row and
    # is exact, until ingest or `searchdb index build` rebuilds it with more lists.
    op.create_index(
        "images_embedding_idx",
        "images",
        ["embedding"],
        postgresql_using="ivfflat",
        postgresql_ops={"embedding": "vector_cosine_ops"},
        postgresql_with={"lists": 1},
    )

    op.create_table(
        "query_embeddings",
        sa.Column("embedding_model_id", sa.Integer, primary_key=True),
        sa.Column("query", sa.Text, primary_key=True),
        sa.Column("embedding", Vector(512), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.ForeignKeyConstraint(
            ["embedding_model_id"],
            ["embedding_models.id"],
            name="query_embeddings_embedding_model_id_fkey",
            ondelete="CASCADE",
        ),
        comment="Vectors of query texts: the cache that text_embedding() reads.",
    )

    op.create_table(
        "ingest_failures",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("image", sa.Text, nullable=False, comment="the reference that failed"),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False, comment="class name of the error"),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column(
            "retryable", sa.Boolean, nullable=False, comment="whether it may succeed without anybody changing it"
        ),
        sa.Column("item", JSONB, comment="the source item, to try again; NULL when the reference itself was malformed"),
        sa.Column("first_failed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("last_failed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.UniqueConstraint("image", name="ingest_failures_image_key"),
        sa.CheckConstraint("octet_length(image) <= 2048", name="ingest_failures_image_length_check"),
        comment="References that could not be ingested; a later success removes the row.",
    )

    op.create_table(
        "index_builds",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("lists", sa.Integer),
        sa.Column("row_count", sa.BigInteger, nullable=False, comment="rows of images when the index was built"),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("built_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        comment="The history of the vector index; the last row says what the index has learnt from.",
    )

    for name in ("match_images_v1", "text_embedding_v1", "search_images_v1"):
        op.execute((SQL / f"{name}.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    op.execute("DROP FUNCTION search_images(text, double precision, integer)")
    op.execute("DROP FUNCTION text_embedding(text)")
    op.execute("DROP FUNCTION match_images(vector, double precision, integer)")
    for table in ("index_builds", "ingest_failures", "query_embeddings", "images", "embedding_models"):
        op.drop_table(table)
    # The extension is kept: an administrator may have created it, and other applications may use it.
