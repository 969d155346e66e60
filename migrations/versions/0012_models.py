"""Vectors of any model: their number of numbers, caches of several models, and the change from one to another."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from searchdb.db.functions import installation
from searchdb.db.schema import refuse_taken_names
from searchdb.errors import SchemaError

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

NEW = ("model_switches", "switch_failures", "unembedded_images")
CACHES = (("query_embeddings", "embedding"), ("image_sample", "embedding"), ("relevance_scale", "everyday_vector"))
HISTORIES = ("index_builds", "index_recalls")
UNKNOWN_FROM_ELSEWHERE = ("sha256", "width", "height", "byte_size")
COMMENTS = {
    "embedding": ("unit vector, STORAGE PLAIN", "unit vector by the current model, STORAGE PLAIN"),
    "embedding_model_id": (None, "the current model, of embedding_models"),
    "sha256": ("of the encoded file", "of the encoded file; NULL: unknown, as of a vector from elsewhere"),
    "width": ("pixels, upright", "pixels, upright; NULL: unknown"),
    "height": ("pixels, upright", "pixels, upright; NULL: unknown"),
    "byte_size": ("of the encoded file", "of the encoded file; NULL: unknown"),
}
FOREIGN_KEY = "images_embedding_model_id_fkey"
CURRENT = "(SELECT id FROM embedding_models WHERE current)"


def upgrade() -> None:
    refuse_taken_names(op.get_bind(), NEW)
    _models()
    for table, column in CACHES:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE vector")
    op.execute("COMMENT ON COLUMN query_embeddings.embedding IS 'as many numbers as the model has'")
    _sample_of_each_model()
    _histories()
    _switches()
    for name in ("match_images_v4", "current_model_id_v1", "text_embedding_v3"):
        op.execute(installation(name))
    # Last, because it locks the table until the migration ends.
    for name in UNKNOWN_FROM_ELSEWHERE:
        op.alter_column("images", name, nullable=True)
    for name, (_, after) in COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN images.{name} IS '{after}'")
    # A change of the model replaces the column embedding_model_id. With a foreign key that would lock embedding_models,
    # too, from which every search reads, some before images and some after it.
    op.drop_constraint(FOREIGN_KEY, "images", type_="foreignkey")
    _unembedded()


def downgrade() -> None:
    _require_earlier_form()
    op.drop_table("unembedded_images")
    op.drop_table("switch_failures")
    op.drop_table("model_switches")
    for name, (before, _) in COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN images.{name} IS {'NULL' if before is None else repr(before)}")
    for name in UNKNOWN_FROM_ELSEWHERE:
        op.alter_column("images", name, nullable=False)
    op.create_foreign_key(FOREIGN_KEY, "images", "embedding_models", ["embedding_model_id"], ["id"])
    for name in ("match_images_v3", "text_embedding_v2"):
        op.execute(installation(name))
    op.execute("DROP FUNCTION current_model_id()")
    for table in HISTORIES:
        op.execute(f"DELETE FROM {table} WHERE embedding_model_id <> {CURRENT}")  # noqa: S608 - our own names
        op.drop_column(table, "embedding_model_id")
    op.execute(f"DELETE FROM image_sample WHERE embedding_model_id <> {CURRENT}")  # noqa: S608 - our own names
    op.execute("ALTER TABLE image_sample DROP CONSTRAINT image_sample_pkey")
    op.drop_column("image_sample", "embedding_model_id")
    op.create_primary_key("image_sample_pkey", "image_sample", ["image_id"])
    op.create_table_comment(
        "image_sample",
        "A random sample of images: relevance and the weights of combined queries are measured on it.",
    )
    op.execute("COMMENT ON COLUMN query_embeddings.embedding IS NULL")
    for table, column in CACHES:
        op.execute(f"DELETE FROM {table} WHERE vector_dims({column}) <> 512")  # noqa: S608 - our own names
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE vector(512)")
    for name in ("verified", "retired_at", "dimension"):
        op.drop_column("embedding_models", name)


def _models() -> None:
    dimension = sa.Column("dimension", sa.Integer, nullable=False, server_default="512", comment="numbers of a vector")
    op.add_column("embedding_models", dimension)
    retired = "when the collection was switched to another model"
    op.add_column("embedding_models", sa.Column("retired_at", sa.DateTime(timezone=True), comment=retired))
    verified = "false: the vectors came from elsewhere under this name, and the digest is of the name"
    op.add_column(
        "embedding_models",
        sa.Column("verified", sa.Boolean, nullable=False, server_default=sa.true(), comment=verified),
    )


def _sample_of_each_model() -> None:
    op.add_column("image_sample", sa.Column("embedding_model_id", sa.Integer))
    op.execute(f"UPDATE image_sample SET embedding_model_id = {CURRENT}")  # noqa: S608 - our own names
    op.execute("DELETE FROM image_sample WHERE embedding_model_id IS NULL")
    op.alter_column("image_sample", "embedding_model_id", nullable=False)
    op.execute("ALTER TABLE image_sample DROP CONSTRAINT image_sample_pkey")
    op.create_primary_key("image_sample_pkey", "image_sample", ["image_id", "embedding_model_id"])
    _refer_to_models("image_sample")
    op.create_table_comment(
        "image_sample",
        "A random sample of images for each model: relevance and combined queries are measured on it.",
    )


def _histories() -> None:
    for table in HISTORIES:
        op.add_column(table, sa.Column("embedding_model_id", sa.Integer, comment="whose vectors"))
        op.execute(f"UPDATE {table} SET embedding_model_id = {CURRENT}")  # noqa: S608 - our own names
        _refer_to_models(table)
    op.create_table_comment(
        "index_builds",
        "The history of the vector indexes; the last row of a model says what its index has learnt from.",
    )


def _refer_to_models(table: str, column: str = "embedding_model_id") -> None:
    op.create_foreign_key(f"{table}_{column}_fkey", table, "embedding_models", [column], ["id"], ondelete="CASCADE")


def _switches() -> None:
    now = sa.text("now()")
    op.create_table(
        "model_switches",
        sa.Column("id", sa.BigInteger, sa.Identity()),
        sa.Column("embedding_model_id", sa.Integer, nullable=False),
        sa.Column("from_model_id", sa.Integer, nullable=False),
        sa.Column("phase", sa.Text, nullable=False, comment="what is being done: fill, index, texts, change, finish"),
        sa.Column("host", sa.Text, nullable=False, comment="of the command that runs it"),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column(
            "process",
            sa.Text,
            nullable=False,
            server_default="",
            comment="tells its process from all others",
        ),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, server_default=now, comment="of that command"),
        sa.Column("row_count", sa.BigInteger, nullable=False, comment="rows of images when it began"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("changed_at", sa.DateTime(timezone=True), comment="when the model became the current one"),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("aborted", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id"),
        comment="The changes from one model to another: the open one, and the history.",
    )
    for column in ("embedding_model_id", "from_model_id"):
        _refer_to_models("model_switches", column)
    op.create_index(
        "model_switches_one_open_idx",
        "model_switches",
        [sa.text("(true)")],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "switch_failures",
        sa.Column("image_id", sa.BigInteger, autoincrement=False),
        sa.Column("embedding_model_id", sa.Integer, autoincrement=False),
        sa.Column("error", sa.Text, nullable=False, comment="class name of the error"),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("image_id", "embedding_model_id"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], ondelete="CASCADE"),
        comment="Images that could not be embedded again for a change of the model.",
    )
    _refer_to_models("switch_failures")


def _unembedded() -> None:
    """Create the table with the columns of `images`, whatever their order, and its own."""
    op.execute("CREATE TABLE unembedded_images (LIKE images INCLUDING COMMENTS)")
    op.execute(
        """
        ALTER TABLE unembedded_images
            ALTER COLUMN embedding TYPE vector,
            ADD COLUMN error text NOT NULL,
            ADD COLUMN message text NOT NULL,
            ADD COLUMN attempts integer NOT NULL,
            ADD COLUMN failed_at timestamp with time zone NOT NULL,
            ADD COLUMN moved_at timestamp with time zone NOT NULL DEFAULT now(),
            ADD CONSTRAINT unembedded_images_pkey PRIMARY KEY (id),
            ADD CONSTRAINT unembedded_images_image_key UNIQUE (image)
        """
    )
    _refer_to_models("unembedded_images")
    op.execute("COMMENT ON COLUMN unembedded_images.id IS 'the image''s'")
    op.execute("COMMENT ON COLUMN unembedded_images.embedding IS 'by the model before the change'")
    op.execute("COMMENT ON COLUMN unembedded_images.embedding_model_id IS 'of that vector'")
    op.execute("COMMENT ON COLUMN unembedded_images.error IS 'class name of the error'")
    op.create_table_comment(
        "unembedded_images",
        "Images with all their metadata that the current model could not embed: no search finds them.",
    )


def _require_earlier_form() -> None:
    """Refuse to go back where the earlier version could not work."""
    connection = op.get_bind()
    other = sa.text(
        "SELECT (SELECT atttypmod FROM pg_attribute WHERE attrelid = 'images'::regclass AND attname = 'embedding')"
    )
    if (dimension := connection.scalar(other)) != 512:
        raise SchemaError(
            f"the images have vectors of {dimension} numbers, and the earlier schema has 512: switch to a model of 512 "
            "numbers first, with `searchdb model switch`"
        )
    kept = sa.text(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'images'::regclass AND NOT attisdropped "
        "AND attname ~ '^embedding_[0-9]+$' LIMIT 1"
    )
    if (name := connection.scalar(kept)) is not None:
        raise SchemaError(
            f"the column images.{name} has the vectors of another model, which the earlier version would not keep "
            "up to date: drop it first, with `searchdb model forget` or `searchdb model switch --abort`"
        )
    if count := connection.scalar(sa.text("SELECT count(*) FROM unembedded_images")):
        raise SchemaError(
            f"{count:,} images are in unembedded_images, which the earlier schema does not have: run `searchdb "
            "failures retry`, or delete them, first"
        )
    unknown = sa.text("SELECT count(*) FROM images WHERE sha256 IS NULL OR width IS NULL OR height IS NULL")
    if count := connection.scalar(unknown):
        raise SchemaError(
            f"{count:,} images came in as vectors, with unknown size or content, which the earlier schema does not "
            "have: delete them first, or ingest their files"
        )
