"""Tests adding single images: one row and one file for the same bytes, and nothing for those that fail."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.db.database import Database
from searchdb.db.tables import embedding_models, images, ingest_failures
from searchdb.errors import (
    AddressRefusedError,
    DamagedImageError,
    DatabaseError,
    EmptyFileError,
    ImageNotFoundError,
    ModelMismatchError,
    NotAnImageError,
    StorageError,
    TooManyBytesError,
    TooManyPixelsError,
)
from searchdb.ingest import adder as adder_module
from searchdb.ingest.adder import SOURCE, Adder
from searchdb.ingest.rows import MAX_INDEXED_CHARACTERS
from searchdb.media.bounded_folder import BoundedFolder
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.fetch import Fetcher
from searchdb.media.formats import FORMATS
from searchdb.records import SourceItem
from searchdb.search.searcher import Query, Searcher
from tests.helpers.image_server import ImageServer, huge_png, make_image
from tests.helpers.photo_files import encoded_as

THREADS = 12
MAX_BYTES = 1_000_000


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    return tmp_path / "home" / "uploads"


@pytest.fixture
def make_adder(database: Database, embedder: CLIPEmbedder, uploads: Path) -> Iterator[Callable[..., Adder]]:
    fetchers: list[Fetcher] = []

    def make(*, allow_private_addresses: bool = True, max_uploads_bytes: int = 10**9) -> Adder:
        fetchers.append(Fetcher(max_bytes=MAX_BYTES, allow_private_addresses=allow_private_addresses, attempts=1))
        return Adder(
            engine=database.engine,
            embedder=embedder,
            fetcher=fetchers[-1],
            uploads=BoundedFolder(uploads, max_uploads_bytes),
            max_bytes=MAX_BYTES,
            max_pixels=1_000_000,
        )

    yield make
    for fetcher in fetchers:
        fetcher.close()


@pytest.fixture
def adder(make_adder: Callable[..., Adder]) -> Adder:
    return make_adder()


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


def item(image: str = "", **said: object) -> SourceItem:
    return SourceItem(**{"image": image, "source": SOURCE, **said})  # type: ignore[arg-type]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def count(database: Database, table: sa.Table) -> int:
    with database.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


# --- Bytes ----------------------------------------------------------------------------------------


def test_image_is_stored_and_found(adder: Adder, database: Database, embedder: CLIPEmbedder, uploads: Path) -> None:
    data = make_image("PNG")
    added = adder.add(data, item(description="A boat", tags=("sea", "sea"), metadata={"name": "boat.gif"}))
    image = added.image
    assert added.created
    digest = hashlib.sha256(data).digest()
    assert image.sha256 == digest
    assert (image.source, image.description, image.tags, image.metadata) == (
        "api",
        "A boat",
        ["sea"],
        {"name": "boat.gif"},
    )
    assert (image.width, image.height, image.byte_size) == (48, 32, len(data))
    name = digest.hex()
    path = uploads / name[:2] / f"{name}.png"
    assert image.image == str(path)
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (uploads, path.parent)} == {0o700}
    assert files_in(uploads) == [path]
    vector = embedder.embed_texts(["a boat"])[0]
    assert [hit.id for hit in Searcher(database.engine, embedder).search(Query(vector=vector), threshold=-1)] == [
        image.id
    ]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("JPEG", ".jpg"),
        ("PNG", ".png"),
        ("GIF", ".gif"),
        ("WEBP", ".webp"),
        ("BMP", ".bmp"),
        ("TIFF", ".tif"),
        ("AVIF", ".avif"),
        ("HEIC", ".heic"),
        ("JPEG XL", ".jxl"),
        ("RAW", ".raw"),
    ],
)
def test_content_names_the_file(adder: Adder, kind: str, suffix: str) -> None:
    data = encoded_as(Image.new("RGB", (48, 32), "teal"), kind)
    assert Path(adder.add(data, item()).image.image).suffix == suffix


def test_every_format_that_is_read_has_a_suffix() -> None:
    assert {*adder_module._SUFFIXES, "MPO"} == set(FORMATS)


def test_same_bytes_are_the_same_row(adder: Adder, database: Database, uploads: Path) -> None:
    first = adder.add(make_image(), item(description="first"))
    again = adder.add(make_image(), item(description="second"))
    assert (first.created, again.created) == (True, False)
    assert again.image == first.image
    assert (count(database, images), len(files_in(uploads))) == (1, 1)


def test_many_add_the_same_bytes_at_once(adder: Adder, database: Database, uploads: Path) -> None:
    data = make_image("PNG", seed=7)
    together = threading.Barrier(THREADS)

    def add(_number: int) -> adder_module.Addition:
        together.wait()
        return adder.add(data, item())

    with ThreadPoolExecutor(THREADS) as pool:
        added = list(pool.map(add, range(THREADS)))
    assert Counter(each.created for each in added) == {True: 1, False: THREADS - 1}
    assert len({each.image.id for each in added}) == 1
    assert (count(database, images), len(files_in(uploads))) == (1, 1)


@pytest.mark.slow
def test_adding_and_removing_at_once_never_leaves_a_row_without_its_file(
    adder: Adder, database: Database, uploads: Path
) -> None:
    data = make_image("PNG", seed=8)

    def add_and_remove(_number: int) -> None:
        image = adder.add(data, item()).image
        with suppress(ImageNotFoundError):  # another was faster
            adder.remove(image.id)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(add_and_remove, range(6 * THREADS)))
    assert count(database, images) == 0
    assert files_in(uploads) == []
    image = adder.add(data, item()).image
    assert Path(image.image).read_bytes() == data


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", NotAnImageError),
        (b"<!doctype html><script>alert(1)</script>", NotAnImageError),
        (b"", EmptyFileError),
        (make_image("PNG")[:-30], DamagedImageError),
        (huge_png(), TooManyPixelsError),
        (bytes(MAX_BYTES + 1), TooManyBytesError),
    ],
    ids=["SVG", "HTML", "empty", "damaged", "huge", "long"],
)
def test_image_that_fails_leaves_nothing(
    adder: Adder, database: Database, uploads: Path, data: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        adder.add(data, item())
    assert (count(database, images), count(database, ingest_failures)) == (0, 0)
    assert not uploads.exists()


def test_file_is_deleted_when_its_row_cannot_be_written(
    adder: Adder, database: Database, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        assert len(files_in(uploads)) == 1, "the file comes before the row"
        raise DatabaseError("no")

    monkeypatch.setattr(adder_module, "upsert_images", refuse)
    with pytest.raises(DatabaseError):
        adder.add(make_image(), item())
    assert files_in(uploads) == []
    assert count(database, images) == 0


def test_half_a_file_is_never_seen(adder: Adder, uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        assert not target.exists()
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError, match="full"):
        adder.add(make_image(), item())
    assert files_in(uploads) == []


def test_long_camera_name_is_cut(adder: Adder) -> None:
    from io import BytesIO

    from PIL import ExifTags, Image

    exif = Image.Exif()
    exif[ExifTags.Base.Model] = os.urandom(3000).hex()
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif)
    image = adder.add(file.getvalue(), item()).image
    assert image.camera is not None
    assert len(image.camera) == MAX_INDEXED_CHARACTERS


def test_another_model_adds_nothing(adder: Adder, database: Database, uploads: Path) -> None:
    adder.add(make_image(seed=1), item())
    with database.begin() as connection:
        connection.execute(sa.update(embedding_models).values(name="other", weights_sha256=b"\7" * 32))
    with pytest.raises(ModelMismatchError):
        adder.add(make_image(seed=2), item())
    assert (count(database, images), len(files_in(uploads))) == (1, 1)


# --- URLs -----------------------------------------------------------------------------------------


def test_url_is_fetched_once_without_keeping_its_bytes(adder: Adder, image_server: ImageServer, uploads: Path) -> None:
    url = image_server.url("/ok.jpg?seed=3")
    first = adder.add_url(item(url, credit="Ann"))
    again = adder.add_url(item(url))
    assert (first.created, again.created) == (True, False)
    assert again.image == first.image
    assert (first.image.image, first.image.credit) == (url, "Ann")
    assert image_server.requests["/ok.jpg"] == 1
    assert not uploads.exists()


def test_url_with_known_bytes_is_the_row_that_has_them(adder: Adder, image_server: ImageServer) -> None:
    first = adder.add_url(item(image_server.url("/ok.jpg?seed=3")))
    assert adder.add_url(item(image_server.url("/ok.jpg?seed=3&again"))).image == first.image


def test_many_add_the_same_url_at_once(adder: Adder, image_server: ImageServer, database: Database) -> None:
    url = image_server.url("/ok.jpg?seed=4")
    with ThreadPoolExecutor(THREADS) as pool:
        added = list(pool.map(lambda _: adder.add_url(item(url)), range(THREADS)))
    assert sum(each.created for each in added) == 1
    assert count(database, images) == 1


def test_success_clears_a_known_failure(adder: Adder, image_server: ImageServer, database: Database) -> None:
    url = image_server.url("/ok.jpg?seed=5")
    with database.begin() as connection:
        row = {"image": url, "source": "urls", "error": "TransferError", "message": "it broke", "retryable": True}
        connection.execute(sa.insert(ingest_failures).values(row))
    assert adder.add_url(item(url)).created
    assert count(database, ingest_failures) == 0


def test_private_address_is_refused(
    make_adder: Callable[..., Adder], image_server: ImageServer, database: Database
) -> None:
    with pytest.raises(AddressRefusedError):
        make_adder(allow_private_addresses=False).add_url(item(image_server.url("/ok.jpg")))
    assert not image_server.requests
    assert (count(database, images), count(database, ingest_failures)) == (0, 0)


# --- Removing -------------------------------------------------------------------------------------


def test_removing_deletes_the_file(adder: Adder, database: Database, uploads: Path) -> None:
    image = adder.add(make_image(), item()).image
    assert adder.remove(image.id) == image
    assert (count(database, images), files_in(uploads)) == (0, [])
    with pytest.raises(ImageNotFoundError):
        adder.remove(image.id)


def test_removing_keeps_files_outside_the_uploads_folder(adder: Adder, database: Database, tmp_path: Path) -> None:
    image = adder.add(make_image(), item()).image
    theirs = tmp_path / "boat.jpg"
    theirs.write_bytes(make_image())
    with database.begin() as connection:
        connection.execute(sa.update(images).values(image=str(theirs)))
    adder.remove(image.id)
    assert theirs.exists()


@pytest.mark.parametrize("reference", ["https://example.org/boat.jpg", "/elsewhere/boat.jpg"])
def test_removing_takes_an_image_whose_content_is_unknown(adder: Adder, database: Database, reference: str) -> None:
    """As one that came in as a vector, and whose file was never on this machine."""
    image = adder.add(make_image(), item()).image
    with database.begin() as connection:
        unknown = {"sha256": None, "byte_size": None, "width": None, "height": None}
        connection.execute(sa.update(images).values(image=reference, **unknown))
    assert adder.remove(image.id).sha256 is None
    assert count(database, images) == 0
