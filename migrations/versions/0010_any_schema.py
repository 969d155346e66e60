"""Let the functions work with any search_path, limit the length of vectors, and store texts in NFC."""

from __future__ import annotations

from alembic import op

from searchdb.db.functions import installation

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

DOMAIN = "searchdb_embedding"
IN_RANGE = "vector_norm(embedding) BETWEEN 0.0001 AND 65504"
TEXTS = ("description", "city", "country", "camera", "credit")


def upgrade() -> None:
    # A restore creates domains before functions. This one's length is checked by pgvector, whose library is loaded for
    # it; before that, only a superuser may create match_images, which has pgvector's settings.
    op.execute(f"CREATE DOMAIN {DOMAIN} AS vector(512)")
    op.execute(
        f"COMMENT ON DOMAIN {DOMAIN} IS "
        "'Loads pgvector when a dump is restored: match_images, which comes after it, needs that.'"
    )
    _normalise_texts()
    op.execute(f"DELETE FROM query_embeddings WHERE NOT ({IN_RANGE})")  # noqa: S608 - a cache
    op.execute(f"DELETE FROM image_sample WHERE NOT ({IN_RANGE})")  # noqa: S608 - a cache
    op.execute(f"ALTER TABLE query_embeddings ADD CONSTRAINT query_embeddings_embedding_norm_check CHECK ({IN_RANGE})")
    for name in ("match_images_v3", "text_embedding_v2", "search_images_v2"):
        op.execute(installation(name))
    # Last, because it locks the table until the migration ends. env.py then validates it, while searches continue.
    op.execute(f"ALTER TABLE images ADD CONSTRAINT images_embedding_norm_check CHECK ({IN_RANGE}) NOT VALID")


def downgrade() -> None:
    for name in ("match_images_v2", "text_embedding_v1", "search_images_v1"):
        op.execute(installation(name))
    op.execute("ALTER TABLE images DROP CONSTRAINT images_embedding_norm_check")
    op.execute("ALTER TABLE query_embeddings DROP CONSTRAINT query_embeddings_embedding_norm_check")
    op.execute(f"DROP DOMAIN {DOMAIN}")


def _normalise_texts() -> None:
    """Store what people filter by in NFC, the form that keyboards type; file names on macOS come in NFD."""
    values = ", ".join(f"{name} = normalize({name}, NFC)" for name in TEXTS)
    stray = " OR ".join(f"{name} IS NOT NFC NORMALIZED" for name in TEXTS)
    op.execute(
        f"""
        UPDATE images SET {values}, tags = ARRAY(
            SELECT normalize(tag, NFC) FROM unnest(tags) WITH ORDINALITY AS list (tag, place) ORDER BY place
        )
        WHERE {stray} OR EXISTS (SELECT FROM unnest(tags) AS tag WHERE tag IS NOT NFC NORMALIZED)
        """  # noqa: S608 - our own names
    )
    op.execute(
        """
        INSERT INTO query_embeddings (embedding_model_id, query, embedding, created_at, last_used_at)
        SELECT embedding_model_id, normalize(query, NFC), embedding, created_at, last_used_at FROM query_embeddings
        WHERE query IS NOT NFC NORMALIZED ON CONFLICT DO NOTHING
        """
    )
    op.execute("DELETE FROM query_embeddings WHERE query IS NOT NFC NORMALIZED")
