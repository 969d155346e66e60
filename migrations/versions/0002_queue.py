"""Create Procrastinate's tables, and the tables of pending references, workers and finished chunks."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op
from procrastinate.schema import SchemaManager
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PROCRASTINATE_TABLES = ("events", "periodic_defers", "jobs", "workers")


def upgrade() -> None:
    # The schema of the installed version of the library. A test fails when it changes, because existing databases then
    # need another migration. Colons are escaped, because SQLAlchemy would read `:name` as a parameter.
    op.execute(sa.text(re.sub(r"(?<!:):(?=[a-z])", r"\:", SchemaManager.get_schema())))

    op.create_table(
        "ingest_pending",
        sa.Column("image", sa.Text, primary_key=True, comment="the reference that waits"),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("item", JSONB, nullable=False, comment="the source item"),
        sa.Column("job_id", sa.BigInteger, nullable=False, comment="the Procrastinate job whose chunk it is in"),
        sa.Column("run_ids", ARRAY(sa.Uuid), nullable=False, comment="the runs that asked for it"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0"), comment="as a suspect, alone"),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint("octet_length(image) <= 2048", name="ingest_pending_image_length_check"),
        comment="References that wait to be ingested, or are being ingested.",
    )
    op.create_index("ingest_pending_job_id_idx", "ingest_pending", ["job_id"])

    op.create_table(
        "ingest_chunks",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("worker", sa.Text, nullable=False, comment="host:pid"),
        sa.Column("stored", sa.Integer, nullable=False),
        sa.Column("copied", sa.Integer, nullable=False, comment="of those stored: took the vector of the same bytes"),
        sa.Column("unchanged", sa.Integer, nullable=False),
        sa.Column("failed", JSONB, nullable=False, comment="number by error class"),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        comment="What became of each chunk, by run: the source of progress and rates.",
    )
    op.create_index("ingest_chunks_run_id_idx", "ingest_chunks", ["run_id"])
    op.create_index("ingest_chunks_finished_at_idx", "ingest_chunks", ["finished_at"])

    op.create_table(
        "ingest_workers",
        sa.Column("id", sa.BigInteger, autoincrement=False, primary_key=True, comment="of procrastinate_workers"),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.ForeignKeyConstraint(
            ["id"], ["procrastinate_workers.id"], name="ingest_workers_id_fkey", ondelete="CASCADE"
        ),
        comment="Where each of Procrastinate's workers runs.",
    )


def downgrade() -> None:
    for table in ("ingest_workers", "ingest_chunks", "ingest_pending"):
        op.drop_table(table)
    for name in PROCRASTINATE_TABLES:
        op.execute(f"DROP TABLE procrastinate_{name} CASCADE")
    # In the order of dependencies: the tables with their triggers, the functions, the types in their signatures.
    op.execute(
        """
        DO $$
        DECLARE
            routine regprocedure;
            kind text;
        BEGIN
            FOR routine IN SELECT oid FROM pg_proc
                WHERE proname LIKE 'procrastinate\\_%' AND pronamespace = current_schema()::regnamespace
            LOOP
                EXECUTE 'DROP FUNCTION ' || routine;
            END LOOP;
            FOR kind IN SELECT typname FROM pg_type
                WHERE typname LIKE 'procrastinate\\_%' AND typnamespace = current_schema()::regnamespace
                AND typtype IN ('c', 'e')
                ORDER BY typtype
            LOOP
                EXECUTE format('DROP TYPE %I', kind);
            END LOOP;
        END $$
        """
    )
