"""The page in Chromium: finding, opening, going on from there, by mouse and keys, on phones and wide screens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.browser_tabs import Tabs

pytestmark = pytest.mark.browser

README_SIZE = (1280, 860)
README_QUERY = "a boat at sunset"


def search(page: Page, words: str) -> None:
    page.get_by_label("Describe the image you are looking for").fill(words)
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=*")


def test_search_open_next_and_back(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site)
    expect(page.get_by_role("heading", level=1)).to_have_text("Find images by meaning")
    search(page, "a boat at sunset")
    assert page.url == f"{site}/?q=a+boat+at+sunset"
    thumbnails = page.locator(".grid img")
    found = [thumbnails.nth(rank).get_attribute("alt") or "" for rank in range(5)]
    assert all(re.search(r"\bboats?\b.* at sunset", alt) for alt in found), found

    thumbnails.first.click()
    lightbox = page.get_by_role("dialog")
    expect(lightbox.get_by_role("heading", level=1)).to_have_text(found[0])
    expect(lightbox.get_by_text("Similarity", exact=True)).to_be_visible()
    lightbox.get_by_role("link", name="More like this").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Like the image")
    expect(page.get_by_label("Remove this image from the search")).to_be_visible()
    assert thumbnails.count() > 10
    page.go_back()
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("a boat at sunset"))
    expect(page.get_by_label("Describe the image you are looking for")).to_have_value("a boat at sunset")


def test_more_like_a_hit_without_opening_it(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+boat&tag=boat")
    cell = page.locator(".cell").nth(2)
    number = (cell.get_attribute("id") or "").removeprefix("image-")
    cell.hover()
    cell.get_by_role("link", name="More like this").click()
    page.wait_for_url(f"{site}/?like={number}&tag=boat")
    phone = tabs.open(size="phone")
    phone.goto(f"{site}/?q=a+boat")
    like = phone.locator(".cell").nth(2).get_by_role("link", name="More like this")
    assert like.evaluate("link => getComputedStyle(link).opacity") == "1"


def test_the_balance_is_shifted_by_pointer_and_by_keys(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=snow&like=5")
    balance = page.get_by_role("slider", name="Balance between image and text")
    expect(balance).to_have_value("0.5")
    balance.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(balance).to_have_value("0.6")
    assert page.url == f"{site}/?q=snow&like=5", "keys only move it"
    page.keyboard.press("Enter")
    page.wait_for_url("**text_weight=0.6*")
    expect(balance).to_have_value("0.6")
    box = balance.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**text_weight=0&*")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url(lambda url: "text_weight" not in url)
    expect(balance).to_have_value("0.5")


def test_the_balance_works_without_scripts_and_fits_a_phone(site: str, tabs: Tabs) -> None:
    page = tabs.open(size="phone", javascript=False)
    page.goto(f"{site}/?q=snow&like=5&like=7&like=8&unlike=9")
    page.get_by_role("slider", name="Balance between image and text").fill("0.75")
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url("**text_weight=0.75*like=5&like=7&like=8&unlike=9*")
    for selector in (".balance", ".go"):
        box = page.locator(selector).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 390


def test_every_image_of_a_page_is_loaded(site: str, tabs: Tabs) -> None:
    page = tabs.open(bypass_csp=True)  # waiting for a condition is evaluating a string, which the page forbids
    page.goto(f"{site}/?q=a+house")
    thumbnails = page.locator(".grid img")
    count = thumbnails.count()
    for rank in range(count):
        thumbnails.nth(rank).scroll_into_view_if_needed()
    page.wait_for_function(  # of those that the page had: more come by scrolling, and wait to be looked at
        "count => [...document.querySelectorAll('.grid img')].slice(0, count).every(each => each.naturalWidth > 0)",
        arg=count,
    )
    assert page.locator(".missing").count() == 0


def test_similarity_is_shown_on_hover(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+boat")
    number = page.locator(".number").first
    expect(number).to_have_css("opacity", "0")
    page.locator(".open").first.hover()
    expect(number).to_have_css("opacity", "1")
    expect(number).to_have_text(re.compile(r"similarity 0\.\d{3}"))
    expect(page.locator(".bar").first).to_be_visible()


def test_text_with_not_and_filters(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+boat")
    page.get_by_label("not", exact=True).fill("the sun")
    page.get_by_text("Filters", exact=True).click()
    tags = page.get_by_role("group", name="Tags, all of them")
    tags.get_by_role("checkbox", name=re.compile("^boat")).check()
    tags.get_by_role("checkbox", name=re.compile("^night")).check()
    page.get_by_label(re.compile("landscape")).check()
    page.get_by_role("button", name="Show images").click()
    page.wait_for_url(re.compile(r"\?q=a\+boat&not=the\+sun&"))
    assert set(page.url.partition("?")[2].split("&")[2:]) == {"tag=boat", "tag=night", "orientation=landscape"}
    cells = page.locator(".grid img").evaluate_all("all => all.map(each => [each.alt, each.width >= each.height])")
    assert cells
    assert all(re.search(r"\bboats?\b.*at night", alt) and landscape for alt, landscape in cells), cells
    page.get_by_role("link", name="tag night").click()
    page.wait_for_url(re.compile("tag=boat(?!.*tag=night)"))
    assert page.locator(".grid img").count() > len(cells)


def test_panels_close_as_menus_do(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+boat")
    filters, image = page.get_by_role("button", name="Show images"), page.get_by_label("Choose an image")
    page.get_by_text("Filters", exact=True).click()
    page.get_by_title("Search by image").click()
    expect(filters).to_be_hidden()
    expect(image).to_be_visible()
    page.keyboard.press("Escape")
    expect(image).to_be_hidden()
    page.get_by_text("Filters", exact=True).click()
    page.get_by_role("heading", level=1).click()
    expect(filters).to_be_hidden()


def test_nothing_similar_enough_leads_to_the_nearest(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+boat&not=the+sun&threshold=0.9999")
    expect(page.get_by_text("No image reaches a similarity of 0.9999")).to_be_visible()
    page.get_by_role("link", name="Show the nearest images anyway").click()
    page.wait_for_url("**threshold=-1*")
    assert page.locator(".cell").count() > 10


def test_works_without_javascript(site: str, tabs: Tabs, album: Path) -> None:
    page = tabs.open(javascript=False)
    page.goto(site)
    page.get_by_label("Describe the image you are looking for").fill("a green tree")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("a green tree"))
    page.get_by_role("link", name="More images").click()
    expect(page.get_by_text("41–80, best first")).to_be_visible()
    expect(page.get_by_role("link", name="Earlier images")).to_be_visible()
    page.get_by_text("Filters", exact=True).click()
    page.get_by_role("checkbox", name=re.compile("^tree")).first.check()
    page.get_by_role("button", name="Show images").click()
    expect(page.get_by_role("link", name="tag tree")).to_be_visible()
    page.locator(".open").first.click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_role("link", name="More like this", exact=True).click()
    page.get_by_title("Search by image").click()
    page.get_by_label("Choose an image").set_input_files(next(album.glob("*.jpg")))
    page.get_by_role("button", name="Search by this image").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("Like your image"))


def test_layout_is_stable_while_images_load(site: str, tabs: Tabs) -> None:
    places = (
        "cells => cells.map(cell => { const box = cell.getBoundingClientRect(); return [box.x, box.y, box.width] })"
    )
    page = tabs.open()
    page.route("**/thumbnail*", lambda route: None)  # they never come
    page.goto(f"{site}/?q=a+dog", wait_until="domcontentloaded")
    before = page.locator(".cell").evaluate_all(places)
    page.unroute("**/thumbnail*")
    page.goto(f"{site}/?q=a+dog", wait_until="networkidle")
    assert page.locator(".cell").evaluate_all(places) == before


def test_an_unavailable_image_is_a_frame_with_its_description(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.route("**/thumbnail*", lambda route: route.fulfill(status=200, body=b""))
    page.goto(f"{site}/?q=a+dog")
    expect(page.locator(".frame.missing").first).to_be_visible()


def test_first_tab_skips_to_the_images(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+dog")
    page.locator("body").press("Tab")  # waits for the page to take keys, which under load is after it has loaded
    expect(page.get_by_role("link", name="Skip to the images")).to_be_focused()
    assert page.locator("main, header, footer, search").count() == 4


def test_the_filters_fit_every_width(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+boat")
    page.get_by_text("Filters", exact=True).click()
    for width in (1000, 660, 390):
        page.set_viewport_size({"width": width, "height": 800})
        expect(page.get_by_role("button", name="Show images")).to_be_visible()
        assert page.evaluate("[innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [width, True]


@pytest.mark.parametrize(("size", "scheme"), [("phone", "light"), ("laptop", "dark"), ("wide", "light")])
def test_fits_every_screen(site: str, tabs: Tabs, artifacts: Path, size: str, scheme: str) -> None:
    page = tabs.open(size=size, scheme=scheme)
    page.goto(f"{site}/?q=two+flowers")
    address = page.locator(".open").first.get_attribute("href")
    paths = {
        "home": "/",
        "results": "/?q=two+flowers",
        "filtered": "/?q=boat&not=night&tag=boat&any_tag=sunset&any_tag=day&orientation=landscape&words=boat",
        "nothing": "/?q=boat&not=night&threshold=0.99",
        "image": address,
        "status": "/status",
        "API": "/api/",
        "nowhere": "/nowhere",
    }
    # What fits a phone fits all: on the others, the pages that use their width.
    names = paths if size == "phone" else ("results", "image", "status")
    for name in names:
        page.goto(f"{site}{paths[name]}")
        page.screenshot(path=artifacts / f"{name}-{size}-{scheme}.png")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{name} scrolls sideways by {overflow} pixels"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
        assert (brightness > 200) is (scheme == "light")
    tabs.complaints.clear()  # that /nowhere is not found is said there, too


def test_screenshot_for_the_readme(site: str, tabs: Tabs, artifacts: Path) -> None:
    page = tabs.open()
    page.set_viewport_size({"width": README_SIZE[0], "height": README_SIZE[1]})
    page.goto(f"{site}/?q={README_QUERY.replace(' ', '+')}", wait_until="networkidle")
    page.screenshot(path=artifacts / "screenshot.png")
    page.locator(".open").nth(1).click()
    page.locator("dialog article").wait_for()
    page.locator("dialog summary").click()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=artifacts / "screenshot-image.png")
    for name in ("screenshot", "screenshot-image"):
        assert 50_000 < (artifacts / f"{name}.png").stat().st_size < 600_000
