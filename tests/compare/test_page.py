"""The page of a comparison: one file with everything in it, in which nothing that is stored or asked is markup."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from searchdb.compare.embedding import RankableImage
from searchdb.compare.page import GENERATOR, MAX_SHOWN_QUERIES, check_output, write_page
from searchdb.compare.quality import FIGURES, differences
from searchdb.compare.records import LeftOut, ModelComparison, ModelSummary, QueryResult, RankedImage
from searchdb.compare.verdict import duration, rate, signed, size
from searchdb.errors import CompareError, StorageError
from searchdb.export.originals import Thumbnail
from tests.export.test_contact_sheet import HOSTILE, Sheet, parsed


def model(name: str, best: float = 0.3) -> ModelSummary:
    return ModelSummary(
        name=name,
        weights_sha256="ab" * 32,
        dimension=768,
        stored=False,
        images_per_s=25,
        texts_per_s=80.4,
        embedding_s=1000,
        vector_bytes=77_000_000,
        median_similarity=0.1,
        median_best_similarity=best,
    )


def webp(number: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 0)).save(encoded, "WEBP", lossless=True)
    return encoded.getvalue()


def ranked(ids: list[int], other: list[int], relevant: set[int] | None) -> list[RankedImage]:
    return [
        RankedImage(
            id=each,
            image=f"/photos/{each}.jpg",
            rank=rank,
            similarity=0.5 - rank / 100,
            other_rank=other.index(each) + 1 if each in other else 50,
            relevant=None if relevant is None else each in relevant,
        )
        for rank, each in enumerate(ids, 1)
    ]


def result(text: str, *, rbo: float = 0.5, relevant: set[int] | None = None) -> QueryResult:
    first, second = [1, 2, 3], [3, 1, 4]
    judged = dict.fromkeys(FIGURES, 0.5) if relevant else None
    return QueryResult(
        text=text,
        first=ranked(first, second, relevant),
        second=ranked(second, first, relevant),
        overlap=2 / 3,
        rank_biased_overlap=rbo,
        relevant=len(relevant or ()),
        missing=0,
        first_figures=judged,
        second_figures=judged,
    )


def compared(
    *queries: QueryResult, names: tuple[str, str] = ("demo", "./mine"), left_out: Sequence[LeftOut] = ()
) -> ModelComparison:
    figures = [(each.first_figures, each.second_figures) for each in queries if each.first_figures is not None]
    pairs = [(first, second) for first, second in figures if first is not None and second is not None]
    return ModelComparison(
        first=model(names[0]),
        second=model(names[1], best=0.1),
        images=25_000,
        compared=1000,
        frames=0,
        left_out=left_out,
        seed=7,
        count=3,
        queries=queries,
        overlap=2 / 3,
        rank_biased_overlap=0.5,
        judged=len(pairs),
        differences=differences([first for first, _ in pairs], [second for _, second in pairs], seed=0),
    )


def image(number: int, **changes: str) -> RankableImage:
    values: dict[str, str | None] = {"image": f"/photos/{number}.jpg", "description": None} | changes
    return RankableImage(
        id=number,
        image=str(values["image"]),
        description=values["description"],
        video=None,
        video_time=None,
        thumbnail=Thumbnail(data=webp(number), width=8, height=6),
    )


SHOWN = {number: image(number) for number in (1, 2, 3, 4)}


def page(comparison: ModelComparison, shown: dict[int, RankableImage] | None = None, folder: Path | None = None) -> str:
    written = io.BytesIO()
    write_page(written, comparison, SHOWN if shown is None else shown, folder=folder)
    return written.getvalue().decode()


def sheet(html: str) -> Sheet:
    return parsed(html)


def test_what_it_says() -> None:
    html = page(compared(result("a dog", relevant={3, 4}), result("a cat")))
    found = sheet(html)
    for said in (
        "67% in common, the mean of 2 queries on 1,000 of 25,000 images (rank-biased overlap 0.50)",
        "1 query names images that are right. nDCG@10 is 0.500 with A and 0.500 with B: no difference",
        "about 0.10 with B and 0.30 with A: choose thresholds anew",
        "Their vectors take 77 MB",
        "2 of 3 in common · RBO 0.50 · 2 right · nDCG@10 0.500 with A, 0.500 with B",
        "seed 7",
    ):
        assert said in found.text
    assert "of the queries that differ most" not in found.text
    rights = [text for text in found.texts if text == "right"]
    assert len(rights) == 3  # 3 in both lists, 4 in one
    assert len(found.all("li", "class")) == 4  # two images of each query are in one list only


def test_each_thumbnail_is_in_the_file_once() -> None:
    html = page(compared(result("a dog"), result("a cat")))
    uris = dict(re.findall(r'\.t(\d+) \{ background-image: url\("data:image/webp;base64,([^"]+)"\)', html))
    assert {int(number): base64.b64decode(data) for number, data in uris.items()} == {
        number: webp(number) for number in SHOWN
    }
    assert html.count("data:image/webp") == 4
    labels = [attributes for _, attributes in sheet(html).elements if attributes.get("role") == "img"]
    assert [each["aria-label"] for each in labels[:3]] == ["1.jpg", "2.jpg", "3.jpg"]


def test_it_needs_no_network_and_no_script() -> None:
    html = page(compared(result("a dog")))
    found = sheet(html)
    policy = next(value for value in found.all("meta", "content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'")
    assert not [name for name, _ in found.elements if name in ("script", "link", "iframe", "object", "img")]
    assert not re.findall(r'(?:src|href)="(?!#|file:|data:)', html)
    assert GENERATOR.decode() in html


def test_nothing_is_markup(tmp_path: Path) -> None:
    for hostile in HOSTILE:
        name = hostile.replace("/", "")
        shown = {number: image(number, image=f"/photos/{name}{number}.jpg") for number in SHOWN}
        shown[2] = image(2, description=hostile)
        shown[3] = image(3, image=f"javascript:{name}")
        comparison = compared(
            result(hostile, relevant={1}),
            names=(hostile, f"/models/{name}"),
            left_out=(LeftOut(image=hostile, error="NotAnImageError", message=hostile),),
        )
        clean = sheet(page(compared(result("a dog", relevant={1}), left_out=())))
        found = sheet(page(comparison, shown, tmp_path))
        allowed = {name for name, _ in clean.elements} | {"details", "summary", "ul", "li"}
        assert {name for name, _ in found.elements} <= allowed
        assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
        links = found.all("a", "href")
        assert all(link.startswith(("#q", "..")) for link in links), links
        assert unquote(links[1]) in (f"../{name}1.jpg", os.path.relpath(f"/photos/{name}1.jpg", tmp_path)) or links
        assert " ".join(hostile.split()) in found.text


def test_images_without_a_thumbnail_and_moments_of_videos() -> None:
    frame = RankableImage(
        id=1, image="/v/a b.mp4#t=75.5", description=None, video="/v/a b.mp4", video_time=75.5, thumbnail=None
    )
    html = page(compared(result("a dog")), SHOWN | {1: frame})
    assert 'href="file:///v/a%20b.mp4#t=75.5"' in html
    found = sheet(html)
    assert found.texts.count("1:15") == 2
    assert found.texts.count("a b.mp4") == 2


def test_only_the_queries_that_differ_most_are_shown() -> None:
    queries = [result(f"query {n}", rbo=n / 1000) for n in range(MAX_SHOWN_QUERIES + 20)]
    found = sheet(page(compared(*reversed(queries))))
    assert "The lists of the 100 queries that differ most follow below." in found.text
    assert found.all("section", "id") == [f"q{n}" for n in range(21, 121)]
    assert len(found.all("th", "scope")) >= MAX_SHOWN_QUERIES + 20  # all are in the table


def test_a_page_may_replace_a_page_only(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    check_output(path)
    path.write_text(page(compared(result("a dog"))))
    check_output(path)
    path.write_text("")
    check_output(path)
    path.write_text("<html>mine</html>")
    with pytest.raises(CompareError, match=r"page\.html exists and is not a comparison of models"):
        check_output(path)
    with pytest.raises(StorageError, match="does not exist"):
        check_output(tmp_path / "none" / "page.html")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_output(pipe)


def test_numbers_for_people() -> None:
    assert [rate(value) for value in (1234.5, 25.4, 9.96, 0.532)] == ["1,234", "25", "10", "0.53"]
    assert [duration(value) for value in (0.1, 1, 100, 600, 7200, 90_000, 864_000)] == [
        "1 second", "1 second", "100 seconds", "10 minutes", "2 hours", "25 hours", "10 days",
    ]  # fmt: skip
    assert [size(value) for value in (10, 9_400, 616_800, 51_400_000, 2_056_000_000)] == [
        "10 bytes", "9.4 kB", "617 kB", "51 MB", "2.1 GB",
    ]  # fmt: skip
    assert [signed(value) for value in (0.1234, -0.1234, 0.0001)] == ["+0.123", "−0.123", "0.000"]
