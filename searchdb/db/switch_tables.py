"""Defines the tables of changes from one model to another; migrations/ creates them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    func,
    text,
)

from searchdb.db.tables import Embedding, embedding_models, images, metadata

model_switches = Table(
    "model_switches",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("embedding_model_id", Integer, ForeignKey(embedding_models.c.id, ondelete="CASCADE"), nullable=False),
    Column("from_model_id", Integer, ForeignKey(embedding_models.c.id, ondelete="CASCADE"), nullable=False),
    Column("phase", Text, nullable=False, comment="what is being done: fill, index, texts, change, finish"),
    Column("host", Text, nullable=False, comment="of the command that runs it"),
    Column("pid", Integer, nullable=False),
    Column("process", Text, nullable=False, server_default="", comment="tells its process from all others"),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=func.now(), comment="of that command"),
    Column("row_count", BigInteger, nullable=False, comment="rows of images when it began"),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_at", DateTime(timezone=True), comment="when the model became the current one"),
    Column("ended_at", DateTime(timezone=True)),
    Column("aborted", Boolean, nullable=False, server_default=text("false")),
    Index("model_switches_one_open_idx", text("(true)"), unique=True, postgresql_where=text("ended_at IS NULL")),
    comment="The changes from one model to another: the open one, and the history.",
)

switch_failures = Table(
    "switch_failures",
    metadata,
    Column("image_id", BigInteger, ForeignKey(images.c.id, ondelete="CASCADE"), autoincrement=False, primary_key=True),
    Column("embedding_model_id", Integer, ForeignKey(embedding_models.c.id, ondelete="CASCADE"), primary_key=True),
    Column("error", Text, nullable=False, comment="class name of the error"),
    Column("message", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("1")),
    Column("failed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    comment="Images that could not be embedded again for a change of the model.",
)


def _unembedded_columns() -> list[Column[Any]]:
    """Return the columns of `images`, whose vector is an earlier model's here, of any dimension."""
    changed: dict[str, Column[Any]] = {
        "id": Column("id", BigInteger, autoincrement=False, primary_key=True, comment="the image's"),
        "image": Column("image", Text, nullable=False, unique=True, comment=images.c.image.comment),
        "embedding": Column("embedding", Embedding(), nullable=False, comment="by the model before the change"),
        "embedding_model_id": Column(
            "embedding_model_id",
            Integer,
            ForeignKey(embedding_models.c.id, ondelete="CASCADE"),
            nullable=False,
            comment="of that vector",
        ),
    }
    return [
        changed[c.name] if c.name in changed else Column(c.name, c.type, nullable=c.nullable, comment=c.comment)
        for c in images.columns
    ]


unembedded_images = Table(
    "unembedded_images",
    metadata,
    *_unembedded_columns(),
    Column("error", Text, nullable=False, comment="class name of the error"),
    Column("message", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failed_at", DateTime(timezone=True), nullable=False),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    comment="Images with all their metadata that the current model could not embed: no search finds them.",
)
