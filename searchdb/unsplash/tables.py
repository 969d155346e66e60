"""Defines the Unsplash dataset's tables, with its own column names; a test checks that they equal the migrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, Index, Integer, Table, Text
from sqlalchemy.types import TypeEngine

from searchdb.db.tables import metadata
from searchdb.unsplash.columns import FORMATS, Kind

_TYPES: Mapping[Kind, type[TypeEngine[Any]] | TypeEngine[Any]] = {
    Kind.TEXT: Text,
    Kind.KEY: Text,
    Kind.INT: Integer,
    Kind.BIGINT: BigInteger,
    Kind.FLOAT: Double,
    Kind.BOOLEAN: Boolean,
    Kind.TIMESTAMP: DateTime(timezone=True),
}
_COMMENTS = {
    "photos": "Unsplash: the photos, whether or not they are in images.",
    "keywords": "Unsplash: what the photos show, as their users and three services say.",
    "collections": "Unsplash: the collections that people put the photos in.",
    "colors": "Unsplash: the main colours of the photos.",
    "conversions": "Unsplash: which photo was downloaded after which search.",
}


def _table(name: str) -> Table:
    """Return the table for a format. It has no foreign keys to photos, because parts are loaded in any order."""
    format_ = FORMATS[name]
    return Table(
        f"unsplash_{name}",
        metadata,
        *(
            Column(
                column,
                _TYPES[kind],
                primary_key=format_.unique and column in format_.required,
                nullable=column not in format_.required,
            )
            for column, kind in format_.columns.items()
        ),
        comment=_COMMENTS[name],
    )


TABLES: Mapping[str, Table] = {name: _table(name) for name in FORMATS}
"""The tables by name, as in the names of the parts."""

unsplash_photos = TABLES["photos"]
unsplash_keywords = TABLES["keywords"]

Index("unsplash_keywords_keyword_idx", unsplash_keywords.c.keyword)
Index("unsplash_collections_collection_id_idx", TABLES["collections"].c.collection_id)
Index("unsplash_conversions_photo_id_idx", TABLES["conversions"].c.photo_id)
Index("unsplash_conversions_keyword_idx", TABLES["conversions"].c.keyword)
