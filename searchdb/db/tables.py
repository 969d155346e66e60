"""Defines the tables for SQLAlchemy; migrations/ creates them, and a test checks that both agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa
from pgvector import Vector
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, JSONB

from searchdb.records import DEFAULT_DIMENSION, MAX_REFERENCE_BYTES

VECTOR_INDEX = "images_embedding_idx"
"""Name of the approximate nearest-neighbour index on `images.embedding`."""


def norm_in_range(column: str) -> str:
    """Return NORM_IN_RANGE for the vectors of a column."""
    return f"vector_norm({column}) BETWEEN 0.0001 AND 65504"


NORM_IN_RANGE = norm_in_range("embedding")
"""Condition on the length of a stored vector, which is 1 for all that searchdb writes. pgvector adds up the cosine
distance in single precision, where the zero vector and squares out of range give NaN; and its index is over halves,
where a number above 65,504 is refused, and those of a vector shorter than this are rounded to almost nothing."""

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


class Embedding(VECTOR):
    """`vector(n)`, or `vector` of any n, whose values are float32 arrays of shape (n,), sent in binary form."""

    cache_ok = True

    def bind_processor(self, dialect: Any) -> None:
        """Do nothing: psycopg itself dumps arrays."""

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        """Return the conversion of pgvector's Vector to an array."""

        def process(value: Vector | None) -> np.ndarray | None:
            return None if value is None else value.to_numpy()

        return process


def as_vector(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return a column of `vector(n)` as `vector`, for statements that return it.

    A prepared statement whose result has another type than when it was prepared fails, as `vector(512)` and
    `vector(768)` would be before and after a change of the model.
    """
    return sa.cast(column, Embedding())


def _created_at() -> Column[Any]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


embedding_models = Table(
    "embedding_models",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("weights_sha256", LargeBinary, nullable=False, unique=True),
    Column("current", Boolean, nullable=False, server_default=text("false")),
    _created_at(),
    Column(
        "dimension",
        Integer,
        nullable=False,
        server_default=text(str(DEFAULT_DIMENSION)),
        comment="numbers of a vector",
    ),
    Column("retired_at", DateTime(timezone=True), comment="when the collection was switched to another model"),
    Column(
        "verified",
        Boolean,
        nullable=False,
        server_default=text("true"),
        comment="false: the vectors came from elsewhere under this name, and the digest is of the name",
    ),
    Index("embedding_models_one_current_idx", text("(true)"), unique=True, postgresql_where=text("current")),
    comment="The models that vectors were made with. All images have vectors of the current one.",
)

images = Table(
    "images",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("image", Text, nullable=False, unique=True, comment="absolute path or URL: what to show"),
    Column("rendition", Text, comment="URL of the smaller version that was fetched; NULL: of image"),
    Column("source", Text, nullable=False),
    Column("source_id", Text),
    Column(
        "embedding",
        Embedding(DEFAULT_DIMENSION),
        nullable=False,
        comment="unit vector by the current model, STORAGE PLAIN",
    ),
    Column("embedding_model_id", Integer, ForeignKey(embedding_models.c.id), nullable=False),
    Column("sha256", LargeBinary, comment="of the encoded file; NULL: unknown, as of a vector from elsewhere"),
    Column("width", Integer, comment="pixels, upright; NULL: unknown"),
    Column("height", Integer, comment="pixels, upright; NULL: unknown"),
    Column("description", Text),
    Column("credit", Text),
    Column("credit_url", Text),
    Column("page_url", Text),
    Column("taken_at", DateTime(timezone=True)),
    Column("camera", Text),
    Column("country", Text),
    Column("city", Text),
    Column("latitude", Double, comment="degrees, north positive"),
    Column("longitude", Double, comment="degrees, east positive"),
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    Column("byte_size", BigInteger, comment="of the encoded file; NULL: unknown"),
    Column("modified_at", DateTime(timezone=True), comment="the file's, to notice changes; NULL for URLs"),
    Column("colour", Text, comment="mean colour, like #8a7f66; NULL: unknown"),
    Column("ingested_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("rating", SmallInteger, comment="1 to 5 stars, 0 none, -1 rejected"),
    Column(
        "folder",
        Text,
        comment="below the folder that was ingested, beginning with its name, like Pictures/2024/Rome; NULL for URLs",
    ),
    Column(
        "companion_state",
        Text,
        comment="of the files beside it that its metadata comes from, to notice changes; NULL: none",
    ),
    Column("video", Text, comment="path or URL of the video that this is a frame of"),
    Column("video_time", Double, comment="seconds from the start of the video"),
    CheckConstraint(f"octet_length(image) <= {MAX_REFERENCE_BYTES}", name="image_length"),
    CheckConstraint("colour ~ '^#[0-9a-f]{6}$'", name="colour"),
    CheckConstraint(NORM_IN_RANGE, name="embedding_norm"),
    CheckConstraint("rating BETWEEN -1 AND 5", name="rating"),
    Index("images_sha256_idx", "sha256"),
    Index("images_tags_idx", "tags", postgresql_using="gin"),
    Index("images_source_idx", "source"),
    Index("images_country_idx", text("lower(country)")),
    Index("images_city_idx", text("lower(city)")),
    Index("images_camera_idx", text("lower(camera)")),
    Index("images_taken_at_idx", "taken_at"),
    Index("images_place_idx", "latitude", "longitude"),
    Index("images_shape_idx", text("sign((width - height)::double precision)"), text("LEAST(width, height)")),
    Index("images_rating_idx", "rating", postgresql_where=text("rating IS NOT NULL")),
    Index("images_folder_idx", "folder", postgresql_ops={"folder": "text_pattern_ops"}),
    Index("images_video_idx", "video", "video_time", postgresql_where=text("video IS NOT NULL")),
    Index("images_words_idx", text("image_words(description, tags)"), postgresql_using="gin"),
    Index(
        VECTOR_INDEX,
        "embedding",
        postgresql_using="ivfflat",
        postgresql_ops={"embedding": "vector_cosine_ops"},
        postgresql_with={"lists": 1},
    ),
    comment="The searchable images.",
)

frame_previews = Table(
    "frame_previews",
    metadata,
    Column("image_id", BigInteger, ForeignKey(images.c.id, ondelete="CASCADE"), autoincrement=False, primary_key=True),
    Column("webp", LargeBinary, nullable=False),
    comment="Small pictures of the frames of videos, which are shown without decoding the video again.",
)

query_embeddings = Table(
    "query_embeddings",
    metadata,
    Column("embedding_model_id", Integer, ForeignKey(embedding_models.c.id, ondelete="CASCADE"), primary_key=True),
    Column("query", Text, primary_key=True),
    Column("embedding", Embedding(), nullable=False, comment="as many numbers as the model has"),
    _created_at(),
    Column(
        "last_used_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="to the hour or so",
    ),
    CheckConstraint(NORM_IN_RANGE, name="embedding_norm"),
    comment="Vectors of query texts: the cache that text_embedding() reads.",
)

image_sample = Table(
    "image_sample",
    metadata,
    Column("image_id", BigInteger, ForeignKey(images.c.id, ondelete="CASCADE"), autoincrement=False, primary_key=True),
    Column("embedding", Embedding(), nullable=False, comment="a copy, so that a query reads one place"),
    Column("embedding_model_id", Integer, ForeignKey(embedding_models.c.id, ondelete="CASCADE"), primary_key=True),
    comment="A random sample of images for each model: relevance and combined queries are measured on it.",
)

relevance_scale = Table(
    "relevance_scale",
    metadata,
    Column("embedding_model_id", Integer, ForeignKey(embedding_models.c.id, ondelete="CASCADE"), primary_key=True),
    Column("bias_weight", Double, nullable=False),
    Column("bias_low", Double, nullable=False),
    Column("bias_high", Double, nullable=False),
    Column("mean", Double, nullable=False),
    Column("spread", Double, nullable=False),
    Column("lower_spread", Double, nullable=False),
    Column("midpoint", Double, nullable=False),
    Column("unit", Double, nullable=False),
    Column("everyday_vector", Embedding(), nullable=False, comment="mean vector of the everyday texts"),
    Column("made_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    comment="What the everyday texts measure in image_sample: the scale of relevance.",
)

ingest_failures = Table(
    "ingest_failures",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("image", Text, nullable=False, comment="the reference that failed"),
    Column("source", Text, nullable=False),
    Column("error", Text, nullable=False, comment="class name of the error"),
    Column("message", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("1")),
    Column("retryable", Boolean, nullable=False, comment="whether it may succeed without anybody changing it"),
    Column(
        "item",
        JSONB(none_as_null=True),
        comment="the source item, to try again; NULL when the reference itself was malformed",
    ),
    Column("first_failed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("last_failed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("image"),
    CheckConstraint(f"octet_length(image) <= {MAX_REFERENCE_BYTES}", name="image_length"),
    comment="References that could not be ingested; a later success removes the row.",
)

ingest_pending = Table(
    "ingest_pending",
    metadata,
    Column("image", Text, primary_key=True, comment="the reference that waits"),
    Column("source", Text, nullable=False),
    Column("item", JSONB, nullable=False, comment="the source item"),
    Column("job_id", BigInteger, nullable=False, index=True, comment="the Procrastinate job whose chunk it is in"),
    Column("run_ids", ARRAY(Uuid), nullable=False, comment="the runs that asked for it"),
    Column("attempts", Integer, nullable=False, server_default=text("0"), comment="as a suspect, alone"),
    Column("queued_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint(f"octet_length(image) <= {MAX_REFERENCE_BYTES}", name="image_length"),
    comment="References that wait to be ingested, or are being ingested.",
)

ingest_chunks = Table(
    "ingest_chunks",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("run_id", Uuid, nullable=False, index=True),
    Column("worker", Text, nullable=False, comment="host:pid"),
    Column("stored", Integer, nullable=False),
    Column("copied", Integer, nullable=False, comment="of those stored: took the vector of the same bytes"),
    Column("unchanged", Integer, nullable=False),
    Column("failed", JSONB, nullable=False, comment="number by error class"),
    Column("finished_at", DateTime(timezone=True), nullable=False, index=True, server_default=func.now()),
    Column("frames", Integer, nullable=False, server_default=text("0"), comment="frames of videos, among those stored"),
    comment="What became of each chunk, by run: the source of progress and rates.",
)

# Procrastinate's tables: the migrations create them, but only the columns that are used are declared here.
procrastinate = MetaData(naming_convention=metadata.naming_convention)

procrastinate_jobs = Table(
    "procrastinate_jobs",
    procrastinate,
    Column("id", BigInteger, primary_key=True),
    Column("queue_name", Text),
    Column("priority", Integer),
    Column[str]("status", ENUM("todo", "doing", name="procrastinate_job_status", create_type=False)),
    Column("attempts", Integer),
    Column("worker_id", BigInteger),
)

procrastinate_workers = Table(
    "procrastinate_workers",
    procrastinate,
    Column("id", BigInteger, primary_key=True),
    Column("last_heartbeat", DateTime(timezone=True)),
)

ingest_workers = Table(
    "ingest_workers",
    metadata,
    Column(
        "id",
        BigInteger,
        ForeignKey(procrastinate_workers.c.id, ondelete="CASCADE"),
        autoincrement=False,
        primary_key=True,
        comment="of procrastinate_workers",
    ),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    comment="Where each of Procrastinate's workers runs.",
)

folder_watches = Table(
    "folder_watches",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("paths", ARRAY(Text), nullable=False),
    Column("polling", Boolean, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_at", DateTime(timezone=True), comment="when it last followed a change; NULL: never"),
    Column("waiting", Integer, nullable=False, server_default=text("0"), comment="files still being written"),
    Column("problem", Text, comment="why it cannot follow changes now; NULL: it can"),
    comment="The running `searchdb watch` processes.",
)

index_builds = Table(
    "index_builds",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("method", Text, nullable=False),
    Column("lists", Integer),
    Column("m", Integer),
    Column("ef_construction", Integer),
    Column("row_count", BigInteger, nullable=False, comment="rows of images when the index was built"),
    Column("seconds", Double, nullable=False),
    Column("built_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column(
        "type",
        Text,
        nullable=False,
        server_default="vector",
        comment="of the indexed values: vector, or halfvec, half as long",
    ),
    Column(
        "chosen",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="whether a person chose the method, which a rebuild then keeps",
    ),
    Column(
        "embedding_model_id",
        Integer,
        ForeignKey(embedding_models.c.id, ondelete="CASCADE"),
        comment="whose vectors",
    ),
    comment="The history of the vector indexes; the last row of a model says what its index has learnt from.",
)

index_recalls = Table(
    "index_recalls",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False, comment="of the queries: text or pictures"),
    Column("method", Text, nullable=False),
    Column("lists", Integer),
    Column("setting", Integer, nullable=False, comment="probes of ivfflat, ef_search of hnsw"),
    Column("row_count", BigInteger, nullable=False, comment="rows of images when it was measured"),
    Column("queries", Integer, nullable=False),
    Column("match_count", Integer, nullable=False, comment="the k of recall@k"),
    Column("recall", Double, nullable=False),
    Column("p50_ms", Double, nullable=False),
    Column("p95_ms", Double, nullable=False),
    Column("exact_p50_ms", Double, nullable=False),
    Column("exact_p95_ms", Double, nullable=False),
    Column("target", Double, comment="the recall that the setting was tuned to; NULL: only measured"),
    Column("measured_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column(
        "embedding_model_id",
        Integer,
        ForeignKey(embedding_models.c.id, ondelete="CASCADE"),
        comment="whose vectors",
    ),
    CheckConstraint("kind IN ('text', 'pictures')", name="kind"),
    comment="match_images compared with an exact scan: the history of the recall, and of the tuning.",
)
