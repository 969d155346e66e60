"""Reads the collection: the pictures nearest to a text, a picture, a stored picture, or a combination of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Protocol

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy import ColumnElement, Connection, Engine, text

from searchdb.db.current_model import check_model
from searchdb.db.tables import embedding_models, images, relevance_scale
from searchdb.errors import DatabaseError, DatabaseUnavailableError, ImageNotFoundError, QueryError
from searchdb.records import LARGEST_ID, Hit, ModelIdentity, StoredImage
from searchdb.search import facets, query_cache
from searchdb.search.facets import FACET_VALUES, Facets
from searchdb.search.filters import Filters
from searchdb.search.query_cache import TextMemory
from searchdb.search.ranking import FIRST_HITS, MAX_HITS, parameter, prepare, ranked, similarity_to
from searchdb.search.relevance import MIN_SAMPLE, SCALE_COLUMNS, Relevance, Scale, relevance_for

__all__ = ["MAX_HITS", "Facets", "Filters", "Query", "QueryEmbedder", "Searcher"]

WHERE_TIMEOUT_S = 30
"""Longest run of a search with a raw condition, which may be slow in ways that our own filters are not."""
MAX_QUERY_CHARACTERS = 2000
"""Longest query text: CLIP reads about the first 60 words, PostgreSQL keeps keys of at most 2,704 bytes."""
MAX_QUERY_BYTES = 2600

_STORED = tuple(f.name for f in fields(StoredImage))
_STORED_COLUMNS = [images.c[name] for name in _STORED]

# Sorting by random() would read the whole table. Chance picks ids here, more of them than needed because of gaps, and
# the newest pictures fill up where too few were met.
_SAMPLE = sa.select(*_STORED_COLUMNS).where(
    images.c.id.in_(
        sa.select(
            sa.text(
                """
                WITH span AS (SELECT min(id) AS low, max(id) AS high FROM images),
                guessed AS (
                    SELECT DISTINCT low + floor(random() * (high - low + 1))::bigint AS id
                    FROM span, generate_series(1, 4 * :count)
                )
                SELECT id FROM (
                    (SELECT images.id, 0 AS turn FROM images JOIN guessed USING (id))
                    UNION ALL
                    (SELECT id, 1 FROM images ORDER BY id DESC LIMIT :count)
                ) AS found
                GROUP BY id ORDER BY min(turn), random() LIMIT :count
                """
            )
            .columns(sa.column("id", sa.BigInteger))
            .subquery()
        )
    )
)


class QueryEmbedder(Protocol):
    """What a search needs of the model."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is; known without loading it."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(texts), 512)."""
        ...

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(pictures), 512)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for: at least one of `text`, `picture` (RGB) and `like` (an id), and what it should not be.

    In the picture's place may be its unit `vector`, float32 of shape (512,), from the same model.
    """

    text: str | None = None
    picture: Image.Image | None = None
    vector: np.ndarray | None = None
    like: int | None = None
    exclude: str | None = None


class Searcher:
    """Searches one collection with one model.

    Args:
        engine: the database.
        embedder: the model; asked only for what the query cache does not hold.
        memory: of this model's texts, to which the query cache is seldom asked for one twice; None to ask it each time.
    """

    def __init__(self, engine: Engine, embedder: QueryEmbedder, memory: TextMemory | None = None) -> None:
        self._engine = engine
        self._embedder = embedder
        self._memory = memory

    def search(
        self,
        query: Query,
        *,
        filters: Filters | None = None,
        threshold: float = 0.0,
        min_relevance: float = 0.0,
        count: int = 10,
        offset: int = 0,
    ) -> list[Hit]:
        """Return the hits `offset` to `offset + count` of the pictures nearest to the query, best first.

        Several parts are combined as the unit mean of their unit vectors, minus the excluded text's.
        `threshold` is the least cosine similarity, -1 to 1; `min_relevance` the least relevance, 0 to 1, which needs a
        text. A picture is no hit of its own `like`. With filters there are `count` hits whenever so many pictures meet
        them and the two limits.

        Raises:
            QueryError: the query is empty, too long, or asks for hits past MAX_HITS; or PostgreSQL refuses
                `filters.where`.
            ImageNotFoundError: `like` names no stored picture.
            ModelMismatchError: the stored pictures were embedded with another model.
        """
        _check_bounds(query, threshold, min_relevance, count, offset)
        with self._reading() as connection:
            parts = self._parts(connection, query)
            judge = self._judge(connection, query.text, parts) if min_relevance > 0 else None
            condition = filters.condition() if filters else None
            if judge is not None:
                least = judge.similarity(min_relevance)
                if len(parts) == 1:
                    threshold = max(threshold, least)
                else:
                    enough = similarity_to(parameter("part_text")) >= least
                    condition = enough if condition is None else condition & enough
            explained = tuple(parts) if len(parts) > 1 else ()
            shape = (offset + count > FIRST_HITS, explained, query.like is not None)
            given = {"vector": _combined(parts), "least": threshold, "offset": offset, "end": offset + count}
            given |= {f"part_{name}": parts[name] for name in explained}
            if query.like is not None:
                given["without"] = query.like
            if condition is None:
                rows = _execute(connection, _unfiltered(*shape), given)
            else:
                prepare(connection)
                run = _execute_guarded if filters and filters.where else _execute
                rows = run(connection, _page(*shape, condition), given)
            if not rows or any(row["model"] != self._embedder.identity.weights_sha256 for row in rows):
                check_model(connection, self._embedder.identity)
            if rows and min_relevance <= 0:
                judge = self._judge(connection, query.text, parts, Scale.from_row(rows[0]))
        if rows and judge is None and min_relevance > 0:
            raise QueryError(
                f"min_relevance is {min_relevance}, but a collection of less than {MIN_SAMPLE} pictures has nothing to "
                "judge relevance by: leave it out"
            )
        return [_hit(row, parts, judge) for row in rows]

    def facets(self, filters: Filters | None = None, *, limit: int = FACET_VALUES) -> Facets:
        """Return what the pictures within the filters can be filtered by, `limit` values each at most."""
        with self._reading() as connection:
            return facets.facets(connection, filters, limit=limit)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors of query texts, float32 of shape (n, 512), and leave them in the query cache.

        Raises:
            QueryError: a text is empty or too long.
            ModelMismatchError: the stored pictures were embedded with another model.
        """
        with self._reading() as connection:
            check_model(connection, self._embedder.identity)
            return self._embed_texts(connection, [_checked(text) for text in texts])

    def get(self, image_id: int) -> StoredImage:
        """Return one stored picture.

        Raises:
            ImageNotFoundError: there is none with this id.
        """
        statement = sa.select(*_STORED_COLUMNS).where(images.c.id == _checked_id(image_id))
        with self._reading() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        if row is None:
            raise ImageNotFoundError(image_id)
        return StoredImage.from_row(row)

    def sample(self, count: int) -> list[StoredImage]:
        """Return some pictures by chance, in no order; all of them when there are fewer than `count`."""
        with self._reading() as connection:
            rows = connection.execute(_SAMPLE, {"count": count}).mappings()
            return [StoredImage.from_row(row) for row in rows]

    def count(self) -> int:
        """Return the number of searchable pictures."""
        with self._reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection whose transaction is ended by COMMIT: at a ROLLBACK psycopg forgets what it has prepared."""
        with self._engine.connect() as connection:
            yield connection
            connection.commit()

    def _judge(
        self, connection: Connection, query: str | None, parts: Mapping[str, np.ndarray], scale: Scale | None = None
    ) -> Relevance | None:
        """Return how similarities to the query's text are judged; None without one, and in a small collection."""
        if query is None:
            return None
        model = self._embedder
        return relevance_for(connection, query, parts["text"], model.identity, model.embed_texts, scale)

    def _parts(self, connection: Connection, query: Query) -> dict[str, np.ndarray]:
        """Return the unit vectors of what is asked for, float32 of shape (512,), under the names that hits have."""
        wanted, excluded = ((None if each is None else _checked(each).strip()) for each in (query.text, query.exclude))
        texts = [each for each in (wanted, excluded) if each is not None]
        by_text = dict(zip(texts, self._embed_texts(connection, texts), strict=True)) if texts else {}
        parts: dict[str, np.ndarray] = {}
        if wanted is not None:
            parts["text"] = by_text[wanted]
        if query.picture is not None:
            parts["image"] = self._embedder.embed_images([query.picture])[0]
        elif query.vector is not None:
            parts["image"] = query.vector
        if query.like is not None:
            parts["like"] = _stored_embedding(connection, query.like)
        if not parts:
            raise QueryError("there is nothing to look for: give a text, a picture or the id of a stored picture")
        if excluded is not None:
            parts["not"] = by_text[excluded]
        return parts

    def _embed_texts(self, connection: Connection, texts: Sequence[str]) -> np.ndarray:
        model = self._embedder
        return query_cache.embed_texts(connection, texts, model.identity, model.embed_texts, self._memory)


def _check_bounds(query: Query, threshold: float, min_relevance: float, count: int, offset: int) -> None:
    if not -1 <= threshold <= 1:
        raise QueryError(f"the threshold is {threshold}, a cosine similarity lies between -1 and 1")
    if not 0 <= min_relevance <= 1:
        raise QueryError(f"min_relevance is {min_relevance}, a relevance lies between 0 and 1")
    if min_relevance > 0 and query.text is None:
        raise QueryError("min_relevance needs a text, which relevance is about: for pictures give a threshold")
    if count < 1 or offset < 0 or offset + count > MAX_HITS:
        raise QueryError(
            f"hits {offset + 1} to {offset + count} were asked for: count starts at 1, offset at 0, "
            f"and a search goes no deeper than {MAX_HITS:,} hits. Narrow the query instead"
        )


def _combined(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the unit vector of a whole query, float32 of shape (512,)."""
    vector = _unit(np.mean([part for name, part in parts.items() if name != "not"], axis=0))
    return _unit(vector - parts["not"]) if "not" in parts else vector


def _page(
    deep: bool, explained: tuple[str, ...], without: bool, condition: ColumnElement[bool] | None = None
) -> sa.Select[Any]:
    """Return the statement of one page of hits: `vector`, `least`, `offset`, `end`, and as said, are its parameters.

    Args:
        deep: whether the page goes beyond FIRST_HITS.
        explained: names of the query's parts, `part_<name>`, to each of which a hit tells its similarity.
        without: whether there is a picture, `without`, that is no hit.
        condition: that hits meet.
    """
    place = ranked(
        parameter("vector"),
        MAX_HITS if deep else FIRST_HITS,
        condition=condition,
        least=sa.bindparam("least", type_=sa.Double),
        without=sa.bindparam("without", type_=sa.BigInteger) if without else None,
    )
    offset, end = (sa.bindparam(name, type_=sa.Integer) for name in ("offset", "end"))
    return (
        sa.select(
            *_STORED_COLUMNS,
            place.c.similarity,
            embedding_models.c.weights_sha256.label("model"),
            *SCALE_COLUMNS,
            *(similarity_to(parameter(f"part_{name}")).label(f"part_{name}") for name in explained),
        )
        .join_from(place, images, images.c.id == place.c.id)
        .join(embedding_models)
        .outerjoin(relevance_scale)
        .where(place.c.place > offset, place.c.place <= end)
        .order_by(place.c.place)
    )


_unfiltered = cache(_page)
"""Made once for each shape, of which there are few: making a statement takes longer than running it."""


def _hit(row: Mapping[Any, Any], parts: Mapping[str, np.ndarray], judge: Relevance | None) -> Hit:
    explained = {name: row[f"part_{name}"] for name in parts} if len(parts) > 1 else None
    to_text = explained["text"] if explained and "text" in explained else row["similarity"]
    return Hit(
        **{name: row[name] for name in _STORED},
        similarity=row["similarity"],
        relevance=None if judge is None else judge.of(to_text),
        parts=explained,
    )


def _execute(
    connection: Connection, statement: sa.Select[Any], given: Mapping[str, Any]
) -> Sequence[Mapping[Any, Any]]:
    return connection.execute(statement, given).mappings().all()


def _execute_guarded(
    connection: Connection, statement: sa.Select[Any], given: Mapping[str, Any]
) -> Sequence[Mapping[Any, Any]]:
    """Run a statement with a raw condition in it: it can change nothing, and takes no longer than WHERE_TIMEOUT_S."""
    connection.execute(
        text("SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', :longest, true)"),
        {"longest": f"{WHERE_TIMEOUT_S}s"},
    )
    try:
        return _execute(connection, statement, given)
    except DatabaseUnavailableError:
        raise
    except DatabaseError as exc:
        timed_out = exc.sqlstate == "57014"
        way_out = f" (it may take {WHERE_TIMEOUT_S} s: make it simpler, or index what it asks for)" if timed_out else ""
        raise QueryError(f"where is refused by PostgreSQL: {exc}{way_out}") from exc


def _stored_embedding(connection: Connection, image_id: int) -> np.ndarray:
    vector = connection.scalar(sa.select(images.c.embedding).where(images.c.id == _checked_id(image_id)))
    if vector is None:
        raise ImageNotFoundError(image_id)
    return vector


def _checked_id(image_id: int) -> int:
    if not 0 < image_id <= LARGEST_ID:
        raise ImageNotFoundError(image_id)
    return image_id


def _checked(text: str) -> str:
    """Return the text as the query cache keys it, or say what is wrong with it."""
    storable = text.replace("\x00", "").encode("utf-8", "replace").decode()
    if not storable.strip():
        raise QueryError("the query text is empty")
    if len(storable) > MAX_QUERY_CHARACTERS or len(storable.encode()) > MAX_QUERY_BYTES:
        raise QueryError(
            f"the query text has {len(storable):,} characters, the limit is {MAX_QUERY_CHARACTERS:,} "
            f"({MAX_QUERY_BYTES:,} bytes); CLIP reads about the first 60 words"
        )
    return storable


def _unit(vector: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        raise QueryError("the parts of the query cancel each other out: what is wanted is also excluded")
    return (vector / norm).astype(np.float32)
