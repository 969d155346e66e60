"""Searches the collection: the images nearest to a text, an image, a stored image, or a combination of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Engine

from searchdb.db.counts import RowCount, count_rows
from searchdb.db.current_model import check_model, has_images
from searchdb.db.tables import images
from searchdb.embedder import Embedder
from searchdb.errors import BusyError, DatabaseError, ImageNotFoundError, QueryError
from searchdb.records import Hit, StoredImage
from searchdb.search import facets
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.facets import FACET_VALUES, Facets
from searchdb.search.filters import Filters
from searchdb.search.following import is_of_other_dimension, with_current_model
from searchdb.search.guarded import guarded
from searchdb.search.hit_rows import WHERE_TIMEOUT_S, HitsWanted, fetch_rows
from searchdb.search.image_sample import MIN_SAMPLE
from searchdb.search.moments import HAS_VIDEOS, Moment, moments_of, videos_of
from searchdb.search.query import MAX_QUERY_CHARACTERS, Query, checked_id, checked_text
from searchdb.search.query_cache import QueryCache
from searchdb.search.query_vectors import QueryVectors, embed_query
from searchdb.search.ranking import MAX_HITS
from searchdb.search.relevance import RelevanceJudge
from searchdb.search.relevance_scale import Relevance, Scale, adjusted
from searchdb.search.statements import SAMPLE, SAMPLE_ONE_PER_VIDEO, STORED_IMAGE

__all__ = ["MAX_HITS", "MAX_QUERY_CHARACTERS", "Facets", "Filters", "Query", "Searcher"]

T = TypeVar("T")


def _nothing() -> None:
    pass


class Searcher:
    """Searches one collection with one model. Thread-safe.

    Keeps the vectors and the relevance of texts in memory: use one searcher for as long as database and model stay the
    same. Searches by stored images alone need no model: neither is it loaded, nor need it be there.

    Args:
        engine: the database.
        embedder: the model; asked only for texts and images that are not cached.
        cache: of this embedder's texts, if it is shared; by default one that always asks the database.
        on_search: called after each search, in its thread.
        raw_sql_engine: returns the database to which filters with `where` go; by default `engine`.
        everyday_texts: texts to measure the scale of relevance with.
        successor: returns a searcher with the collection's current model, which is asked again where this one's no
            longer is; None where the caller does that itself.
    """

    def __init__(
        self,
        engine: Engine,
        embedder: Embedder,
        cache: QueryCache | None = None,
        *,
        on_search: Callable[[], None] = _nothing,
        raw_sql_engine: Callable[[], Engine] | None = None,
        everyday_texts: Sequence[str] = EVERYDAY_TEXTS,
        successor: Callable[[], Searcher] | None = None,
    ) -> None:
        self._engine = engine
        self._successor = successor
        self._embedder = embedder
        self._cache = QueryCache(embedder) if cache is None else cache
        self._on_search = on_search
        self._raw_sql_engine = raw_sql_engine or (lambda: engine)
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
        one_per_video: bool = False,
    ) -> list[Hit]:
        """Return the hits `offset` to `offset + count` of the images nearest to the query, best first.

        Several parts are weighed and added, see `searchdb.search.combination`. `threshold` is the lowest cosine
        similarity, -1 to 1; `min_relevance` the lowest relevance, 0 to 1, which needs a text; of a text alone it
        selects among the MAX_HITS nearest images. The liked and disliked images are no hits. With filters there are
        `count` hits if as many images meet them and the two limits. With `one_per_video` a video is one hit, its best
        frame, and the videos of the liked and disliked frames are none.

        Raises:
            QueryError: the query is invalid, see `Query.check`, or asks for hits past MAX_HITS; or PostgreSQL refuses
                `filters.where`; or `min_relevance` is given and the collection is too small to judge relevance.
            ImageNotFoundError: `like` or `unlike` names no stored image.
            ModelMismatchError: the stored images were embedded with another model.
            BusyError: `min_relevance` is given, and another search takes long to measure the scale of relevance.
        """
        query.check()
        _check_bounds(query, threshold, min_relevance, count, offset)
        hits = self._with_current_model(
            lambda searcher: searcher._search(
                query,
                filters=filters,
                threshold=threshold,
                min_relevance=min_relevance,
                count=count,
                offset=offset,
                one_per_video=one_per_video,
            ),
            query,
        )
        self._on_search()
        return hits

    def _search(
        self,
        query: Query,
        *,
        filters: Filters | None,
        threshold: float,
        min_relevance: float,
        count: int,
        offset: int,
        one_per_video: bool,
    ) -> list[Hit]:
        with self._reading(filters) as connection:
            embedded = embed_query(connection, query, self._cache)
            parts = embedded.parts
            without = [*query.liked, *query.unliked]
            wanted = HitsWanted(
                offset=offset,
                count=count,
                threshold=threshold,
                filters=filters,
                one_per_video=one_per_video,
                without=without,
                without_videos=videos_of(connection, without) if one_per_video and without else (),
            )
            if min_relevance > 0:
                relevance = self._judge_text(connection, query, parts)
                least = {} if relevance is None else self._least(connection, relevance, parts["text"], min_relevance)
                rows = self._fetch(connection, embedded, replace(wanted, least=least))
                if rows and relevance is None:
                    raise QueryError(
                        f"min_relevance is {min_relevance}, but a collection of less than {MIN_SAMPLE} images is too "
                        "small to judge relevance: leave it out",
                        field="min_relevance",
                    )
            else:
                rows = self._fetch(connection, embedded, wanted)
                relevance = None
                with suppress(BusyError):  # better hits without a relevance than none
                    # The rows bring the scale, which saves a statement.
                    relevance = self._judge_text(connection, query, parts, Scale.from_row(rows[0])) if rows else None
            everyday: Mapping[int, float] = {}
            if relevance is not None:
                everyday = self._everyday_similarities(connection, relevance.scale, rows)
        return [_hit(row, parts, relevance, everyday) for row in rows]

    def weights(self, query: Query) -> dict[str, float]:
        """Return the weights with which a search adds the parts of a query, by the names in `Hit.parts`.

        Raises:
            QueryError: the query is invalid.
            ImageNotFoundError: `like` or `unlike` names no stored image.
        """
        query.check()

        def weigh(searcher: Searcher) -> dict[str, float]:
            with searcher._reading() as connection:
                return embed_query(connection, query, searcher._cache).factors(connection)

        return self._with_current_model(weigh, query)

    def facets(self, filters: Filters | None = None, *, limit: int = FACET_VALUES) -> Facets:
        """Return the values by which the images within the filters can be filtered further, `limit` each at most."""
        with self._reading(filters) as connection, guarded(connection, filters, WHERE_TIMEOUT_S):
            return facets.facets(connection, filters, limit=limit)

    def embed(self, texts: Sequence[str], *, must_store: bool = False) -> np.ndarray:
        """Return the unit vectors of query texts, float32 of shape (n, dimension), and leave them in the query cache.

        A database that refuses writes keeps what it has; with `must_store`, that is an error.

        Raises:
            DatabaseError: PostgreSQL failed, or refused to store a text that must be stored.
            QueryError: a text is empty or too long.
            ModelMismatchError: the stored images were embedded with another model.
        """
        checked = [checked_text(text, "text") for text in texts]

        def embed(searcher: Searcher) -> np.ndarray:
            with searcher._reading() as connection:
                check_model(connection, searcher._embedder.identity)
                return searcher._cache.embed(connection, checked, must_store=must_store)

        return self._with_current_model(embed)

    def get(self, image_id: int) -> StoredImage:
        """Return one stored image.

        Raises:
            ImageNotFoundError: there is none with this id.
        """
        with self._reading() as connection:
            row = connection.execute(STORED_IMAGE, {"id": checked_id(image_id)}).mappings().one_or_none()
        if row is None:
            raise ImageNotFoundError(image_id)
        return StoredImage.from_row(row)

    def moments(self, video: str, query: Query | None = None) -> list[Moment]:
        """Return the stored frames of a video, given by its path or URL, in time order; at most MAX_MOMENTS.

        With a query each has its similarity to it.

        Raises:
            QueryError: the query is invalid.
            ImageNotFoundError: `like` or `unlike` names no stored image.
        """
        if query is None:
            with self._reading() as connection:
                return moments_of(connection, video, None)
        query.check()

        def compare(searcher: Searcher) -> list[Moment]:
            with searcher._reading() as connection:
                vectors = embed_query(connection, query, searcher._cache)
                moments = moments_of(connection, video, vectors.combined(connection))
                vectors.check(connection)
                return moments

        return self._with_current_model(compare, query)

    def has_videos(self) -> bool:
        """Whether there are frames of videos among the stored images."""
        with self._reading() as connection:
            return bool(connection.scalar(HAS_VIDEOS))

    def sample(self, count: int, *, one_per_video: bool = False) -> list[StoredImage]:
        """Return `count` random images, in no order; all of them when there are fewer.

        With `one_per_video` at most one is a frame of the same video, so there may be fewer.
        """
        with self._reading() as connection:
            rows = connection.execute(SAMPLE_ONE_PER_VIDEO if one_per_video else SAMPLE, {"count": count}).mappings()
            return [StoredImage.from_row(row) for row in rows]

    def count(self) -> RowCount:
        """Return the number of searchable images: exact if there are few, otherwise an estimate."""
        with self._reading() as connection:
            return count_rows(connection, images)

    def _with_current_model(self, run: Callable[[Searcher], T], query: Query | None = None) -> T:
        """Return what `run` returns; once more if the collection was switched to another model meanwhile."""

        def check() -> None:
            with self._reading() as connection:
                check_model(connection, self._embedder.identity)

        return with_current_model(self, run, query=query, successor=self._successor, check=check)

    @contextmanager
    def _reading(self, filters: Filters | None = None) -> Generator[Connection]:
        """Yield a connection, and end its transaction by COMMIT: a ROLLBACK makes psycopg forget what is prepared."""
        engine = self._raw_sql_engine() if filters and filters.where else self._engine
        with engine.connect() as connection:
            yield connection
            connection.commit()

    def _judge_text(
        self, connection: Connection, query: Query, parts: Mapping[str, np.ndarray], scale: Scale | None = None
    ) -> Relevance | None:
        """Return how similarities to the query's text are judged; None without one, and in a small collection."""
        return None if query.text is None else self._judge.judge(connection, query.text, parts["text"], scale)

    def _least(
        self, connection: Connection, relevance: Relevance, vector: np.ndarray, min_relevance: float
    ) -> dict[str, Any]:
        """Return the parameters of RELEVANT for a text's vector and a least relevance."""
        everyday_vector = self._judge.everyday_vector(connection, relevance.scale)
        return {"adjusted": adjusted(vector, everyday_vector), "least": relevance.least(min_relevance)}

    def _everyday_similarities(
        self, connection: Connection, scale: Scale, rows: Sequence[Mapping[Any, Any]]
    ) -> Mapping[int, float]:
        """Return the images' mean similarities to the everyday texts, by id: from the rows, if they have this scale."""
        if rows and Scale.from_row(rows[0]) != scale:
            return self._judge.everyday_similarities(connection, scale, [row["id"] for row in rows])
        return {row["id"]: row["everyday_similarity"] for row in rows}

    def _fetch(self, connection: Connection, vectors: QueryVectors, wanted: HitsWanted) -> Sequence[Mapping[Any, Any]]:
        """Return the rows of one page of hits; none in an empty collection, whatever its vectors' dimension."""
        try:
            rows = fetch_rows(connection, vectors.combined(connection), vectors.parts, wanted)
        except (DatabaseError, QueryError) as exc:
            if not is_of_other_dimension(exc):
                raise
            connection.rollback()
            if has_images(connection):
                raise
            return ()
        if not rows or not all(vectors.is_of(row["model"]) for row in rows):
            vectors.check(connection)
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


def _hit(
    row: Mapping[Any, Any],
    parts: Mapping[str, np.ndarray],
    relevance: Relevance | None,
    everyday_similarities: Mapping[int, float],
) -> Hit:
    explained = {name: row[f"part_{name}"] for name in parts} if len(parts) > 1 else None
    to_text = explained["text"] if explained and "text" in explained else row["similarity"]
    return Hit.from_row(
        row,
        similarity=row["similarity"],
        relevance=None if relevance is None else relevance.of(to_text, everyday_similarities[row["id"]]),
        parts=explained,
        moments=row.get("moments"),
    )
