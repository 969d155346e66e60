"""Contact sheets: one file with everything in it, in which nothing that is stored with an image is markup."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.db.tables import frame_previews
from searchdb.errors import ExportError, StorageError
from searchdb.export.links import MAX_TEXT_CHARACTERS
from searchdb.export.originals import THUMBNAIL_SIDE
from tests.helpers.full_disk import fill, small_disk
from tests.helpers.image_server import ImageServer, make_image
from tests.helpers.stored_images import StoredImages

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)> ' &amp; </p></li></ol>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe]]><!--",
)


@dataclass
class Sheet(HTMLParser):
    """What is in a contact sheet: its elements with their attributes, and its text."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str, name: str) -> list[str]:
        return [value for each, attributes in self.elements if each == tag and (value := attributes.get(name))]


def parsed(html: str) -> Sheet:
    sheet = Sheet()
    sheet.feed(html)
    sheet.close()
    return sheet


def thumbnails(sheet: Sheet) -> list[Image.Image]:
    found = []
    for source in sheet.all("img", "src"):
        start, data = source.split(",")
        assert start == "data:image/webp;base64"
        found.append(Image.open(io.BytesIO(base64.b64decode(data))))
    return found


def sheet_of(collection: SearchDB, target: Path, *arguments: Any, **more: Any) -> Sheet:
    collection.export(target, *arguments, **more)
    return parsed(target.read_text(encoding="utf-8"))


def test_a_search_with_its_query_and_numbers(demo_collection: SearchDB, tmp_path: Path) -> None:
    hits = demo_collection.search("a boat", exclude="a dog", tag=["boat", "sunset"], count=6)
    sheet = sheet_of(
        demo_collection, tmp_path / "boats.html", "a boat", exclude="a dog", tag=["boat", "sunset"], count=6
    )
    assert "a boat 6 images" in sheet.text
    assert "not a dog" in sheet.text
    assert "tag boat, sunset" in sheet.text
    assert "relevance to the text (%) and cosine similarity" in sheet.text
    places = [sheet.text.index(f"{hit.similarity:.3f}") for hit in hits]
    assert places == sorted(places)
    for hit, shown in zip(hits, thumbnails(sheet), strict=True):
        assert hit.description is not None
        assert hit.description in sheet.text
        assert hit.width is not None
        assert hit.height is not None
        assert max(shown.size) == min(THUMBNAIL_SIDE, max(hit.width, hit.height))
        assert shown.width * hit.height == pytest.approx(shown.height * hit.width, rel=0.01)
    links = [unquote(link) for link in sheet.all("a", "href")]
    assert [os.path.normpath(tmp_path / link) for link in links] == [hit.image for hit in hits]
    assert not any(link.startswith(("/", "file:")) for link in links)


def test_nothing_that_is_stored_is_markup(collection: SearchDB, stored: StoredImages, tmp_path: Path) -> None:
    for n, text in enumerate(HOSTILE):
        name = text.replace("/", "_")
        stored.add(
            text, image=stored.draw(f"{name}.png"), credit=text, city=text, country=text, camera=text,
            credit_url=f"javascript:alert({n})", page_url=f"data:text/html,{n}",
        )  # fmt: skip
    stored.add(None, image=stored.draw("javascript:alert(1).png"))
    sheet = sheet_of(collection, tmp_path / "sheet.html", words=None, any_tag=None)
    assert collection.export(tmp_path / "sheet.html", where="description <> '<script>'").exported == len(HOSTILE)
    for text in HOSTILE:
        assert sheet.text.count(" ".join(text.split())) >= 4
    assert {tag for tag, _ in sheet.elements} <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "p", "ul", "li", "span", "bdi", "main", "ol",
        "a", "div", "img", "b", "footer",
    }  # fmt: skip
    assert not [name for _, attributes in sheet.elements for name in attributes if name.startswith("on")]
    links = sheet.all("a", "href")
    assert len(links) == len(HOSTILE) + 1
    assert all(urlsplit(link).scheme == "" and link.startswith("images/") for link in links)
    assert len(thumbnails(sheet)) == len(HOSTILE) + 1


def test_the_query_and_the_filters_are_text(demo_collection: SearchDB, tmp_path: Path) -> None:
    [hostile, *_] = HOSTILE
    sheet = sheet_of(demo_collection, tmp_path / "x.html", hostile, exclude=f"not {hostile}", city=hostile)
    assert sheet.text.count(hostile) == 4  # the title, the heading, the exclusion, the filter
    assert not [tag for tag, _ in sheet.elements if tag == "script"]
    assert "No image was found." in sheet.text


def test_it_needs_no_network_and_no_script(demo_collection: SearchDB, tmp_path: Path) -> None:
    sheet = sheet_of(demo_collection, tmp_path / "x.html", count=3)
    [policy] = [a["content"] for tag, a in sheet.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert not [tag for tag, _ in sheet.elements if tag in ("script", "link", "iframe", "object", "base", "form")]
    assert not [value for tag, a in sheet.elements for name, value in a.items() if name == "src" and tag != "img"]


def test_images_without_a_thumbnail_are_named_and_have_a_cell(
    collection: SearchDB, stored: StoredImages, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with ImageServer() as server:
        secret = server.url("/missing.jpg").replace("http://", "http://user:secret@")
        for image in ("/gone.png", tmp_path / "bad.png", secret):
            stored.add(f"of {image}"[:8], image=image)
        stored.add("fine", image=server.url("/ok.jpg"), rendition=server.url("/ok.jpg?seed=4"))
        report = collection.export(tmp_path / "x.html")
        assert server.hits["/ok.jpg?seed=4"] == 1
    assert report.exported == 4
    assert [failure.error for failure in report.failed] == ["FileUnreadableError", "NotAnImageError", "HTTPStatusError"]
    html = (tmp_path / "x.html").read_text()
    sheet = parsed(html)
    assert sheet.text.count("No thumbnail") == 3
    assert len(thumbnails(sheet)) == 1
    assert "secret" not in html
    assert server.url("/missing.jpg") in sheet.all("a", "href")


def test_frames_show_their_time_and_lead_to_the_moment(
    collection: SearchDB, stored: StoredImages, tmp_path: Path
) -> None:
    video = str(tmp_path / "my clip.mp4")
    image_id = stored.add("a frame", image=f"{video}#t=72.5", video=video, video_time=72.5)
    with collection.database.begin() as connection:
        webp = make_image("WEBP", size=(512, 288), seed=1)
        connection.execute(sa.insert(frame_previews).values(image_id=image_id, webp=webp))
    sheet = sheet_of(collection, tmp_path / "x.html")
    assert "1:12" in sheet.text
    assert sheet.all("a", "href") == ["my%20clip.mp4#t=72.5"]
    assert [shown.size for shown in thumbnails(sheet)] == [(400, 225)]


def test_long_texts_are_cut(collection: SearchDB, stored: StoredImages, tmp_path: Path) -> None:
    stored.add("word " * 1000, image=stored.draw("x.png"), vector_of="a boat", credit="c" * 5000)
    sheet = sheet_of(collection, tmp_path / "x.html")
    assert len(sheet.text) < 4 * MAX_TEXT_CHARACTERS + 1000


def test_more_images_than_a_sheet_holds(
    demo_collection: SearchDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchdb.exporting.MAX_SHEET_IMAGES", 5)
    with pytest.raises(ExportError, match="more than 5 images are selected, and a contact sheet has at most that many"):
        demo_collection.export(tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []
    assert demo_collection.export(tmp_path / "x.html", count=5).exported == 5


def test_a_full_disk_leaves_no_sheet(demo_collection: SearchDB, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        filler = fill(disk)
        with pytest.raises(StorageError, match="No space left"):
            demo_collection.export(disk / "x.html", count=3)
        assert [path.name for path in disk.iterdir()] == [filler.name]


def test_a_stream_links_to_files_by_their_full_path(demo_collection: SearchDB) -> None:
    target = io.BytesIO()
    demo_collection.export(target, format="html", count=1)
    [link] = parsed(target.getvalue().decode()).all("a", "href")
    assert link.startswith("file:///")
