"""Searches the collection: the images nearest to a text, an image, a stored image, or a combination of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy import Connection, Engine, text

from searchdb.db.current_model import check_model
from searchdb.db.tables import images
from searchdb.embedder import Embedder
from searchdb.errors import DatabaseError, DatabaseUnavailableError, ImageNotFoundError, QueryError
from searchdb.records import LARGEST_ID, Hit, StoredImage
from searchdb.search import facets
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.facets import FACET_VALUES, Facets
from searchdb.search.filters import Filters
from searchdb.search.query_cache import QueryCache
from searchdb.search.ranking import FIRST_HITS, MAX_HITS, parameter, prepare, similarity_to
from searchdb.search.relevance import MIN_SAMPLE, Relevance, RelevanceJudge, Scale
from searchdb.search.statements import SAMPLE, STORED_FIELDS, STORED_IMAGE, hits_page, unfiltered_hits_page

__all__ = ["MAX_HITS", "Facets", "Filters", "Query", "Searcher"]

WHERE_TIMEOUT_S = 30
"""Longest run of a search with a raw condition, which may be slow in ways that our own filters are not."""
MAX_QUERY_CHARACTERS = 2000
"""Longest query text: CLIP reads about the first 60 words, PostgreSQL keeps keys of at most 2,704 bytes."""
MAX_QUERY_BYTES = 2600


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to search for: at least one of `text`, `image` (RGB) and `like` (a stored image's id), without `exclude`.

    Instead of the image its unit `vector` may be given, float32 of shape (512,), from the same model.
    """

    text: str | None = None
    image: Image.Image | None = None
    vector: np.ndarray | None = None
    like: int | None = None
    exclude: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Page:
    """Which of the ranked hits to return, and the lowest similarity to the whole query that a hit may have."""

    offset: int
    count: int
    threshold: float

    @property
    def end(self) -> int:
        return self.offset + self.count


class Searcher:
    """Searches one collection with one model. Thread-safe.

    Keeps the vectors and the relevance of texts in memory: use one searcher for as long as database and model stay the
    same.

    Args:
        engine: the database.
        embedder: the model; asked only for texts that are not cached.
        cache: of this embedder's texts, if it is shared; by default one that always asks the database.
        everyday_texts: by which relevance is measured.
    """

    def __init__(
        self,
        engine: Engine,
        embedder: Embedder,
        cache: QueryCache | None = None,
        *,
        everyday_texts: Sequence[str] = EVERYDAY_TEXTS,
    ) -> None:
        self._engine = engine
        self._embedder = embedder
        self._cache = QueryCache(embedder) if cache is None else cache
        self._judge = RelevanceJudge(self._cache, self._cache.writer, everyday_texts)

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
        """Return the hits `offset` to `offset + count` of the images nearest to the query, best first.

        Several parts are combined as the unit mean of their unit vectors, minus the excluded text's.
        `threshold` is the lowest cosine similarity, -1 to 1; `min_relevance` the lowest relevance, 0 to 1, which needs
        a text. `like` excludes the image itself. With filters there are `count` hits if as many images meet them and
        the two limits.

        Raises:
            QueryError: the query is empty, too long, or asks for hits past MAX_HITS; or PostgreSQL refuses
                `filters.where`; or `min_relevance` is given and the collection is too small to judge relevance.
            ImageNotFoundError: `like` names no stored image.
            ModelMismatchError: the stored images were embedded with another model.
        """
        _check_bounds(query, threshold, min_relevance, count, offset)
        page = _Page(offset=offset, count=count, threshold=threshold)
        with self._reading() as connection:
            parts = self._embed_parts(connection, query)
            if min_relevance > 0:
                relevance = self._judge_text(connection, query, parts)
                required = None if relevance is None else relevance.similarity(min_relevance)
                rows = self._fetch(connection, query, parts, filters, page, text_threshold=required)
                if rows and relevance is None:
                    raise QueryError(
                        f"min_relevance is {min_relevance}, but a collection of less than {MIN_SAMPLE} images is too "
                        "small to judge relevance: leave it out",
                        field="min_relevance",
                    )
            else:
                rows = self._fetch(connection, query, parts, filters, page)
                # The rows bring the scale, which saves a statement.
                relevance = self._judge_text(connection, query, parts, Scale.from_row(rows[0])) if rows else None
        return [_hit(row, parts, relevance) for row in rows]

    def facets(self, filters: Filters | None = None, *, limit: int = FACET_VALUES) -> Facets:
        """Return the values by which the images within the filters can be filtered further, `limit` each at most."""
        with self._reading() as connection:
            return facets.facets(connection, filters, limit=limit)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors of query texts, float32 of shape (n, 512), and leave them in the query cache.

        Raises:
            QueryError: a text is empty or too long.
            ModelMismatchError: the stored images were embedded with another model.
        """
        with self._reading() as connection:
            check_model(connection, self._embedder.identity)
            return self._cache.embed(connection, [_checked(text, "text") for text in texts])

    def get(self, image_id: int) -> StoredImage:
        """Return one stored image.

        Raises:
            ImageNotFoundError: there is none with this id.
        """
        with self._reading() as connection:
            row = connection.execute(STORED_IMAGE, {"id": _checked_id(image_id)}).mappings().one_or_none()
        if row is None:
            raise ImageNotFoundError(image_id)
        return StoredImage.from_row(row)

    def sample(self, count: int) -> list[StoredImage]:
        """Return `count` random images, in no order; all of them when there are fewer."""
        with self._reading() as connection:
            rows = connection.execute(SAMPLE, {"count": count}).mappings()
            return [StoredImage.from_row(row) for row in rows]

    def count(self) -> int:
        """Return the number of searchable images."""
        with self._reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        """Yield a connection, and end its transaction by COMMIT: a ROLLBACK makes psycopg forget what is prepared."""
        with self._engine.connect() as connection:
            yield connection
            connection.commit()

    def _embed_parts(self, connection: Connection, query: Query) -> dict[str, np.ndarray]:
        """Return the unit vectors of the query's parts, float32 of shape (512,), by the names in `Hit.parts`."""
        wanted = None if query.text is None else _checked(query.text, "text").strip()
        excluded = None if query.exclude is None else _checked(query.exclude, "exclude").strip()
        texts = [each for each in (wanted, excluded) if each is not None]
        by_text = dict(zip(texts, self._cache.embed(connection, texts), strict=True)) if texts else {}
        parts: dict[str, np.ndarray] = {}
        if wanted is not None:
            parts["text"] = by_text[wanted]
        if query.image is not None:
            parts["image"] = self._embedder.embed_images([query.image])[0]
        elif query.vector is not None:
            parts["image"] = query.vector
        if query.like is not None:
            parts["like"] = _stored_embedding(connection, query.like)
        if not parts:
            raise QueryError("there is nothing to look for: give a text, an image or the id of a stored image")
        if excluded is not None:
            parts["not"] = by_text[excluded]
        return parts

    def _judge_text(
        self, connection: Connection, query: Query, parts: Mapping[str, np.ndarray], scale: Scale | None = None
    ) -> Relevance | None:
        """Return how similarities to the query's text are judged; None without one, and in a small collection."""
        return None if query.text is None else self._judge.judge(connection, query.text, parts["text"], scale)

    def _fetch(
        self,
        connection: Connection,
        query: Query,
        parts: Mapping[str, np.ndarray],
        filters: Filters | None,
        page: _Page,
        *,
        text_threshold: float | None = None,
    ) -> Sequence[Mapping[Any, Any]]:
        """Return the rows of one page of hits; `text_threshold` is the lowest similarity to the query's text."""
        condition = filters.condition() if filters else None
        threshold = page.threshold
        if text_threshold is not None:
            if len(parts) == 1:
                threshold = max(threshold, text_threshold)
            else:
                similar = similarity_to(parameter("part_text")) >= text_threshold
                condition = similar if condition is None else condition & similar
        explained = tuple(parts) if len(parts) > 1 else ()
        shape = (page.end > FIRST_HITS, explained, query.like is not None)
        values = {"vector": _combined(parts), "threshold": threshold, "offset": page.offset, "end": page.end}
        values |= {f"part_{name}": parts[name] for name in explained}
        if query.like is not None:
            values["without"] = query.like
        if condition is None:
            rows = _execute(connection, unfiltered_hits_page(*shape), values)
        else:
            prepare(connection)
            execute = _execute_guarded if filters and filters.where else _execute
            rows = execute(connection, hits_page(*shape, condition), values)
        if not rows or any(row["model"] != self._embedder.identity.weights_sha256 for row in rows):
            check_model(connection, self._embedder.identity)
        return rows


def _check_bounds(query: Query, threshold: float, min_relevance: float, count: int, offset: int) -> None:
    if not -1 <= threshold <= 1:
        raise QueryError(
            f"the threshold is {threshold}, but a cosine similarity lies between -1 and 1", field="threshold"
        )
    if not 0 <= min_relevance <= 1:
        raise QueryError(
            f"min_relevance is {min_relevance}, but a relevance lies between 0 and 1", field="min_relevance"
        )
    if min_relevance > 0 and query.text is None:
        raise QueryError(
            "min_relevance needs a text, to which it refers: for images give a threshold", field="min_relevance"
        )
    if count < 1 or offset < 0 or offset + count > MAX_HITS:
        raise QueryError(
            f"hits {offset + 1} to {offset + count} were asked for: count starts at 1, offset at 0, "
            f"and a search goes no deeper than {MAX_HITS:,} hits. Narrow the query instead",
            field="offset" if count >= 1 and offset else "count",
        )


def _combined(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the unit vector of a whole query, float32 of shape (512,)."""
    vector = _unit(np.mean([part for name, part in parts.items() if name != "not"], axis=0))
    return _unit(vector - parts["not"]) if "not" in parts else vector


def _hit(row: Mapping[Any, Any], parts: Mapping[str, np.ndarray], relevance: Relevance | None) -> Hit:
    explained = {name: row[f"part_{name}"] for name in parts} if len(parts) > 1 else None
    to_text = explained["text"] if explained and "text" in explained else row["similarity"]
    return Hit(
        **{name: row[name] for name in STORED_FIELDS},
        similarity=row["similarity"],
        relevance=None if relevance is None else relevance.of(to_text),
        parts=explained,
    )


def _execute(
    connection: Connection, statement: sa.Select[Any], values: Mapping[str, Any]
) -> Sequence[Mapping[Any, Any]]:
    return connection.execute(statement, values).mappings().all()


def _execute_guarded(
    connection: Connection, statement: sa.Select[Any], values: Mapping[str, Any]
) -> Sequence[Mapping[Any, Any]]:
    """Run a statement with a raw condition in it: read-only, and for at most WHERE_TIMEOUT_S."""
    connection.execute(
        text("SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', :longest, true)"),
        {"longest": f"{WHERE_TIMEOUT_S}s"},
    )
    try:
        return _execute(connection, statement, values)
    except DatabaseUnavailableError:
        raise
    except DatabaseError as exc:
        timed_out = exc.sqlstate == "57014"
        way_out = f" (the limit is {WHERE_TIMEOUT_S} s: simplify it, or create an index for it)" if timed_out else ""
        raise QueryError(f"where is refused by PostgreSQL: {exc}{way_out}", field="where") from exc


def _stored_embedding(connection: Connection, image_id: int) -> np.ndarray:
    vector = connection.scalar(sa.select(images.c.embedding).where(images.c.id == _checked_id(image_id)))
    if vector is None:
        raise ImageNotFoundError(image_id)
    return vector


def _checked_id(image_id: int) -> int:
    if not 0 < image_id <= LARGEST_ID:
        raise ImageNotFoundError(image_id)
    return image_id


def _checked(text: str, field: str) -> str:
    """Return the text as the query cache keys it.

    Raises:
        QueryError: it is empty or too long.
    """
    storable = text.replace("\x00", "").encode("utf-8", "replace").decode()
    if not storable.strip():
        raise QueryError("the query text is empty", field=field)
    if len(storable) > MAX_QUERY_CHARACTERS or len(storable.encode()) > MAX_QUERY_BYTES:
        raise QueryError(
            f"the query text has {len(storable):,} characters, the limit is {MAX_QUERY_CHARACTERS:,} "
            f"({MAX_QUERY_BYTES:,} bytes); CLIP reads about the first 60 words",
            field=field,
        )
    return storable


def _unit(vector: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        raise QueryError("the parts of the query cancel each other out: the same thing is searched for and excluded")
    return (vector / norm).astype(np.float32)
