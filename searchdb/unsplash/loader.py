"""The Unsplash dataset in the database: loads its tables, and makes items of its photos with what all tables know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, distinct_on, insert

from searchdb.db.tables import images
from searchdb.errors import DatabaseError, DatabaseUnavailableError, InvalidReferenceError, SourceError
from searchdb.records import RejectedItem, SourceItem
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
"""Key of the advisory lock under which loaded rows are merged: two loaders would deadlock, or add conversions twice."""
LOAD_WORK_MEM = "64MB"
"""Memory for sorting a part, which has up to a million rows; PostgreSQL's default of 4 MB makes many passes over it."""
PROGRESS_ROWS = 10_000
"""Rows between two calls of `progress`: several a second."""
BATCH_PHOTOS = 500
"""Photos read at a time with their keywords, a hundred each."""
SHOWN_BAD_ROWS = 5
"""Bad rows of each table that a report quotes; their number is told in full."""

_STAGING = "unsplash_staging"


@dataclass(frozen=True, kw_only=True)
class LoadProgress:
    """How far a load is: `rows` of the part at hand, and bytes of all parts, unpacked."""

    table: str
    part: str
    rows: int
    bytes_done: int
    bytes_total: int


@dataclass(kw_only=True)
class LoadReport:
    """What a load has done, by table.

    `rows` counts the rows read, `written` those that were new or changed, `bad` those left out; `bad_rows` quotes the
    first of these. `refreshed` is the number of stored pictures whose metadata followed.
    """

    rows: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    bad_rows: list[str] = field(default_factory=list)
    refreshed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        counts = {name: dict(getattr(self, name)) for name in ("rows", "written", "bad")}
        return {**counts, "bad_rows": self.bad_rows}


def _silent(progress: LoadProgress) -> None:
    pass


# --- Loading --------------------------------------------------------------------------------------


def load(engine: Engine, parts: Sequence[Part], *, progress: Callable[[LoadProgress], None] = _silent) -> LoadReport:
    """Load parts into their tables, each in a transaction of its own; loading one again changes nothing.

    Of rows with the same key the last one counts, for the columns that its part has. Conversions have no key: those
    that are there already, equal in every column, are not added again. Bad rows are left out and reported.

    Raises:
        SourceError: a part cannot be read to its end; the parts before it stay loaded, nothing of it does.
        DatabaseError: PostgreSQL refused the rows or went away.
    """
    report = LoadReport()
    done, total = 0, sum(part.byte_size for part in parts)
    for part in parts:

        def tell(rows: int, bytes_read: int, part: Part = part, before: int = done) -> None:
            told = {"rows": rows, "bytes_done": before + bytes_read, "bytes_total": total}
            progress(LoadProgress(table=part.table, part=part.name, **told))

        with engine.begin() as connection:
            rows = _copy(connection, part, report, tell)
            report.written[part.table] += _merge(connection, part)
        tell(rows, part.byte_size)
        done += part.byte_size
    return report


def _copy(connection: Connection, part: Part, report: LoadReport, tell: Callable[[int, int], None]) -> int:
    """Copy a part into the staging table, which the end of the transaction drops; return its number of good rows."""
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
                    tell(copied, reader.bytes_read)
    except psycopg.Error as exc:  # not through SQLAlchemy, so not translated by the engine
        raise _translated(connection.engine, part, exc) from exc
    report.rows[part.table] += copied
    return copied


def _translated(engine: Engine, part: Part, exc: psycopg.Error) -> DatabaseError:
    reason = exc.diag.message_primary or str(exc).partition("\n")[0] or type(exc).__name__
    if exc.sqlstate is None and isinstance(exc, psycopg.OperationalError):
        return DatabaseUnavailableError(engine.url.render_as_string(hide_password=True), reason)
    error = DatabaseError(f"{part.name} cannot be loaded: {reason}")
    error.sqlstate = exc.sqlstate
    return error


def _merge(connection: Connection, part: Part) -> int:
    """Bring the table up to the staging table; return how many rows are new or changed."""
    table, format_ = TABLES[part.table], FORMATS[part.table]
    connection.execute(sa.text(f"SET LOCAL work_mem = '{LOAD_WORK_MEM}'"))
    connection.execute(sa.text(f"ANALYZE {_STAGING}"))
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOAD_LOCK_KEY)))
    merge = _upsert(table, part, format_.required) if format_.unique else _add_new(table)
    written = connection.execute(merge, execution_options={"preserve_rowcount": True}).rowcount
    if written:  # a reader right after the load must not be planned for an empty table
        connection.execute(sa.text(f"ANALYZE {table.name}"))
    return written


def _upsert(table: sa.Table, part: Part, key: tuple[str, ...]) -> sa.Executable:
    """Upsert the last row of each key: rows of one COPY lie in their order, so the greatest ctid is the last."""
    staging = sa.table(_STAGING, *(sa.column(name) for name in part.columns))
    # Sorted by bytes, which is many times faster than by a language's rules and finds the same rows equal.
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
    """Insert the distinct rows that the table has not: the equalities let PostgreSQL hash, the rest decides."""
    staging = sa.table(_STAGING, *(sa.column(column.name, column.type) for column in table.c))
    never = sa.cast("-infinity", sa.DateTime(timezone=True))
    there = sa.exists().where(
        table.c.photo_id == staging.c.photo_id,
        sa.func.coalesce(table.c.converted_at, never) == sa.func.coalesce(staging.c.converted_at, never),
        *(column.is_not_distinct_from(staging.c[column.name]) for column in table.c),
    )
    return insert(table).from_select(list(table.c.keys()), sa.select(*staging.c).distinct().where(~there))


# --- Items ----------------------------------------------------------------------------------------


def items(
    engine: Engine, parts: Sequence[Part], *, rendition: str | None = DEFAULT_RENDITION
) -> Iterator[SourceItem | RejectedItem]:
    """Yield the photos of parts that were loaded, in their order, with what the tables know of them.

    `rendition` is the query string that asks Unsplash's image server for a smaller picture, never one with a short
    side below MIN_SHORT_SIDE; None or "" asks for the original. Parts of other tables than photos are passed over. A
    photo without a usable photo_image_url, and a bad row, become a RejectedItem. A repeated photo is yielded again.

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
    """Return the photos by their ids, each with its keywords: those of users first, then the surest, then by name."""
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
    """Bring the metadata of stored pictures up to what the tables know by now; return how many changed.

    Time, camera and place stay as they are where the tables know none: they may come from the picture's file.
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
            # In the order in which every writer locks the rows of images, so that no two wait for each other.
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
    """Return the columns as the photo has them by now; none at all where its URL became unusable."""
    try:
        item = photo_item(photo, {})
    except InvalidReferenceError:
        return {}
    values = {name: getattr(item, name) for name in _REFRESHED} | {"tags": list(item.tags)}
    for name in _KEPT_WHERE_UNKNOWN:
        values[name] = row[name] if getattr(item, name) is None else getattr(item, name)
    for name in _PLACE:
        values[name] = row[name] if item.latitude is None else getattr(item, name)
    return values
