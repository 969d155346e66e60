"""How well do similarity, relevance and the index work on given vectors of images and texts?

    python -m benchmarks quality FILE.npz [FILE.npz ...]

Each file holds vectors of one model, of any length above 0:

- `images` (n, d) and `texts` (m, d), floating-point; d is the number of numbers that the model gives, 64 to 2,000;
- `relevant` (m, n), boolean: whether an image shows what a text says;
- `absent_texts` (k, d), optional: texts that no image shows. Otherwise each text is searched for once more after the
  images that show it were deleted;
- `calibration_texts` (c, d), optional: texts that take the place of the everyday texts. Otherwise a part of `texts`
  does and is measured no further; `calibration` reports which.

The vectors are stored in an empty database, indexed as by an ingest, and searched as by the page. Nothing of this
depends on the demo's model. Standard output gets a JSON list with one object for each file, progress goes to standard
error. The figures:

- `auc_best_similarity`, `auc_relevance`: how well the best score among a text's first hits separates texts that an
  image shows from absent ones: the share of pairs of both in which the former has the higher score; ties count half.
- `false_share_similarity`, `false_share_relevance`: share of absent texts whose best score exceeds the score that nine
  of ten texts reach that an image shows.
- `calibration_error`: the relevance of all pairs of texts and images falls into ten bins of equal width. In each bin of
  at least 20 pairs, the error is the distance between the mean relevance and the share of pairs that belong together;
  this is the mean of the bins. None if the collection is too large to rank completely.
- `median_relevance_present`, `median_relevance_absent`: medians of the best relevance.
- `recall_at_10`, `p50_ms`, `exact_p50_ms`: of match_images and an exact scan in turn, for all these texts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import sqlalchemy as sa
from PIL import Image

from benchmarks.vectors import add, fill
from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.schema import migrate
from searchdb.db.tables import images as images_table
from searchdb.errors import ConfigError, SearchDBError
from searchdb.index.build import build_index
from searchdb.index.rebuild import rebuild_if_stale
from searchdb.index.recall import measure_recall
from searchdb.records import MAX_DIMENSION, MIN_DIMENSION, Hit, ModelIdentity
from searchdb.search.filters import Filters
from searchdb.search.image_sample import MIN_SAMPLE, refresh_sample
from searchdb.search.searcher import MAX_HITS, Query, Searcher

FIRST_HITS = 100
"""Hits among which the best score is looked for: with relevance, the first hit need not have it."""
BINS, MIN_PAIRS = 10, 20
"""Bins of relevance, and the fewest pairs in a bin that make its share of true pairs meaningful."""
MAX_RANKED = 20_000
"""Images up to which all pairs are judged: a thousand of them take each text about 20 ms."""
MAX_TAKEN_OUT = 500
"""Sets of images that are deleted in turn, evenly chosen from all: each has the sample and the scale measured again."""
HELD_OUT = 5
"""Without calibration texts, one text in so many is held out."""
MIN_CALIBRATION = 2
"""Fewer calibration texts have no distribution."""
REPORT_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class VectorSet:
    """One file's vectors: float32, of unit length."""

    images: np.ndarray
    texts: np.ndarray
    relevant: np.ndarray
    absent_texts: np.ndarray | None
    calibration_texts: np.ndarray
    held_out: bool
    """Whether `calibration_texts` are a part of the file's texts."""


class GivenVectors:
    """An embedder that knows the vectors of certain texts, and no others."""

    shortest_edge = 224
    dimension = 512

    def __init__(self, vectors: Mapping[str, np.ndarray]) -> None:
        self._vectors = vectors
        digest = hashlib.sha256(b"".join(vector.tobytes() for vector in vectors.values())).digest()
        dimension = len(next(iter(vectors.values())))
        self.identity = ModelIdentity(name="given vectors", weights_sha256=digest, dimension=dimension)

    def resize(self, image: Image.Image, /) -> Image.Image:
        return image.resize((self.shortest_edge, self.shortest_edge))

    def embed_texts(self, texts: Sequence[str], /) -> np.ndarray:
        return np.stack([self._vectors[text] for text in texts])

    def embed_images(self, images: Sequence[Image.Image], /) -> np.ndarray:
        raise NotImplementedError(f"only vectors of texts are given, not of {len(images)} images")


def main(files: Sequence[str]) -> int:
    """Measure each file and print the figures; return the exit status."""
    if not files:
        print("usage: python -m benchmarks quality FILE.npz [FILE.npz ...]", file=sys.stderr)
        return 2
    try:
        given = {file: load(file) for file in files}
        measured = [{"file": file} | measure(vectors, file) for file, vectors in given.items()]
    except SearchDBError as exc:
        print(exc, file=sys.stderr)
        return 1
    print(json.dumps(measured, indent=2))
    return 0


def load(file: str) -> VectorSet:
    """Read and check a file.

    Raises:
        ConfigError: it cannot be read, or an array is missing, misshapen or not finite.
    """
    try:
        with np.load(file) as stored:
            found: dict[str, np.ndarray] = dict(stored.items())
    except (OSError, ValueError, TypeError, AttributeError, EOFError, BadZipFile) as exc:
        raise ConfigError(f"{file}: not a readable .npz file: {exc}") from exc
    if missing := [name for name in ("images", "texts", "relevant") if name not in found]:
        raise ConfigError(f"{file}: has no array `{missing[0]}`")
    images = _unit(file, "images", found["images"])
    texts = _unit(file, "texts", found["texts"], like=images)
    relevant = found["relevant"]
    shape = (len(texts), len(images))
    if relevant.dtype != np.bool_ or relevant.shape != shape:
        raise ConfigError(
            f"{file}: `relevant` holds {relevant.dtype} of shape {relevant.shape}, but must hold bool of shape {shape}"
        )
    absent = _unit(file, "absent_texts", found["absent_texts"], like=images) if "absent_texts" in found else None
    held_out = "calibration_texts" not in found
    if held_out:
        chosen = np.arange(len(texts)) % HELD_OUT == HELD_OUT - 1
        calibration, texts, relevant = texts[chosen], texts[~chosen], relevant[~chosen]
    else:
        calibration = _unit(file, "calibration_texts", found["calibration_texts"], like=images)
    if len(calibration) < MIN_CALIBRATION:
        way_out = f"give `calibration_texts`, or {HELD_OUT * MIN_CALIBRATION} texts to hold out a part of"
        raise ConfigError(
            f"{file}: {len(calibration)} texts to calibrate by, but at least {MIN_CALIBRATION} are needed: {way_out}"
        )
    if not relevant.any():
        raise ConfigError(f"{file}: no image is relevant to any text")
    left = len(images) - (0 if absent is not None else int(relevant.sum(axis=1).max()))
    if left < MIN_SAMPLE:
        raise ConfigError(
            f"{file}: {left} of {len(images)} images are left to search, but relevance needs at least {MIN_SAMPLE}"
        )
    return VectorSet(
        images=images,
        texts=texts,
        relevant=relevant,
        absent_texts=absent,
        calibration_texts=calibration,
        held_out=held_out,
    )


def _unit(file: str, name: str, vectors: np.ndarray, *, like: np.ndarray | None = None) -> np.ndarray:
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating) or not len(vectors):
        raise ConfigError(
            f"{file}: `{name}` holds {vectors.dtype} of shape {vectors.shape}, but must hold floating-point numbers of "
            "shape (rows, numbers)"
        )
    if not MIN_DIMENSION <= vectors.shape[1] <= MAX_DIMENSION:
        raise ConfigError(
            f"{file}: the vectors in `{name}` have {vectors.shape[1]:,} numbers, but searchdb stores vectors of "
            f"{MIN_DIMENSION} to {MAX_DIMENSION:,}"
        )
    if like is not None and vectors.shape[1] != like.shape[1]:
        raise ConfigError(
            f"{file}: the vectors in `{name}` have {vectors.shape[1]:,} numbers, those in `images` {like.shape[1]:,}"
        )
    if not np.isfinite(vectors).all():
        raise ConfigError(f"{file}: `{name}` holds numbers that are not finite")
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not lengths.all():
        raise ConfigError(f"{file}: `{name}` holds a vector of length 0")
    return (vectors / lengths).astype(np.float32)


def measure(vectors: VectorSet, label: str = "") -> dict[str, Any]:
    """Return the figures of one file, measured in a new database."""
    home = Path(tempfile.mkdtemp(prefix="sdb-"))
    try:
        with Database(Settings(home=home, database_url=None)) as database:
            migrate(database)
            return _Measurement(database, vectors, label).run()
    finally:
        shutil.rmtree(home, ignore_errors=True)


class _Measurement:
    """A collection with one file's images, and searches of it."""

    def __init__(self, database: Database, vectors: VectorSet, label: str) -> None:
        self._database = database
        self._vectors = vectors
        self._label = label
        absent = vectors.absent_texts
        self._everyday = _names("everyday text", vectors.calibration_texts)
        self._texts = _names("text", vectors.texts)
        self._absent = [] if absent is None else _names("absent text", absent)
        self._queries = vectors.texts if absent is None else np.vstack([vectors.texts, absent])
        named = zip(
            (*self._everyday, *self._texts, *self._absent),
            (*vectors.calibration_texts, *self._queries),
            strict=True,
        )
        self._embedder = GivenVectors(dict(named))

    def run(self) -> dict[str, Any]:
        """Fill the collection and return the figures."""
        engine, vectors = self._database.engine, self._vectors
        self._report(f"storing {len(vectors.images):,} images")
        fill(self._database, vectors.images, self._embedder.identity)
        if not rebuild_if_stale(engine):
            build_index(engine)  # below the rows at which ingest builds one
        recalls = measure_recall(engine, sample=1, texts=self._queries, progress=self._progress).recalls
        recall = next(recall for recall in recalls if recall.kind == "text")
        searcher = self._searcher()
        shown = np.flatnonzero(vectors.relevant.any(axis=1))
        present = np.array([self._best(searcher, self._texts[n]) for n in self._counted("present", shown)])
        error = self._calibration_error(searcher)
        if self._absent:
            absent = np.array([self._best(searcher, name) for name in self._counted("absent", self._absent)])
        else:
            absent = np.array(list(self._taken_out()))
        return {
            "auc_best_similarity": auc(present[:, 0], absent[:, 0]),
            "auc_relevance": auc(present[:, 1], absent[:, 1]),
            "false_share_similarity": false_share(present[:, 0], absent[:, 0]),
            "false_share_relevance": false_share(present[:, 1], absent[:, 1]),
            "calibration_error": error,
            "median_relevance_present": float(np.median(present[:, 1])),
            "median_relevance_absent": float(np.median(absent[:, 1])),
            "recall_at_10": recall.recall,
            "p50_ms": recall.p50_ms,
            "exact_p50_ms": recall.exact_p50_ms,
            "images": len(vectors.images),
            "present_texts": len(present),
            "absent_texts": len(absent),
            "absent": "absent_texts" if self._absent else "texts whose images were deleted",
            "calibration_texts": len(self._everyday),
            "calibration": "held-out part of texts" if vectors.held_out else "calibration_texts",
        }

    def _searcher(self) -> Searcher:
        """Return a searcher that remembers nothing of an earlier state of the collection."""
        return Searcher(self._database.engine, self._embedder, everyday_texts=self._everyday)

    def _best(self, searcher: Searcher, name: str) -> tuple[float, float]:
        """Return the best similarity and the best relevance."""
        hits = searcher.search(Query(text=name), threshold=-1, count=FIRST_HITS)
        return max(hit.similarity for hit in hits), max(map(_relevance, hits))

    def _calibration_error(self, searcher: Searcher) -> float | None:
        relevant = self._vectors.relevant
        rows = relevant.shape[1]
        if rows > MAX_RANKED:
            return None
        with self._database.connect() as connection:
            ids = connection.scalars(sa.select(images_table.c.id).order_by(images_table.c.id)).all()
        parts = [ids[start : start + MAX_HITS] for start in range(0, rows, MAX_HITS)]
        conditions = [f"id BETWEEN {part[0]} AND {part[-1]}" for part in parts]
        judged, belongs = [], []
        for n in self._counted("all pairs", range(len(self._texts))):
            query = Query(text=self._texts[n])
            for where in conditions:
                filters = Filters(where=where)
                for hit in searcher.search(query, filters=filters, threshold=-1, count=MAX_HITS):
                    judged.append(_relevance(hit))
                    belongs.append(relevant[n, int(hit.image)])
        return calibration_error(np.array(judged), np.array(belongs))

    def _taken_out(self) -> Iterator[tuple[float, float]]:
        """Delete each set of images that a text has, search for the texts that have this set, and restore it."""
        vectors = self._vectors
        groups: dict[bytes, list[int]] = {}
        for n, row in enumerate(vectors.relevant):
            groups.setdefault(np.packbits(row).tobytes(), []).append(n)
        chosen = list(groups.values())
        if len(chosen) > MAX_TAKEN_OUT:
            chosen = [chosen[n] for n in np.linspace(0, len(chosen) - 1, MAX_TAKEN_OUT).astype(int)]
        for texts in self._counted("images taken out", chosen):
            numbers = np.flatnonzero(vectors.relevant[texts[0]])
            with self._database.begin() as connection:
                names = [str(number) for number in numbers]
                connection.execute(sa.delete(images_table).where(images_table.c.image.in_(names)))
                refresh_sample(connection)
            searcher = self._searcher()
            for n in texts:
                yield self._best(searcher, self._texts[n])
            add(self._database, vectors.images, self._embedder.identity, numbers)

    def _counted(self, what: str, items: Sequence[Any] | np.ndarray) -> Iterator[Any]:
        for done, item in enumerate(items):
            self._progress(what, done, len(items))
            yield item

    def _progress(self, what: str, done: int, total: int) -> None:
        if done % REPORT_EVERY == 0:
            self._report(f"{what}, {done:,} of {total:,}")

    def _report(self, what: str) -> None:
        print(f"{self._label}: {what}", file=sys.stderr, flush=True)


def _names(prefix: str, vectors: np.ndarray) -> list[str]:
    return [f"{prefix} {n}" for n in range(len(vectors))]


def _relevance(hit: Hit) -> float:
    if hit.relevance is None:
        raise ConfigError("the collection is too small to judge relevance")
    return hit.relevance


def auc(present: np.ndarray, absent: np.ndarray) -> float:
    """Return the share of pairs in which the present text's score is the higher one; ties count half."""
    ordered = np.sort(absent)
    below = np.searchsorted(ordered, present, "left") + np.searchsorted(ordered, present, "right")
    return float(below.sum() / (2 * len(present) * len(absent)))


def false_share(present: np.ndarray, absent: np.ndarray) -> float:
    """Return the share of absent texts above the score that nine of ten present texts reach."""
    return float(np.mean(absent > np.quantile(present, 0.1)))


def calibration_error(relevance: np.ndarray, belongs: np.ndarray) -> float | None:
    """Return the mean distance between relevance and the share of pairs that belong together, over the bins."""
    bins = np.minimum((BINS * relevance).astype(int), BINS - 1)
    errors = [
        abs(float(belongs[bins == n].mean()) - float(relevance[bins == n].mean()))
        for n in range(BINS)
        if np.count_nonzero(bins == n) >= MIN_PAIRS
    ]
    return float(np.mean(errors)) if errors else None
