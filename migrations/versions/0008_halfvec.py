"""Let match_images use an index over halfvec, compile no query, and record who chose an index's method and type."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
MATCH_IMAGES = "match_images(vector, double precision, integer)"


def upgrade() -> None:
    op.add_column(
        "index_builds",
        sa.Column(
            "type",
            sa.Text,
            nullable=False,
            server_default="vector",
            comment="of the indexed values: vector, or halfvec, half as long",
        ),
    )
    op.add_column(
        "index_builds",
        sa.Column(
            "chosen",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("false"),
            comment="whether a person chose the method, which a rebuild then keeps",
        ),
    )
    op.execute("UPDATE index_builds SET chosen = true WHERE method = 'hnsw'")  # ivfflat was the default
    _replace_match_images("match_images_v2")


def downgrade() -> None:
    # The older function cannot use an index over halfvec. One list is exact, and the older code rebuilds it.
    op.execute(
        """
        DO $$
        BEGIN
            IF EXISTS (
                SELECT FROM pg_index
                WHERE indexrelid = to_regclass('images_embedding_idx') AND indexprs IS NOT NULL
            ) THEN
                DROP INDEX images_embedding_idx;
                CREATE INDEX images_embedding_idx ON images USING ivfflat (embedding vector_cosine_ops)
                    WITH (lists = 1);
                DELETE FROM index_builds;
            END IF;
        END $$
        """
    )
    _replace_match_images("match_images_v1")
    op.drop_column("index_builds", "chosen")
    op.drop_column("index_builds", "type")


def _replace_match_images(name: str) -> None:
    """Replace the function; the tuned settings, which are stored with it, are kept."""
    # Loads the extension's library; before that, only a superuser may use its settings in a function.
    op.execute("SELECT '[1]'::vector")
    op.execute(
        f"""
        SELECT set_config('searchdb.tuned', (
            SELECT string_agg(replace(setting, '=', ' = '), ',') FROM pg_proc, unnest(proconfig) AS setting
            WHERE oid = to_regprocedure('{MATCH_IMAGES}')
            AND split_part(setting, '=', 1) IN ('ivfflat.probes', 'hnsw.ef_search')
        ), true)
        """  # noqa: S608 - our own name
    )
    definition = (SQL / f"{name}.sql").read_text(encoding="utf-8")
    op.execute(definition.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
    op.execute(
        f"""
        DO $$
        DECLARE
            setting text;
        BEGIN
            FOR setting IN SELECT string_to_table(nullif(current_setting('searchdb.tuned'), ''), ',') LOOP
                EXECUTE 'ALTER FUNCTION {MATCH_IMAGES} SET ' || setting;
            END LOOP;
        END $$
        """
    )
