"""The pages: what is found, what is shown of it, and that the address says it all."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.photo_files import encoded_as
from web.page.search_request import PAGE_SIZE

if TYPE_CHECKING:
    from tests.helpers.stored_images import StoredImages

STATIC = Path(__file__).parents[2] / "web" / "static"


def page(client: FlaskClient, path: str, status: int = 200) -> str:
    response = client.get(path)
    assert response.status_code == status, response.text
    return response.text


def shown(html: str) -> list[int]:
    """Ids of the grid's images, in order."""
    return [int(found) for found in re.findall(r'<li class="cell r\d+" id="image-(\d+)"', html)]


def links(html: str) -> list[str]:
    """All that a page links to or loads from here."""
    found = re.findall(r'(?:href|src)="([^"]*)"', html)
    return [unescape(link) for link in found if not link.startswith(("http", "#"))]


def text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


# --- The start page -------------------------------------------------------------------------------


def test_empty_collection_says_how_to_fill_it(client: FlaskClient) -> None:
    for path in ("/", "/?q=a+boat"):
        assert "searchdb ingest files ~/Pictures" in page(client, path)


def test_start_page_shows_the_collection_and_example_queries(client: FlaskClient, stored_images: StoredImages) -> None:
    ids = {stored_images.add("a red boat"), stored_images.add("a green tree")}
    html = page(client, "/")
    assert set(shown(html)) == ids
    assert "2 images" in text(html)
    assert "model demo" in text(html)
    assert "/?q=a+boat+at+sunset" in links(html)


def test_start_page_shows_some_of_many(client: FlaskClient, stored_images: StoredImages) -> None:
    path = stored_images.draw("one.png")
    for number in range(30):
        stored_images.add(f"boat {number}", image=f"{path}/{number}")
    ids = shown(page(client, "/"))
    assert len(ids) == len(set(ids)) == 24


# --- Searching ------------------------------------------------------------------------------------


def test_best_first_with_similarity(client: FlaskClient, stored_images: StoredImages) -> None:
    stored_images.add("two yellow bananas on the beach")
    boat = stored_images.add("a red boat at sunset")
    html = page(client, "/?q=a+red+boat+at+sunset&threshold=-1")
    assert shown(html)[0] == boat
    assert len(shown(html)) == 2
    similarities = [float(found) for found in re.findall(r", similarity </span>(-?\d\.\d+)", html)]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] == pytest.approx(1, abs=0.002)
    assert re.findall(r'<rect width="(\d+)"', html)[0] == "100"
    assert "Copy as SQL" in text(html)
    assert "match_images(text_embedding('a red boat at sunset'), -1, 40)" in unescape(html)
    assert 'value="a red boat at sunset"' in html


def test_similar_images_combined_with_words(client: FlaskClient, stored_images: StoredImages) -> None:
    liked, near = stored_images.add("a red boat"), stored_images.add("a red boat on the sea")
    stored_images.add("a banana")
    html = page(client, f"/?like={liked}&q=sea&threshold=-1")
    assert liked not in shown(html)
    assert shown(html)[0] == near
    assert f'<input type="hidden" name="like" value="{liked}">' in html


def test_a_slider_shifts_the_balance_of_words_and_images(client: FlaskClient, stored_images: StoredImages) -> None:
    liked, near = stored_images.add("a red boat"), stored_images.add("a red boat on the sea")
    banana = stored_images.add("a banana")

    def slider(html: str) -> str | None:
        found = re.search(r'<input name="text_weight" type="range" [^>]*value="([^"]*)"[^>]*aria-label="[^"]+">', html)
        return found and found[1]

    start = f"/?like={liked}&q=a+banana&threshold=-1"
    assert slider(page(client, start)) == "0.5"
    by_image = page(client, f"{start}&text_weight=0")
    by_text = page(client, f"{start}&text_weight=1.0")
    assert (shown(by_image), shown(by_text)) == ([near, banana], [banana, near])
    assert (slider(by_image), slider(by_text)) == ("0.0", "1.0")
    assert any("text_weight=0.0" in link for link in links(by_image) if link.startswith(f"/images/{near}?"))
    assert not any("text_weight" in link for link in links(page(client, f"{start}&text_weight=0.5")))


@pytest.mark.parametrize("query", ["q=a+boat", "like=1", "q=a+boat&not=sea", "q=&like=1&text_weight=0.7"])
def test_without_words_and_an_image_there_is_no_balance(demo_client: FlaskClient, query: str) -> None:
    html = page(demo_client, f"/?{query}&threshold=-1")
    assert shown(html)
    assert "text_weight" not in html


def test_several_liked_and_disliked_images_stay_in_the_address(
    client: FlaskClient, stored_images: StoredImages
) -> None:
    liked = [stored_images.add(f"a red boat {n}") for n in range(4)]
    near, disliked = stored_images.add("a red boat on the sea"), stored_images.add("a banana")
    examples = "&".join(f"like={each}" for each in liked)
    html = page(client, f"/?{examples}&unlike={disliked}&threshold=-1")
    assert shown(html) == [near]
    for each in liked:
        assert f'<input type="hidden" name="like" value="{each}">' in html
    assert f'<input type="hidden" name="unlike" value="{disliked}">' in html
    assert "Like 4 images" in text(html)
    assert "Unlike this image" in text(html)
    assert f"/?{examples}&threshold=-1.0" in links(html), "the link that drops the disliked image"
    assert f"WHERE id = ANY('{{{','.join(map(str, liked))}}}')" in unescape(html)
    detail = page(client, f"/images/{near}?{examples}&unlike={disliked}&threshold=-1")
    assert "to the liked" in text(detail)
    assert "to the disliked" in text(detail)
    page(client, f"/?like={near}&unlike={near}", status=400)
    page(client, f"/?unlike={near}", status=400)
    page(client, f"/?like={near}&like=99999", status=404)


def test_not_lowers_the_similarity(client: FlaskClient, stored_images: StoredImages) -> None:
    stored_images.add("a red boat")
    stored_images.add("a banana")
    html = page(client, "/?q=a+red+boat&not=a+banana&threshold=-1")
    assert 'name="not" type="text" value="a banana"' in html
    similarities = [float(found) for found in re.findall(r", similarity </span>(-?\d\.\d+)", html)]
    assert similarities[-1] < 0


def test_nothing_similar_enough_says_what_the_nearest_has(client: FlaskClient, stored_images: StoredImages) -> None:
    stored_images.add("a red boat")
    html = page(client, "/?q=a+yellow+banana&threshold=0.999")
    assert "No image reaches a similarity of 0.999." in text(html)
    assert re.search(r"The nearest image has -?0\.\d{3}", text(html))
    [nearest] = [link for link in links(html) if "threshold=-1" in link]
    assert len(shown(page(client, nearest))) == 1


def test_pages_of_results_follow_each_other(client: FlaskClient, stored_images: StoredImages) -> None:
    path = stored_images.draw("one.png")
    expected = {stored_images.add(f"boat {n}", image=f"{path}/{n}", vector_of="a boat") for n in range(PAGE_SIZE + 5)}
    first = page(client, "/?q=a+boat&threshold=0.1")
    [more] = [link for link in links(first) if "page=2" in link]
    second = page(client, more)
    assert len(shown(first)) == PAGE_SIZE
    assert set(shown(first)) | set(shown(second)) == expected
    assert f"{PAGE_SIZE + 1}– {PAGE_SIZE + 5} , best first" in text(second)
    assert "/?q=a+boat&threshold=0.1" in links(second[: second.index('class="grid"')])
    assert "Earlier images" in text(second)
    assert "page=3" not in second
    assert "There are no more images" in text(page(client, "/?q=a+boat&page=3"))


@pytest.mark.slow
def test_neighbours_lie_across_the_pages(client: FlaskClient, stored_images: StoredImages) -> None:
    path = stored_images.draw("one.png")
    for n in range(PAGE_SIZE + 2):
        stored_images.add(f"boat {n}", image=f"{path}/{n}", vector_of="a boat")
    last, after = shown(page(client, "/?q=a+boat"))[-1], shown(page(client, "/?q=a+boat&page=2"))[0]
    assert f"/images/{after}?q=a+boat&page=2" in links(page(client, f"/images/{last}?q=a+boat"))
    assert f"/images/{last}?q=a+boat" in links(page(client, f"/images/{after}?q=a+boat&page=2"))


def test_a_line_separates_the_weaker_matches(demo_client: FlaskClient) -> None:
    seen, ranks = "", []
    for number in range(1, 6):
        html = page(demo_client, f"/?q=a+bicycle&threshold=-1&page={number}")
        before = [int(width) for width in re.findall(r'<rect width="(\d+)"', html.partition("Weaker matches")[0])]
        assert "Nothing here seems" not in html
        if "Weaker matches" in html:
            ranks.append(number)
            after = [int(width) for width in re.findall(r'<rect width="(\d+)"', html.partition("Weaker matches")[2])]
            assert max(after) < 30
            assert not before or before[-1] >= 30
        seen += html
    assert ranks
    assert "Weaker matches" not in page(demo_client, "/?q=a+bicycle&not=snow"), "its order is not that of relevance"


def test_a_page_after_the_last_image_says_so(client: FlaskClient, stored_images: StoredImages) -> None:
    stored_images.add("a boat")
    assert "There are no more images" in page(client, "/?q=a+boat&page=25")


@pytest.mark.parametrize("query", ["%00%07", "+", "%E2%80%8B", "😀" * 200, "%ED%A0%80", "%FF%FE", "a" * 2000, "';--"])
def test_odd_words_are_searched_or_refused(demo_client: FlaskClient, query: str) -> None:
    assert demo_client.get(f"/?q={query}").status_code in (200, 400)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("q=boat&threshold=high", 400, "similarity is 'high': a number is expected"),
        ("q=boat&threshold=nan", 400, "threshold"),
        ("q=boat&threshold=2", 400, "threshold is 2.0"),
        ("q=boat&page=0", 400, "pages 1 to 25"),
        ("q=boat&page=-1", 400, "pages 1 to 25"),
        ("q=boat&page=26", 400, "pages 1 to 25"),
        ("q=boat&page=two", 400, "page is 'two'"),
        (f"q=boat&page={'9' * 5000}", 400, "page is"),
        ("like=boat", 400, "id is 'boat'"),
        ("like=999999", 404, "There is no such image"),
        ("like=-1", 404, "There is no such image"),
        (f"like={2**63}", 404, "There is no such image"),
        (f"like={2**70}", 400, "id is"),
        ("not=boat", 400, "nothing to look for"),
        (f"q={'a' * 2001}", 400, "2,001 characters"),
        (f"q={'é' * 1305}", 400, "bytes"),
        ("q=boat&not=boat", 400, "cancel each other out"),
    ],
)
def test_what_cannot_be_searched_is_explained(
    demo_client: FlaskClient, arguments: str, status: int, message: str
) -> None:
    html = page(demo_client, f"/?{arguments}", status)
    assert message in text(html)
    if "q=boat" in arguments:
        assert 'value="boat"' in html


ARGUMENT = st.one_of(st.text(max_size=40), st.integers().map(str), st.floats().map(str))


@settings(max_examples=15)
@given(st.dictionaries(st.sampled_from(["q", "like", "not", "threshold", "page", "x"]), ARGUMENT))
def test_no_url_breaks_the_page(demo_client: FlaskClient, arguments: dict[str, str]) -> None:
    for path in ("/", "/images/1"):
        assert demo_client.get(path, query_string=arguments).status_code in (200, 400, 404)


# --- One image ----------------------------------------------------------------------------------


def test_image_with_all_metadata(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add(
        "a red boat",
        tags=["boat", "red boat"],
        taken_at=datetime(2024, 5, 7, 18, 30, tzinfo=UTC),
        camera="Canon EOS 80D",
        city="Bergen",
        country="Norway",
        latitude=60.39,
        longitude=5.32,
        credit="A. Painter",
        credit_url="https://example.org/painter",
        page_url="http://example.org/boat",
    )
    html = page(client, f"/images/{image_id}")
    seen = text(html)
    for known in (
        "a red boat",
        "7 May 2024, 18:30",
        "Canon EOS 80D",
        "Bergen, Norway",
        "60.3900",
        "60 × 40",
        "A. Painter",
    ):
        assert known in seen
    assert "/?q=red+boat" in links(html)
    assert f"/?like={image_id}" in links(html)
    assert '<a href="https://example.org/painter" rel="noopener noreferrer">A. Painter</a>' in html
    assert '<a href="http://example.org/boat" rel="noopener noreferrer">' in html
    assert "a-red-boat.png" in seen
    assert "private folder" not in html


def test_unsplash_is_credited_as_it_asks(client: FlaskClient, stored_images: StoredImages) -> None:
    links_to = {"credit_url": "https://unsplash.com/@ann", "page_url": "https://unsplash.com/photos/x1"}
    url = "https://images.unsplash.com/photo-1"
    html = page(
        client, f"/images/{stored_images.add('a boat', image=url, source='unsplash', credit='Ann Lee', **links_to)}"
    )
    assert "Photo by Ann Lee on Unsplash" in text(html)
    for name, target in (("Ann Lee", links_to["credit_url"]), ("Unsplash", links_to["page_url"])):
        assert f'<a href="{target}" rel="noopener noreferrer">{name}</a>' in html


def test_mean_colour_is_the_placeholder_of_an_image(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add("a boat", colour="#8a7f66")
    stored_images.add("a tree")
    html = page(client, "/?q=boat&threshold=-1")
    assert html.count('class="ground"') == 1
    assert 'fill="#8a7f66"' in html
    assert 'fill="#8a7f66"' in page(client, f"/images/{image_id}")


def test_the_random_page_redirects_to_an_image(client: FlaskClient, stored_images: StoredImages) -> None:
    assert client.get("/random").headers["Location"] == "/"
    ids = {stored_images.add("a boat"), stored_images.add("a tree")}
    response = client.get("/random")
    assert response.headers["Location"] in {f"/images/{each}" for each in ids}
    assert response.headers["Cache-Control"] == "no-store"


def test_image_without_metadata(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add(None, image=stored_images.draw("boat.png"))
    html = page(client, f"/images/{image_id}")
    assert "<h1><bdi>boat.png</bdi></h1>" in html
    assert "None" not in text(html)


def test_image_in_a_search_has_its_similarity_and_neighbours(client: FlaskClient, stored_images: StoredImages) -> None:
    for thing in ("boat", "bird", "house"):
        stored_images.add(f"a {thing} at sunset")
    results = page(client, "/?q=a+boat+at+sunset&threshold=-1")
    first, second, third = shown(results)
    [link] = [link for link in links(results) if link.startswith(f"/images/{second}?")]
    html = page(client, link)
    assert re.search(r"Similarity -?\d\.\d{3} to", text(html))
    trail = links(html[html.index('class="trail"') : html.index('class="stage')])
    arguments = "?q=a+boat+at+sunset&threshold=-1.0"
    assert trail == [f"/{arguments}#image-{second}", f"/images/{first}{arguments}", f"/images/{third}{arguments}"]
    assert "Similarity" not in text(page(client, f"/images/{second}"))


def test_similar_images(client: FlaskClient, stored_images: StoredImages) -> None:
    boat, near = stored_images.add("a red boat"), stored_images.add("a red boat on the sea")
    html = page(client, f"/images/{boat}")
    assert shown(html) == [near]


def test_a_missing_file_is_reported(client: FlaskClient, stored_images: StoredImages) -> None:
    image = stored_images.draw("gone.png")
    image_id = stored_images.add("a boat", image=image)
    image.unlink()
    assert "gone" in text(page(client, f"/images/{image_id}"))


def test_what_browsers_do_not_show_is_shown_by_its_preview(client: FlaskClient, stored_images: StoredImages) -> None:
    for kind in ("TIFF", "HEIC", "JPEG XL", "RAW"):
        image = stored_images.draw(f"was {kind}.png")
        image_id = stored_images.add("a boat", image=image)
        image.write_bytes(encoded_as(Image.new("RGB", (60, 40), "teal"), kind))
        html = page(client, f"/images/{image_id}")
        assert re.search(rf'<img[^>]* src="/images/{image_id}/preview\?v=\w{{8}}"', html), kind
        assert f"/images/{image_id}/file" in links(html)
        assert f"Original ({kind}, " in text(html)
        assert "Full size" not in text(html)


def test_a_raw_file_is_named_by_its_suffix(client: FlaskClient, stored_images: StoredImages) -> None:
    for name, shown in (("DSC_1.NEF", "NEF"), ("scan.tiff", "TIFF"), ("no suffix", "TIFF")):
        image_id = stored_images.add("a boat", image=stored_images.draw(name, format="TIFF"))
        assert f"Original ({shown}, " in text(page(client, f"/images/{image_id}"))


def test_url_image_shows_its_host_and_no_password(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add(None, image="https://joe:secret@example.org/boat.jpg")
    for path in (f"/images/{image_id}", "/"):
        html = page(client, path)
        assert "secret" not in html
        assert "example.org" in text(html)


@pytest.mark.parametrize(
    "number", ["999999", str(2**63 - 1), str(2**63), str(2**70), "0", "-1", "9" * 5000, "1.5", "x", "١"]
)
@pytest.mark.parametrize("part", ["", "/file", "/thumbnail", "/preview"])
def test_an_unknown_id_is_a_404(demo_client: FlaskClient, number: str, part: str) -> None:
    assert "There is no such" in page(demo_client, f"/images/{number}{part}", 404)


# --- What strangers wrote -------------------------------------------------------------------------


def test_what_is_stored_is_text_and_never_markup(client: FlaskClient, stored_images: StoredImages) -> None:
    nasty = "\"><script>alert('x')</script>\x07{{ 1237*6551 }}"
    image_id = stored_images.add(
        nasty,
        image=stored_images.draw("a\nb<i>.png", format="PNG"),
        vector_of="a boat",
        tags=[nasty],
        credit=nasty,
        credit_url="javascript:alert(1)",
        page_url="data:text/html,<script>1</script>",
        camera=nasty,
        city=nasty,
    )
    for path in (f"/images/{image_id}", "/", "/?q=%22%3E%3Cscript%3E&threshold=-1", f"/?like={image_id}&threshold=-1"):
        html = page(client, path)
        assert "<script>" not in html
        assert "<i>" not in html
        assert str(1237 * 6551) not in html
        assert not re.search(r'href="(?!/|https?://|#)', html)


def test_strict_policy_and_pages_that_keep_to_it(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add("a boat")
    for path in ("/", "/?q=boat", f"/images/{image_id}?q=boat", "/nowhere"):
        response = client.get(path)
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "same-origin"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=)", response.text)


def test_all_that_pages_link_to_is_there(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add("a boat", tags=["sea & sun", "100%"])
    stored_images.add("a boat at sunset")
    seen: set[str] = set()
    todo = ["/", f"/images/{image_id}", "/?q=boat"]
    while todo and len(seen) < 60:
        path = todo.pop()
        response = client.get(path)
        assert response.status_code == (303 if path == "/random" else 200), path
        seen.add(path)
        if response.mimetype == "text/html":
            todo += [link.partition("#")[0] for link in links(response.text) if link.partition("#")[0] not in seen]
        response.close()
    assert any(path.startswith("/static/page.css") for path in seen)


def test_works_below_a_prefix(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add("a boat")
    for path in ("/", "/?q=boat", f"/images/{image_id}?q=boat"):
        html = client.get(path, environ_overrides={"SCRIPT_NAME": "/pictures"}).text
        assert all(link.startswith("/pictures/") for link in links(html))
        assert 'action="/pictures/"' in html
        assert 'action="/pictures/search"' in html
        assert 'data-page="/' not in html.replace('data-page="/pictures/', "")


def test_stylesheet_has_every_shape() -> None:
    from web.page.tiles import NARROWEST, STEP, WIDEST, shape_of

    rules = dict(re.findall(r"\.(r\d+) \{ --ratio: ([\d.]+); \}", (STATIC / "page.css").read_text()))
    assert rules == {f"r{percent}": f"{percent / 100:g}" for percent in range(NARROWEST, WIDEST + 1, STEP)}
    for size in ((1, 10_000), (10_000, 1), (3, 2), (2, 3), (1, 1), (0, 0)):
        assert shape_of(*size) in rules
