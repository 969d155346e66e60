"""Image files by id: only images of the collection are served, and thumbnails come from the cache."""

from __future__ import annotations

import os
import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from pydantic import SecretStr

from searchdb.config import Settings
from searchdb.media.formats import FORMATS
from searchdb.media.thumbnails import LONGEST_SIDE
from tests.helpers.apps import MakeApp
from tests.helpers.photo_files import encoded_as
from web import create_app
from web.backend import EXTENSION
from web.files.images import MIMETYPES
from web.files.thumbnails import PREVIEW_SIDE

if TYPE_CHECKING:
    from searchdb.media.embed import CLIPEmbedder
from tests.helpers.stored_images import StoredImages


def thumbnail_of(client: FlaskClient, image_id: int) -> Image.Image:
    response = client.get(f"/images/{image_id}/thumbnail")
    assert response.status_code == 200, response.text
    assert response.mimetype == "image/webp"
    return Image.open(BytesIO(response.data))


# --- Files ----------------------------------------------------------------------------------------


def test_content_and_not_the_name_says_what_a_file_is(client: FlaskClient, stored_images: StoredImages) -> None:
    for kind, mimetype in (
        *((kind, f"image/{kind.lower()}") for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIC")),
        ("JPEG XL", "image/jxl"),
        ("RAW", "image/x-dcraw"),
    ):
        image = stored_images.draw(f"was {kind}.png")
        image_id = stored_images.add("a boat", image=image)
        image.write_bytes(encoded_as(Image.new("RGB", (60, 40), "teal"), kind))
        with client.get(f"/images/{image_id}/file") as response:
            assert response.status_code == 200, kind
            assert response.mimetype == mimetype
            assert response.data == image.read_bytes()
            assert response.content_length == image.stat().st_size
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert thumbnail_of(client, image_id).size == (60, 40)


def test_a_repeated_request_gets_not_modified(client: FlaskClient, stored_images: StoredImages) -> None:
    image = stored_images.draw("boat.png")
    url = f"/images/{stored_images.add('a boat', image=image)}/file"
    with client.get(url) as first:
        headers = {"If-None-Match": first.headers["ETag"]}
    with client.get(url, headers=headers) as second:
        assert (second.status_code, second.data) == (304, b"")
    stored_images.draw("boat.png", colour="red", size=(80, 80))
    with client.get(url, headers=headers) as third:
        assert third.status_code == 200


def test_byte_ranges_of_a_file(client: FlaskClient, stored_images: StoredImages) -> None:
    image = stored_images.draw("boat.png")
    url = f"/images/{stored_images.add('a boat', image=image)}/file"
    with client.get(url, headers={"Range": "bytes=1-3"}) as part:
        assert (part.status_code, part.data) == (206, b"PNG")
    with client.get(url, headers={"Range": "bytes=99999-"}) as beyond:
        assert beyond.status_code == 416
    with client.head(url) as head:
        assert head.content_length == image.stat().st_size


def test_file_that_became_something_else_is_not_served(client: FlaskClient, stored_images: StoredImages) -> None:
    image = stored_images.draw("boat.png")
    image_id = stored_images.add("a boat", image=image)
    for content in (
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<!doctype html><script>alert(1)</script>",
        b"root:x:0:0:root:/root:/bin/bash\n",
        b"",
    ):
        image.write_bytes(content)
        for part in ("file", "thumbnail"):
            response = client.get(f"/images/{image_id}/{part}")
            assert response.status_code == 404, content
            assert "no longer contains an image" in response.text
            assert "private folder" not in response.text


def test_only_regular_files_are_opened(client: FlaskClient, stored_images: StoredImages) -> None:
    fifo = stored_images.folder / "pipe.png"
    os.mkfifo(fifo)
    places = [
        fifo,
        stored_images.folder,
        Path("/dev/zero"),
        stored_images.folder / "never was.png",
        Path("/proc/self/mem"),
    ]
    for place in places if sys.platform == "linux" else places[:2]:
        image_id = stored_images.add("a boat", image=place, sha256=os.urandom(32))
        for part in ("file", "thumbnail", "preview"):
            response = client.get(f"/images/{image_id}/{part}")
            assert response.status_code == 404, place
            assert str(place) not in response.text


def test_a_relative_path_is_not_served(client: FlaskClient, stored_images: StoredImages) -> None:
    for reference in ("boat.png", "../boat.png", "file:///etc/passwd", "ftp://example.org/a.png", ""):
        image_id = stored_images.add("a boat", image=reference)
        for part in ("file", "thumbnail", "preview"):
            assert client.get(f"/images/{image_id}/{part}").status_code == 404, reference
        assert client.get(f"/images/{image_id}").status_code == 200


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.org/boat.jpg?w=1&x=%20", "https://example.org/boat.jpg?w=1&x=%20"),
        ("http://joe:secret@example.org:8080/boat.jpg", "http://example.org:8080/boat.jpg"),
    ],
)
def test_url_images_are_loaded_from_their_own_host(
    client: FlaskClient, stored_images: StoredImages, url: str, target: str
) -> None:
    image_id = stored_images.add("a boat", image=url)
    for part in ("file", "thumbnail"):
        response = client.get(f"/images/{image_id}/{part}")
        assert response.status_code == 302
        assert response.headers["Location"] == target


def test_an_image_with_a_rendition_is_shown_small_by_its_rendition(
    client: FlaskClient, stored_images: StoredImages
) -> None:
    url = "https://example.org/boat.jpg"
    image_id = stored_images.add("a boat", image=url, rendition=f"{url}?w=640")
    assert client.get(f"/images/{image_id}/thumbnail").headers["Location"] == f"{url}?w=640"
    assert client.get(f"/images/{image_id}/file").headers["Location"] == url


def test_a_malformed_url_is_not_served(client: FlaskClient, stored_images: StoredImages) -> None:
    for url in ("http://[::1", "https://", "http://example.org/a\r\nSet-Cookie: x=1", "http://a b/"):
        image_id = stored_images.add("a boat", image=url)
        for part in ("file", "thumbnail", "preview"):
            assert client.get(f"/images/{image_id}/{part}").status_code == 404, url
        assert client.get(f"/images/{image_id}").status_code == 200
    assert client.get("/").status_code == 200


# --- Thumbnails -----------------------------------------------------------------------------------


def test_thumbnail_is_small_upright_and_of_the_same_shape(client: FlaskClient, stored_images: StoredImages) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to see it upright
    image = stored_images.draw("large.jpg", size=(1500, 1000), exif=exif)
    thumbnail = thumbnail_of(client, stored_images.add("a boat", image=image))
    assert thumbnail.height == LONGEST_SIDE
    assert thumbnail.width == pytest.approx(LONGEST_SIDE * 2 / 3, abs=1)


def test_thumbnail_is_cached(client: FlaskClient, stored_images: StoredImages, settings: Settings) -> None:
    image = stored_images.draw("boat.png")
    image_id = stored_images.add("a boat", image=image)
    first = client.get(f"/images/{image_id}/thumbnail")
    [kept] = (settings.home / "thumbnails").glob("*/*")
    assert kept.read_bytes() == first.data
    assert kept.suffix == ".webp"
    assert kept.parent.name == kept.name[:2]
    image.unlink()
    assert client.get(f"/images/{image_id}/thumbnail").data == first.data


def test_browser_keeps_a_thumbnail_that_it_asked_for_by_content(
    client: FlaskClient, stored_images: StoredImages
) -> None:
    image_id = stored_images.add("a boat")
    [url] = {link for link in client.get("/").text.split('"') if link.startswith(f"/images/{image_id}/thumbnail")}
    response = client.get(url)
    assert "immutable" in response.headers["Cache-Control"]
    assert client.get(url, headers={"If-None-Match": response.headers["ETag"]}).status_code == 304
    for other in (f"/images/{image_id}/thumbnail", f"/images/{image_id}/thumbnail?v=00000000"):
        assert "immutable" not in client.get(other).headers["Cache-Control"]


def test_a_changed_file_is_shown_as_it_is_and_not_cached(
    client: FlaskClient, stored_images: StoredImages, settings: Settings
) -> None:
    image = stored_images.draw("boat.png", colour="blue")
    image_id = stored_images.add("a boat", image=image)
    [url] = {link for link in client.get("/").text.split('"') if link.startswith(f"/images/{image_id}/thumbnail")}
    stored_images.draw("boat.png", colour="red")
    response = client.get(url)
    red, _, blue = Image.open(BytesIO(response.data)).convert("RGB").getpixel((5, 5))  # type: ignore[misc]
    assert red > 200 > 50 > blue
    assert "immutable" not in response.headers["Cache-Control"]
    assert not list((settings.home / "thumbnails").glob("*/*"))


def test_limits_of_ingest_hold_for_thumbnails_too(
    stored_images: StoredImages, settings: Settings, embedder: CLIPEmbedder
) -> None:
    image = stored_images.draw("boat.tif", size=(300, 300))
    image_id = stored_images.add("a boat", image=image)
    for limit in ({"max_image_pixels": 1000}, {"max_image_bytes": 10}):
        app = create_app(settings.model_copy(update=limit), embedder=embedder)
        responses = [app.test_client().get(f"/images/{image_id}/{part}") for part in ("thumbnail", "preview")]
        app.extensions[EXTENSION].close()
        assert [each.status_code for each in responses] == [404, 404]
        assert all("limit" in each.text for each in responses)


def test_damaged_file_has_no_thumbnail(client: FlaskClient, stored_images: StoredImages) -> None:
    image = stored_images.draw("boat.jpg", size=(300, 300))
    image_id = stored_images.add("a boat", image=image)
    image.write_bytes(image.read_bytes()[:400])
    response = client.get(f"/images/{image_id}/thumbnail")
    assert response.status_code == 404
    assert "cannot be shown" in response.text


def test_folder_that_cannot_be_written_costs_no_thumbnail(
    client: FlaskClient, stored_images: StoredImages, app: Flask
) -> None:
    settings: Settings = app.extensions[EXTENSION].settings
    (settings.home / "thumbnails").write_text("in the way")
    assert thumbnail_of(client, stored_images.add("a boat")).size == (60, 40)


# --- Previews -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TIFF", "HEIC", "JPEG XL", "RAW"])
def test_what_browsers_do_not_show_has_a_large_preview(
    client: FlaskClient, stored_images: StoredImages, settings: Settings, kind: str
) -> None:
    image = stored_images.draw("large.png", size=(2400, 1600))
    image_id = stored_images.add("a boat", image=image)
    image.write_bytes(encoded_as(Image.new("RGB", (2400, 1600), "teal"), kind))
    response = client.get(f"/images/{image_id}/preview")
    assert (response.status_code, response.mimetype) == (200, "image/webp")
    assert Image.open(BytesIO(response.data)).size == (PREVIEW_SIDE, round(PREVIEW_SIDE * 2 / 3))
    assert "immutable" not in response.headers["Cache-Control"]
    assert not list((settings.home / "thumbnails").glob("*/*")), "the file has changed since it was stored"


def test_preview_and_thumbnail_are_cached_apart_and_removed_together(
    make_app: MakeApp, stored_images: StoredImages, settings: Settings
) -> None:
    client = make_app(api_token=SecretStr("secret")).test_client()
    image = stored_images.draw("scan.tif", size=(900, 600))
    image_id = stored_images.add("a boat", image=image)
    parts = {part: client.get(f"/images/{image_id}/{part}") for part in ("thumbnail", "preview")}
    sizes = {part: Image.open(BytesIO(response.data)).width for part, response in parts.items()}
    assert sizes == {"thumbnail": LONGEST_SIDE, "preview": 900}
    kept = list((settings.home / "thumbnails").glob("*/*"))
    assert {each.read_bytes() for each in kept} == {response.data for response in parts.values()}
    url = f"/images/{image_id}/preview?v={kept[0].name[:8]}"
    assert "immutable" in client.get(url).headers["Cache-Control"]
    head = {"If-None-Match": parts["preview"].headers["ETag"]}
    assert client.get(url, headers=head).status_code == 304
    assert client.delete(f"/api/images/{image_id}", headers={"Authorization": "Bearer secret"}).status_code == 204
    assert not list((settings.home / "thumbnails").glob("*/*"))


def test_of_what_browsers_show_no_preview_is_made(
    client: FlaskClient, stored_images: StoredImages, settings: Settings
) -> None:
    image_id = stored_images.add("a boat")
    response = client.get(f"/images/{image_id}/preview")
    assert (response.status_code, response.headers["Location"]) == (302, f"/images/{image_id}/file")
    remote = stored_images.add("a boat", image="https://joe:secret@example.org/boat.heic")
    assert client.get(f"/images/{remote}/preview").headers["Location"] == "https://example.org/boat.heic"
    assert not list((settings.home / "thumbnails").glob("*/*"))


def test_every_format_that_is_read_has_a_type_to_be_served_as():
    assert {*MIMETYPES, "MPO"} == set(FORMATS)
    assert all(mimetype.startswith("image/") and "svg" not in mimetype for mimetype in MIMETYPES.values())
