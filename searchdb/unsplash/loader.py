"""Loads the Unsplash dataset's tables, and makes items of its photos from all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, distinct_on, insert

from searchdb.db.driver_errors import database_error
from searchdb.db.tables import images
from searchdb.errors import InvalidReferenceError, SourceError
from searchdb.records import TAKEN_AT_FROM, RejectedItem, SourceItem
from searchdb.sources import printable
from searchdb.unsplash.columns import FORMATS
from searchdb.unsplash.photos import (
    DEFAULT_RENDITION,
    SOURCE,
    Photo,
    Rendition,
    parse_rendition,
    photo_item,
)
from searchdb.unsplash.reader import BadRow, Part, PartReader, Row
from searchdb.unsplash.tables import TABLES, unsplash_keywords, unsplash_photos

LOAD_LOCK_KEY = 0x0A5B1A54
"""Key of the advisory lock for merging loaded rows: two loaders would deadlock or add conversions twice."""
LOAD_WORK_MEM = "64MB"
"""Memory for sorting a part of up to a million rows; with PostgreSQL's default of 4 MB this takes many passes."""
PROGRESS_ROWS = 10_000
"""Rows between two calls of `progress`: several a second."""
BATCH_PHOTOS = 500
"""Photos read at a time with their keywords, a hundred each."""
SHOWN_BAD_ROWS = 5
"""Number of bad rows of each table that a report quotes; all are counted."""

_STAGING = "unsplash_staging"


@dataclass(frozen=True, kw_only=True)
class LoadProgress:
    """The progress of a load: `rows` of the current part, and uncompressed bytes of all parts."""

    table: str
    part: str
    rows: int
    bytes_done: int
    bytes_total: int


@dataclass(kw_only=True)
class LoadReport:
    """The result of a load, by table.

    `rows` counts the rows read, `written` the new or changed ones, `bad` the skipped ones; `bad_rows` describes the
    first of these. `refreshed` is the number of stored images whose metadata was updated.
    """

    rows: Counter[str] = field(default_factory=Counter[str])
    written: Counter[str] = field(default_factory=Counter[str])
    bad: Counter[str] = field(default_factory=Counter[str])
    bad_rows: list[str] = field(default_factory=list[str])
    refreshed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        counts = {name: dict(getattr(self, name)) for name in ("rows", "written", "bad")}
        return {**counts, "bad_rows": self.bad_rows}


def _silent(progress: LoadProgress) -> None:
    pass


# --- Loading --------------------------------------------------------------------------------------


def load(engine: Engine, parts: Sequence[Part], *, progress: Callable[[LoadProgress], None] = _silent) -> LoadReport:
    """Load parts into their tables, each in its own transaction; loading a part again changes nothing.

    Of rows with the same key the last one is kept, for the columns of its part. Conversions have no key: rows that
    equal an existing one in every column are not added again. Bad rows are skipped and reported.

    Raises:
        SourceError: a part cannot be read to its end; the parts before it stay loaded, this one is rolled back.
        DatabaseError: PostgreSQL rejected the rows or became unavailable.
    """
    report = LoadReport()
    done, total = 0, sum(part.byte_size for part in parts)
    for part in parts:

        def report_progress(rows: int, bytes_read: int, part: Part = part, before: int = done) -> None:
            counts = {"rows": rows, "bytes_done": before + bytes_read, "bytes_total": total}
            progress(LoadProgress(table=part.table, part=part.name, **counts))

        with engine.begin() as connection:
            rows = _copy(connection, part, report, report_progress)
            report.written[part.table] += _merge(connection, part)
        report_progress(rows, part.byte_size)
        done += part.byte_size
    return report


def _copy(connection: Connection, part: Part, report: LoadReport, progress: Callable[[int, int], None]) -> int:
    """Copy a part to the staging table, which is dropped at the end of the transaction; return the good rows' count."""
    table = TABLES[part.table].name
    connection.execute(sa.text(f"CREATE TEMPORARY TABLE {_STAGING} (LIKE {table}) ON COMMIT DROP"))
    driver: Any = connection.connection.driver_connection
    copied = 0
    reader = PartReader(part)
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY {_STAGING} ({', '.join(part.columns)}) FROM STDIN") as copy:
            for row in reader:
                if isinstance(row, BadRow):
                    report.bad[part.table] += 1
                    if report.bad[part.table] <= SHOWN_BAD_ROWS:
                        report.bad_rows.append(str(row))
                    continue
                copy.write_row(row.values)
                copied += 1
                if copied % PROGRESS_ROWS == 0:
                    progress(copied, reader.bytes_read)
    except psycopg.Error as exc:  # COPY bypasses SQLAlchemy, so the engine does not translate its errors
        raise database_error(exc, connection.engine.url, failed=f"{part.name} cannot be loaded") from exc
    report.rows[part.table] += copied
    return copied


def _merge(connection: Connection, part: Part) -> int:
    """Merge the staging table into the table; return the number of new or changed rows."""
    table, format_ = TABLES[part.table], FORMATS[part.table]
    connection.execute(sa.text(f"SET LOCAL work_mem = '{LOAD_WORK_MEM}'"))
    connection.execute(sa.text(f"ANALYZE {_STAGING}"))
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOAD_LOCK_KEY)))
    merge = _upsert(table, part, format_.required) if format_.unique else _add_new(table)
    written = connection.execute(merge, execution_options={"preserve_rowcount": True}).rowcount
    if written:  # so that queries right after the load are not planned for an empty table
        connection.execute(sa.text(f"ANALYZE {table.name}"))
    return written


def _upsert(table: sa.Table, part: Part, key: tuple[str, ...]) -> sa.Executable:
    """Upsert the last row of each key: one COPY stores rows in order, so the greatest ctid is the last."""
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in part.columns]
    staging = sa.table(_STAGING, *columns)
    # Sorted by bytes, which is many times faster than a language's collation and finds the same rows equal.
    grouped = [staging.c[name].collate("C") for name in key]
    last = sa.select(*staging.c).ext(distinct_on(*grouped)).order_by(*grouped, sa.literal_column("ctid").desc())
    statement = insert(table).from_select(part.columns, last)
    others = [name for name in part.columns if name not in key]
    if not others:
        return statement.on_conflict_do_nothing()
    return statement.on_conflict_do_update(
        index_elements=key,
        set_={name: statement.excluded[name] for name in others},
        where=sa.or_(*(table.c[name].is_distinct_from(statement.excluded[name]) for name in others)),
    )


def _add_new(table: sa.Table) -> sa.Executable:
    """Insert the distinct rows that the table lacks.

    The equality conditions let PostgreSQL use a hash join; IS NOT DISTINCT FROM compares the columns, including NULLs.
    """
    staging = sa.table(_STAGING, *(sa.column(column.name, column.type) for column in table.c))
    never = sa.cast("-infinity", sa.DateTime(timezone=True))
    present = sa.exists().where(
        table.c.photo_id == staging.c.photo_id,
        sa.func.coalesce(table.c.converted_at, never) == sa.func.coalesce(staging.c.converted_at, never),
        *(column.is_not_distinct_from(staging.c[column.name]) for column in table.c),
    )
    return insert(table).from_select(list(table.c.keys()), sa.select(*staging.c).distinct().where(~present))


# --- Items ----------------------------------------------------------------------------------------


def items(
    engine: Engine, parts: Sequence[Part], *, rendition: str | None = DEFAULT_RENDITION
) -> Iterator[SourceItem | RejectedItem]:
    """Yield the photos of loaded parts in their order, with the metadata from all tables.

    `rendition` is a query string that makes Unsplash's image server send a smaller image, with a short side of at least
    MIN_SHORT_SIDE; None or "" means the original. Parts of other tables than photos are skipped. A photo without a
    usable photo_image_url, and a bad row, become a RejectedItem. A repeated photo is yielded again.

    Raises:
        SourceError: the rendition is malformed (raised by the call), or a part cannot be read to its end or was not
            loaded.
    """
    parameters = parse_rendition(rendition)
    return _items(engine, [part for part in parts if part.table == "photos"], parameters)


def _items(engine: Engine, parts: Sequence[Part], rendition: Rendition) -> Iterator[SourceItem | RejectedItem]:
    for part in parts:
        at = part.columns.index("photo_id")
        for batch in _batched(PartReader(part)):
            with engine.connect() as connection:
                photos = _photos(connection, [str(row.values[at]) for row in batch if isinstance(row, Row)])
            for row in batch:
                if isinstance(row, BadRow):
                    yield _rejected(row)
                    continue
                photo = photos.get(str(row.values[at]))
                if photo is None:
                    raise SourceError(f"photo {row.values[at]} of {part.name} is not in unsplash_photos; load it first")
                try:
                    yield photo_item(photo, rendition)
                except InvalidReferenceError as exc:
                    yield _rejected(
                        BadRow(part=part.name, line=row.line, reason=str(exc), image_url=photo.photo_image_url)
                    )


def _batched(rows: PartReader) -> Iterator[list[Row | BadRow]]:
    batch: list[Row | BadRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_PHOTOS:
            yield batch
            batch = []
    if batch:
        yield batch


def _rejected(bad: BadRow) -> RejectedItem:
    return RejectedItem(
        image=printable((bad.image_url or "").strip() or f"{bad.part}:{bad.line}"),
        source=SOURCE,
        error=InvalidReferenceError(str(bad)),
    )


def _photos(connection: Connection, ids: Sequence[str]) -> dict[str, Photo]:
    """Return the photos by id, each with its keywords: those of users first, then by confidence, then by name."""
    keyword = unsplash_keywords.c
    order = (
        sa.func.coalesce(keyword.suggested_by_user, sa.false()).desc(),
        sa.func.greatest(keyword.ai_service_1_confidence, keyword.ai_service_2_confidence).desc().nulls_last(),
        keyword.keyword.collate("C"),
    )
    keywords = (
        sa.select(sa.func.array_agg(aggregate_order_by(keyword.keyword, *order)))
        .where(keyword.photo_id == unsplash_photos.c.photo_id)
        .scalar_subquery()
    )
    wanted = unsplash_photos.c.photo_id == sa.any_(sa.literal(list(ids), ARRAY(sa.Text)))
    statement = sa.select(unsplash_photos, keywords.label("keywords")).where(wanted)
    rows = connection.execute(statement).mappings()
    return {row["photo_id"]: Photo.from_row(row, keywords=row["keywords"] or ()) for row in rows}


# --- Refreshing -----------------------------------------------------------------------------------

_REFRESHED = ("description", "credit", "credit_url", "page_url", "country", "city", "tags", "metadata")
_KEPT_WHERE_UNKNOWN = ("taken_at", "camera")
_PLACE = ("latitude", "longitude")


def refresh(engine: Engine) -> int:
    """Update the metadata of stored images from the tables; return the number of changed images.

    Time, camera and place are kept if the tables have none: they may come from the image's file.
    """
    stored = sa.select(
        images.c.id,
        images.c.image,
        images.c.source_id,
        *(images.c[name] for name in (*_REFRESHED, *_KEPT_WHERE_UNKNOWN, *_PLACE)),
    ).where(images.c.source == SOURCE, images.c.source_id.is_not(None))
    changed = last = 0
    while True:
        with engine.begin() as connection:
            rows = connection.execute(
                stored.where(images.c.id > last).order_by(images.c.id).limit(BATCH_PHOTOS)
            ).mappings()
            batch = rows.all()
            if not batch:
                return changed
            last = batch[-1]["id"]
            photos = _photos(connection, [row["source_id"] for row in batch])
            # In the order in which every writer locks the rows of images, to prevent deadlocks.
            differing = [
                {"row_id": row["id"], **values}
                for row in sorted(batch, key=lambda row: row["image"])
                if row["source_id"] in photos
                and (values := _refreshed(row, photos[row["source_id"]]))
                and any(row[name] != value for name, value in values.items())
            ]
            if differing:
                connection.execute(_UPDATE, differing)
                changed += len(differing)


_UPDATE = (
    sa.update(images)
    .where(images.c.id == sa.bindparam("row_id"))
    .values({name: sa.bindparam(name) for name in (*_REFRESHED, *_KEPT_WHERE_UNKNOWN, *_PLACE)})
)


def _refreshed(row: sa.RowMapping, photo: Photo) -> dict[str, Any]:
    """Return the photo's current values of the columns; an empty dict if its URL has become unusable."""
    try:
        item = photo_item(photo, {}).in_nfc()
    except InvalidReferenceError:
        return {}
    values = {name: getattr(item, name) for name in _REFRESHED} | {"tags": list(item.tags)}
    for name in _KEPT_WHERE_UNKNOWN:
        values[name] = row[name] if getattr(item, name) is None else getattr(item, name)
    if item.taken_at is None and TAKEN_AT_FROM in row["metadata"]:
        values["metadata"] = {**item.metadata, TAKEN_AT_FROM: row["metadata"][TAKEN_AT_FROM]}
    for name in _PLACE:
        values[name] = row[name] if item.latitude is None else getattr(item, name)
    return values
