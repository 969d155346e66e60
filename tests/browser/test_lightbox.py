"""An image over the results, in Chromium: its address, its neighbours, its keys, and the way back."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.browser_tabs import Tabs

pytestmark = pytest.mark.browser

QUERY = "/?q=a+boat+at+sunset"


def order(page: Page) -> list[str]:
    return page.locator(".cell").evaluate_all("cells => cells.map(cell => cell.id.replace('image-', ''))")


def opened(page: Page, number: str) -> None:
    """Wait until this image is shown."""
    page.wait_for_url(f"**/images/{number}?*")
    expect(page.locator("dialog[open] article dd").get_by_text(number, exact=True)).to_be_visible()


def test_arrow_keys_move_through_the_results(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site + QUERY)
    ids = order(page)
    title = page.title()
    page.locator(".open").first.click()
    opened(page, ids[0])
    assert page.title() != title
    expect(page.get_by_role("button", name="Previous")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    opened(page, ids[1])
    page.get_by_role("button", name="Next").click()
    opened(page, ids[2])
    page.keyboard.press("ArrowLeft")
    opened(page, ids[1])
    page.keyboard.press("Escape")
    page.wait_for_url(site + QUERY)
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator(f"#image-{ids[1]} .open")).to_be_focused()
    assert page.title() == title


def test_back_closes_and_forward_opens(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site + QUERY)
    ids = order(page)
    page.locator(".open").nth(3).click()
    opened(page, ids[3])
    page.go_back()
    expect(page.locator("dialog")).to_be_hidden()
    assert page.url == site + QUERY
    page.go_forward()
    opened(page, ids[3])
    page.get_by_role("button", name="Close").click()
    page.wait_for_url(site + QUERY)
    page.keyboard.press("Enter")
    opened(page, ids[3])


def test_its_url_is_the_images_own_page(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site + QUERY)
    ids = order(page)
    page.locator(".open").nth(1).click()
    opened(page, ids[1])
    seen = page.locator("dialog .about").inner_text()

    other = tabs.open()
    other.goto(page.url)
    assert other.locator(".about").inner_text().split() == seen.split()
    expect(other.get_by_role("heading", name="Similar images")).to_be_visible()
    other.keyboard.press("ArrowRight")
    other.wait_for_url(f"**/images/{ids[2]}?*")
    other.get_by_role("link", name="Back to the results").click()
    other.wait_for_url(f"{site}{QUERY}#image-{ids[2]}")

    page.reload()  # it is a page of its own now, whose way back leads to the results all the same
    expect(page.get_by_role("heading", name="Similar images")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("a boat at sunset"))
    assert page.url == site + QUERY


def test_focus_stays_inside(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site + QUERY)
    page.locator(".open").first.click()
    opened(page, order(page)[0])
    for _ in range(30):
        page.keyboard.press("Tab")
        outside = page.evaluate("!document.activeElement.closest('dialog') && document.activeElement !== document.body")
        assert not outside


def test_similar_images_open_over_an_images_page(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/images/5")
    [first, second, *_] = order(page)
    page.locator(".open").first.click()
    opened(page, first)
    page.keyboard.press("ArrowRight")
    opened(page, second)
    page.go_back()
    expect(page.locator("dialog")).to_be_hidden()
    assert page.url == f"{site}/images/5"


def test_swiping_leads_to_the_neighbours(site: str, tabs: Tabs) -> None:
    page = tabs.open(size="phone")
    page.goto(site + QUERY)
    ids = order(page)
    page.locator(".open").first.tap()
    opened(page, ids[0])
    finger = page.context.new_cdp_session(page)

    def swipe(start: int, end: int) -> None:
        for kind, points in (("touchStart", [start]), ("touchMove", [end]), ("touchEnd", [])):
            touches = [{"x": x, "y": 200} for x in points]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    swipe(300, 100)
    opened(page, ids[1])
    swipe(100, 300)
    opened(page, ids[0])


def test_sql_is_copied(site: str, tabs: Tabs) -> None:
    page = tabs.open(permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{site}/?q=the+captain's+boat")
    page.get_by_text("As SQL", exact=True).click()
    page.get_by_role("button", name="Copy as SQL").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "match_images(text_embedding('the captain''s boat'), 0, 40)" in copied
    page.locator(".open").first.click()
    page.get_by_role("dialog").get_by_text("As SQL", exact=True).click()
    expect(page.get_by_role("dialog").get_by_role("button", name="Copy as SQL")).to_be_visible()


def test_keys_move_through_the_grid(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site + QUERY)
    place = "() => { const box = document.activeElement.getBoundingClientRect(); return [box.x, box.y + scrollY] }"
    ids = order(page)
    page.locator("body").press("/")
    expect(page.get_by_label("Describe the image you are looking for")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator(f"#image-{ids[0]} .open")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(f"#image-{ids[1]} .open")).to_be_focused()
    start = page.evaluate(place)
    page.keyboard.press("ArrowDown")
    below = page.evaluate(place)
    assert below[1] > start[1]
    assert abs(below[0] - start[0]) < 400
    page.keyboard.press("ArrowUp")
    assert page.evaluate(place)[1] == start[1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.locator("dialog[open] article").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()


def test_a_failed_opening_leads_to_the_error_page(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site + QUERY)
    page.locator(".open").first.evaluate("link => { link.href = link.href.replace(/\\d+\\?/, '999999?') }")
    page.locator(".open").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such image")
    page.wait_for_load_state()  # both entries of the history are one document's: the script of the error page goes back
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("a boat at sunset"))
    page.wait_for_load_state()
    tabs.complaints.clear()  # the browser also logs the 404
