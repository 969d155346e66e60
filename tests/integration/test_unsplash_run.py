"""The Unsplash dataset from a server with every fault: each photo becomes an image, or a failure with its cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.unsplash.columns import FORMATS
from tests.helpers.image_server import ImageServer
from tests.helpers.runs import SHORT_SILENCE, Run, Runs
from tests.helpers.unsplash_files import photo, text
from tests.helpers.waiting import until

STORED: Mapping[str, int] = {
    "/ok.jpg": 120,
    "/ok.png": 8,
    "/ok.webp": 8,
    "/exif-rotated.jpg": 8,
    "/wrong-type": 8,
    "/redirect": 8,
    "/503-then-200": 1,
    "/429-retry-after-1": 1,
}
"""Paths that end as images, and how many photos have each."""

FAILED: Mapping[str, tuple[int, str, str]] = {
    "/404": (8, "HTTPStatusError", "404"),
    "/410": (4, "HTTPStatusError", "410"),
    "/one-byte-a-second": (2, "FetchTimeoutError", "bytes"),
    "/half": (3, "TransferError", "bytes"),
    "/html": (4, "NotAnImageError", "HTML"),
    "/empty": (4, "EmptyFileError", "empty"),
    "/redirect-loop": (3, "TooManyRedirectsError", "redirected"),
    "/redirect-to-file": (3, "InvalidReferenceError", "file:"),
    "/redirect-to-closed-port": (2, "TransferError", "refused"),
    "/endless": (2, "TooManyBytesError", "larger"),
    "/huge-png": (3, "TooManyPixelsError", "60,000 x 60,000"),
}
"""Paths that end as failures: how many photos have each, the error's class, and a word of its message."""

COLUMNS = [*FORMATS["photos"].columns, "photo_mood"]


@dataclass
class Dataset:
    """A part of photos, the paths of its good rows, and the references and causes of its bad ones."""

    part: Path
    paths: set[str] = field(default_factory=set)
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Distinct references."""
        return len(self.paths) + len(self.bad)


def write_dataset(folder: Path, server: ImageServer) -> Dataset:
    """Write some 200 rows as they come: quoted newlines and tabs, blank fields, a repeated row, broken ones."""
    dataset = Dataset(part=folder / "photos.tsv000")
    counts = {**STORED, **{path: count for path, (count, _, _) in FAILED.items()}}
    made = [f"{path}?seed={n}" for path, count in counts.items() for n in range(count)]
    # One of each kind after the other, so that every chunk has something of everything.
    mixed = sorted(made, key=lambda path: (int(path.rpartition("=")[2]), path))
    rows = [photo(n, photo_image_url=server.url(path), **_oddities(n)) for n, path in enumerate(mixed, 1)]
    dataset.paths = set(mixed)
    rows.insert(150, rows[7])
    lines = text("photos", rows, columns=COLUMNS, end="\r\n")
    lines += "\r\n"
    # A tab too many, first where nothing follows it, then within a field.
    whole = text("photos", [photo(901, photo_image_url=server.url("/ok.jpg?seed=901"))]).splitlines()[1]
    lines += f"{whole}\tcalm\t\r\n"
    dataset.paths.add("/ok.jpg?seed=901")
    broken = text("photos", [photo(902, photo_description="torn", photo_mood="calm")], columns=COLUMNS).splitlines()[1]
    lines += broken.replace("torn", "to\trn") + "\r\n"
    dataset.bad[f"photos.tsv000:{lines.count(chr(10))}"] = "fields"
    lines += text("photos", [photo(903, photo_image_url="")], columns=COLUMNS).splitlines()[1] + "\r\n"
    dataset.bad[f"photos.tsv000:{lines.count(chr(10))}"] = "photo_image_url is empty"
    lines += text("photos", [photo(904, photo_image_url="ftp://x/y")], columns=COLUMNS).splitlines()[1] + "\r\n"
    dataset.bad["ftp://x/y"] = "http"
    dataset.part.write_text(lines, encoding="utf-8", newline="")
    return dataset


def _oddities(n: int) -> dict[str, Any]:
    odd: Sequence[dict[str, Any]] = (
        {},
        {"photo_description": 'on two\nlines, "quoted"'},
        {"photo_description": "with a\ttab", "photo_mood": "calm"},
        {"photo_description": "", "exif_camera_make": " ", "photo_width": "", "photo_submitted_at": ""},
        {"photo_description": "\r\n\r\n", "photo_mood": "a\nb"},
    )
    return odd[n % len(odd)]


@dataclass(frozen=True)
class State:
    """How a collection is: hashes of images and classes of failures, by path or reference."""

    stored: Mapping[str, bytes]
    failures: Mapping[str, str]


def state(collection: SearchDB, server: ImageServer) -> State:
    with collection.database.connect() as connection:
        stored = connection.execute(sa.text("SELECT image, sha256 FROM images")).all()
    return State(
        stored={row.image.removeprefix(server.url("")): bytes(row.sha256) for row in stored},
        failures={f.image.removeprefix(server.url("")): f.error for f in collection.store.failures()},
    )


def start(runs: Runs, dataset: Dataset, **options: Any) -> Run:
    return runs.start("ingest", "unsplash", str(dataset.part), "--chunk-size", "16", "--json", **options)


def rows(collection: SearchDB, statement: str) -> list[Any]:
    with collection.database.connect() as connection:
        return list(connection.execute(sa.text(statement)))


@pytest.fixture
def runs(settings: Settings, tmp_path: Path) -> Iterator[Runs]:
    """Starts processes on the test's collection."""
    with Runs(settings, tmp_path) as runs:
        yield runs


def assert_every_photo_has_its_end(collection: SearchDB, server: ImageServer, dataset: Dataset) -> None:
    ended = state(collection, server)
    assert ended.stored.keys() == {path for path in dataset.paths if path.partition("?")[0] in STORED}
    failures = {f.image.removeprefix(server.url("")): f for f in collection.store.failures()}
    assert failures.keys() == (dataset.paths | dataset.bad.keys()) - ended.stored.keys()
    for reference, failure in failures.items():
        if reference in dataset.bad:
            expected, word = "InvalidReferenceError", dataset.bad[reference]
        else:
            _, expected, word = FAILED[reference.partition("?")[0]]
        assert (failure.error, word in failure.message) == (expected, True), failure
    assert collection.store.counts() == {"images": len(ended.stored), "failed": len(failures), "pending": 0}


def test_every_photo_becomes_an_image_or_a_failure_that_names_its_cause(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with ImageServer() as server:
        dataset = write_dataset(tmp_path, server)
        run = start(runs, dataset, new_interpreter=True)
        sums: list[int] = []

        def ended() -> bool:
            sums.append(sum(collection.store.counts().values()))
            return run.process.poll() is not None

        until(ended, "the run")
        report = run.report()
        # At every moment each reference that the run has come to was pending, an image or a failure.
        assert sums == sorted(sums)
        assert sums[-1] == dataset.size
        assert_every_photo_has_its_end(collection, server, dataset)
        stored_count, failures = (
            sum(STORED.values()) + 1,
            sum(count for count, _, _ in FAILED.values()) + len(dataset.bad),
        )
        assert report["stored"] == stored_count
        assert sum(report["failed"].values()) == failures
        # The repeated row is in another chunk: it was found in the queue, or stored by then.
        assert stored_count + failures <= report["done"] <= stored_count + failures + 1
        assert report["done"] == report["total"]
        assert server.requests["/503-then-200"] == server.requests["/429-retry-after-1"] == 2

        assert rows(collection, "SELECT image FROM images WHERE image LIKE '%exif%' AND height <= width") == []
        assert rows(collection, "SELECT image FROM images WHERE image NOT LIKE '%exif%' AND width <= height") == []
        twins = rows(
            collection,
            "SELECT count(*), count(DISTINCT embedding::text), array_agg(image) FROM images GROUP BY sha256",
        )
        assert max(count for count, _, _ in twins) >= 8
        assert {vectors for _, vectors, _ in twins} == {1}
        assert report["copied"] == stored_count - len(twins)
        ((loaded,),) = rows(collection, "SELECT count(*) FROM unsplash_photos")
        assert loaded == dataset.size - 1  # without the torn row

        before = server.connections, server.requests.total()
        again = start(runs, dataset).report()
        assert (again["stored"], again["queued"], sum(again["failed"].values())) == (0, 0, 0)
        assert again["unchanged"] == stored_count
        assert again["known_failures"] in (failures, failures + 1)  # the repeated row
        assert (server.connections, server.requests.total()) == before


def test_a_killed_run_is_completed_by_the_same_command(collection: SearchDB, runs: Runs, tmp_path: Path) -> None:
    with ImageServer() as server:
        dataset = write_dataset(tmp_path, server)
        killed = start(runs, dataset)
        until(lambda: collection.store.counts()["images"] >= 30, "the first chunks")
        killed.kill()
        before = state(collection, server)
        assert sum(collection.store.counts().values()) <= dataset.size
        report = start(runs, dataset, before=SHORT_SILENCE).report()
        assert_every_photo_has_its_end(collection, server, dataset)
        after = state(collection, server)
        assert before.stored.items() <= after.stored.items()
        assert before.failures.items() <= after.failures.items()
        assert report["stored"] == len(after.stored) - len(before.stored)
    assert (
        rows(collection, "SELECT sha256 FROM images GROUP BY sha256 HAVING count(DISTINCT embedding::text) > 1") == []
    )
