"""The page's filters: read from the query string, kept in every link, shown as chips, and refused where malformed."""

from __future__ import annotations

import html
import re
import unicodedata
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from tests.helpers.stored_images import StoredImages


@pytest.fixture
def places(stored_images: StoredImages) -> dict[str, int]:
    """Boats here and there, by name."""
    day = datetime(2024, 5, 31, 12, tzinfo=UTC)
    return {
        "chile": stored_images.add(
            "a red boat", image=stored_images.draw("chile.png"), country="Chile", tags=["boat", "sea"], taken_at=day
        ),
        "norway": stored_images.add(
            "a red boat",
            image=stored_images.draw("norway.png"),
            country="Norway",
            tags=["boat"],
            latitude=60.0,
            longitude=10.0,
        ),
        "script": stored_images.add(
            "a red boat", image=stored_images.draw("script.png", size=(40, 60)), country="<script>alert(1)</script>"
        ),
    }


def shown(client: FlaskClient, query: str) -> list[int]:
    response = client.get(f"/?q=a+red+boat&threshold=-1&{query}")
    assert response.status_code == 200
    return [int(found) for found in re.findall(r'<li class="cell r\d+" id="image-(\d+)"', response.text)]


def offered(page: str, name: str) -> dict[str, str]:
    """Return the values of a filter that the page lets choose, with their counts."""
    found = re.findall(rf'name="{name}" value="([^"]+)"[^>]*>.*?<span class="count">([\d,]+)<', page, re.DOTALL)
    return {html.unescape(value): count for value, count in found}


def test_filters_are_found_in_any_unicode_form(client: FlaskClient, stored_images: StoredImages) -> None:
    wanted = stored_images.add("a Gehöft", image=stored_images.draw("c.png"), tags=["Gehöft"], city="Gehöft")
    stored_images.add("a boat", image=stored_images.draw("d.png"))
    for typed in (unicodedata.normalize("NFC", "Gehöft"), unicodedata.normalize("NFD", "Gehöft")):
        for parameter in ("tag", "any_tag", "city", "words"):
            assert shown(client, f"{parameter}={quote(typed)}") == [wanted], (parameter, typed)
            found = client.get("/api/search", query_string={"q": typed, parameter: typed, "threshold": -1})
            assert [hit["id"] for hit in found.get_json()["hits"]] == [wanted], (parameter, typed)


def test_only_what_meets_the_filters_is_shown(client: FlaskClient, places: dict[str, int]) -> None:
    for query, names in (
        ("country=chile", ["chile"]),
        ("country=Chile&country=Norway", ["chile", "norway"]),
        ("tag=boat&tag=sea", ["chile"]),
        ("any_tag=sea&any_tag=lake", ["chile"]),
        ("taken_after=2024-05-31&taken_before=2024-06-01", ["chile"]),
        ("orientation=portrait", ["script"]),
        ("near=60.1,10.1&radius_km=50", ["norway"]),
        ("near=60.1,10.1", ["norway"]),
        ("words=sea", ["chile"]),
        ("source=files&country=", ["chile", "norway", "script"]),
        ("country=Peru", []),
    ):
        assert set(shown(client, query)) == {places[name] for name in names}, query


def test_an_image_can_be_excluded(client: FlaskClient, places: dict[str, int]) -> None:
    assert places["chile"] not in shown(client, f"exclude_id={places['chile']}")


def test_chips_take_one_filter_away_and_keep_the_others(client: FlaskClient, places: dict[str, int]) -> None:
    page = client.get("/?q=a+red+boat&country=Chile&country=Norway&tag=boat&near=60,10&radius_km=2000").text
    chips = [html.unescape(link) for link in re.findall(r'<li><a href="([^"]+)"><span class="muted">', page)]
    assert len(chips) == 4
    assert "/?q=a+red+boat&country=Norway&tag=boat&near=60,10&radius_km=2000.0" in chips
    assert "/?q=a+red+boat&country=Chile&country=Norway&tag=boat" in chips
    assert '<a class="clear" href="/?q=a+red+boat">Clear all</a>' in page
    assert re.findall(r'name="country" value="(\w+)" checked', page) == ["Chile", "Norway"]
    assert 'name="near" type="text" value="60,10"' in page


def test_filters_are_kept_from_the_grid_to_an_image_and_back(client: FlaskClient, places: dict[str, int]) -> None:
    page = client.get("/?q=a+red+boat&country=Chile&min_relevance=0").text
    [link] = re.findall(rf'<a class="open" href="(/images/{places["chile"]}\?[^"]+)">', page)
    assert "country=Chile" in link
    back = client.get(html.unescape(link)).text
    assert re.search(r'href="/\?q=a\+red\+boat&amp;[^"]*country=Chile[^"]*#image-\d+">', back)


def test_values_are_offered_with_their_counts_and_escaped(client: FlaskClient, places: dict[str, int]) -> None:
    page = client.get("/").text
    assert offered(page, "country") == {"<script>alert(1)</script>": "1", "Chile": "1", "Norway": "1"}
    assert offered(page, "tag") == {"boat": "2", "sea": "1"}
    assert offered(page, "orientation") == {"landscape": "2", "portrait": "1"}
    assert offered(page, "camera") == offered(page, "source") == {}, "all images are equal in these"
    assert "<script>alert" not in page
    assert "<script>alert" not in client.get("/?q=boat&country=%3Cscript%3Ealert(1)%3C/script%3E").text


def test_a_value_that_is_set_is_offered_whatever_the_collection_has(
    client: FlaskClient, places: dict[str, int]
) -> None:
    page = client.get("/?q=boat&country=norway&country=Peru&camera=Nikon&orientation=square").text
    assert re.findall(r'name="country" value="(\w+)" checked', page) == ["Peru", "Norway"]
    assert 'name="camera" value="Nikon" checked' in page


def test_links_of_an_image_page_keep_the_filters(client: FlaskClient, places: dict[str, int]) -> None:
    chile = places["chile"]
    cell = html.unescape(client.get("/?q=a+red+boat&threshold=-1&country=Chile&country=Norway").text)
    assert f'<a class="like" href="/?like={chile}&country=Chile&country=Norway"' in cell
    page = html.unescape(client.get(f"/images/{chile}?q=a+red+boat&country=Chile&country=Norway").text)
    assert f'href="/?like={chile}&country=Chile&country=Norway">More like this' in page
    assert '<a href="/?q=sea&country=Chile&country=Norway"><bdi>sea' in page
    similar = re.findall(r'id="image-(\d+)"', page)
    assert similar == [str(places["norway"])], "similar ones are those within the filters"


def test_filters_without_matches_say_so(client: FlaskClient, places: dict[str, int]) -> None:
    page = client.get("/?q=a+red+boat&country=Peru").text
    assert "No image matches the filters." in page


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("taken_after=yesterday", "taken_after"),
        ("orientation=round", "orientation"),
        ("min_size=big", "whole number"),
        ("min_size=0", "min_size"),
        ("near=here&radius_km=1", "near"),
        ("radius_km=1", "near"),
        ("near=1,2&radius_km=far", "radius is 'far': a number"),
        ("exclude_id=x", "whole number"),
        ("country=" + "x" * 7000, "7,000 characters"),
        ("country=a%00b", "postgresql cannot store"),
        ("min_relevance=2", "between 0 and 1"),
        ("where=1=1", "does not run sql"),
    ],
)
def test_a_malformed_filter_is_named(demo_client: FlaskClient, query: str, message: str) -> None:
    response = demo_client.get(f"/?q=boat&{query}")
    assert response.status_code == 400
    assert message in html.unescape(response.text).lower()


def test_absent_things_are_marked_by_relevance(client: FlaskClient, stored_images: StoredImages) -> None:
    image = stored_images.draw("one.png")
    for number in range(30):
        stored_images.add(f"{number} white boats on the sea", image=f"{image}/{number}")
    page = client.get("/?q=a+purple+umbrella&threshold=-1").text
    assert "No close matches" in page
    assert max(int(width) for width in re.findall(r'<rect width="(\d+)"', page)) < 30
    assert "No image reaches a relevance of 0.99" in client.get("/?q=a+purple+umbrella&min_relevance=0.99").text


# --- folders and ratings ------------------------------------------------------------------------------


@pytest.fixture
def rated(stored_images: StoredImages) -> dict[str, int]:
    """Boats in folders, with ratings, by name."""
    folders = {"top": "Pictures", "rome": "Pictures/2024/R&ome", "other": "Pictures/2024x", "url": None}
    ratings = {"top": 2, "rome": 5, "other": -1, "url": None}
    return {
        name: stored_images.add(
            "a red boat", image=stored_images.draw(f"{name}.png"), folder=folder, rating=ratings[name]
        )
        for name, folder in folders.items()
    }


def test_folders_and_ratings_filter(client: FlaskClient, rated: dict[str, int]) -> None:
    for query, names in (
        ("folder=Pictures", ["top", "rome", "other"]),
        ("folder=Pictures/2024", ["rome"]),
        ("folder=Pictures/2024x&folder=Pictures/2024/R%26ome", ["rome", "other"]),
        ("folder=nowhere", []),
        ("rating=1", ["top", "rome"]),
        ("rating=3&folder=Pictures", ["rome"]),
        ("rating=", ["top", "rome", "other", "url"]),
    ):
        expected = {rated[name] for name in names}
        assert set(shown(client, query)) == expected, query
        if query != "rating=":
            found = client.get(f"/api/search?q=a+red+boat&threshold=-1&{query}")
            assert {hit["id"] for hit in found.get_json()["hits"]} == expected, query


def test_folders_and_ratings_are_offered(client: FlaskClient, rated: dict[str, int]) -> None:
    page = client.get("/?q=a+red+boat&rating=2").text
    assert offered(page, "folder") == {
        "Pictures": "3", "Pictures/2024": "1", "Pictures/2024/R&ome": "1", "Pictures/2024x": "1",
    }  # fmt: skip
    assert offered(page, "rating") == {"5": "1", "2": "2"}
    assert re.findall(r'name="rating" value="(\d)" checked', page) == ["2"]
    page = client.get("/?q=a+red+boat&rating=3").text
    assert re.findall(r'name="rating" value="(\d)" checked', page) == ["3"], "whatever the collection has"
    assert client.get("/?q=boat&rating=6").status_code == 400


def test_the_image_page_shows_stars_and_links_the_folder(client: FlaskClient, rated: dict[str, int]) -> None:
    page = client.get(f"/images/{rated['rome']}").text
    assert '<span class="stars" aria-hidden="true">★★★★★</span><span class="unseen">5 of 5 stars</span>' in page
    link = re.search(r'<dt>Folder</dt><dd><a href="([^"]+)"[^>]*><bdi>Pictures/2024/R&amp;ome</bdi></a>', page)
    assert link is not None
    found = client.get(html.unescape(link[1])).text
    assert re.findall(r'<li class="cell r\d+" id="image-(\d+)"', found) == []  # it is the only one in its folder
    assert "No other image matches the filters." in found
    assert "<bdi>Pictures/2024/R&amp;ome</bdi>" in found
    assert "★★☆☆☆" in client.get(f"/images/{rated['top']}").text
    assert "<dt>Rating</dt><dd>rejected</dd>" in client.get(f"/images/{rated['other']}").text
    of_url = client.get(f"/images/{rated['url']}").text
    assert "<dt>Folder</dt>" not in of_url
    assert "<dt>Rating</dt>" not in of_url


def test_the_api_tells_folder_and_rating(client: FlaskClient, rated: dict[str, int]) -> None:
    found = client.get(f"/api/images/{rated['rome']}").get_json()
    assert (found["folder"], found["rating"]) == ("Pictures/2024/R&ome", 5)
    found = client.get(f"/api/images/{rated['url']}").get_json()
    assert (found["folder"], found["rating"]) == (None, None)
