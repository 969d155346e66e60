"""More images come by scrolling, in Chromium: in order, once each, and the address says which page is looked at."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.helpers.browser_tabs import Tabs
from web.page.search_request import PAGE_SIZE

pytestmark = pytest.mark.browser

QUERY = "/?q=two+flowers&threshold=-1"


def order(page: Page) -> list[str]:
    return page.locator(".cell").evaluate_all("cells => cells.map(cell => cell.id)")


def in_view(page: Page) -> list[str]:
    return page.locator(".cell").evaluate_all(
        """cells => cells.filter(cell => {
            const box = cell.getBoundingClientRect();
            return box.top >= 0 && box.bottom <= innerHeight;
        }).map(cell => cell.id)"""
    )


def scroll_to(page: Page, number: int) -> int:
    """Scroll until the address names this page, or one soon after; return which, once nothing moves any more."""
    page.mouse.move(600, 500)
    for _ in range(200):
        if number <= page_of(page):
            break
        page.mouse.wheel(0, 500)
        page.evaluate("new Promise(requestAnimationFrame)")
    for _ in range(50):
        before = page.evaluate("scrollY"), page.url
        page.wait_for_timeout(300)  # longer than the page waits before it changes its address
        if (page.evaluate("scrollY"), page.url) == before:
            break
    assert page_of(page) >= number
    return page_of(page)


def page_of(page: Page) -> int:
    found = re.search(r"page=(\d+)", page.url)
    return int(found[1]) if found else 1


def test_scrolling_to_the_third_page_and_back(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site + QUERY)
    deepest = scroll_to(page, 3)
    ids = order(page)
    assert len(ids) == len(set(ids)) >= 3 * PAGE_SIZE
    other = tabs.open(javascript=False)
    for number in (1, 2, 3):
        other.goto(f"{site}{QUERY}&page={number}")
        assert order(other) == ids[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
    expect(page.locator("#last")).to_have_text(str(len(ids)))

    # Shared, it shows the same page, with the way to the one before on top.
    shared = tabs.open()
    shared.goto(page.url)
    assert order(shared)[:PAGE_SIZE] == ids[(deepest - 1) * PAGE_SIZE : deepest * PAGE_SIZE]
    shared.get_by_role("link", name="Earlier images").click()
    shared.wait_for_url(f"**page={deepest - 1}")

    # Reloading and coming back lead to what was looked at.
    seen = in_view(page)
    page.reload()
    expect(page.locator(f"#{seen[0]}")).to_be_in_viewport()
    page.locator(f"#{seen[0]} .like").click()
    page.wait_for_url("**like=*")
    page.go_back()
    expect(page.locator(f"#{seen[0]}")).to_be_in_viewport()
    assert page_of(page) == deepest


def test_lightbox_deep_in_the_results_closes_to_the_same_place(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site + QUERY)
    scroll_to(page, 2)
    address, cell = page.url, in_view(page)[0]
    page.locator(f"#{cell} .open").click()
    page.locator("dialog[open] article").wait_for()
    page.go_back()
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator(f"#{cell}")).to_be_in_viewport()
    assert page.url == address


def test_the_neighbour_of_the_last_image_is_on_the_next_page(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=two+flowers&threshold=-1&page=7")
    ids = order(page)
    page.locator(".open").nth(PAGE_SIZE - 1).click()
    page.locator("dialog[open] article").wait_for()
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/images/*page=8")
    expect(page.locator("dialog[open] article")).to_be_visible()
    assert f"/images/{ids[PAGE_SIZE - 1].removeprefix('image-')}?" not in page.url


def test_scrolling_ends_with_the_last_image(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}{QUERY}&page=7")
    page.locator(".cell").last.scroll_into_view_if_needed()
    expect(page.get_by_role("link", name="More images")).to_have_count(0)
    assert len(order(page)) == 300 - 6 * PAGE_SIZE
    expect(page.get_by_role("status").first).to_have_text(re.compile(r"\d+ more images, 300 in all"))


def test_after_a_failure_the_link_remains(site: str, tabs: Tabs) -> None:
    page = tabs.open()

    def fail(route: Route) -> None:
        route.fulfill(status=503, body="away")

    page.route("**page=2*", fail)
    page.goto(site + QUERY)
    page.get_by_role("link", name="More images").scroll_into_view_if_needed()
    expect(page.get_by_role("status").first).to_have_text(re.compile("could not be loaded"))
    page.unroute("**page=2*")
    page.get_by_role("link", name="More images").click()
    expect(page.get_by_text("41–")).to_be_visible()
    tabs.complaints.clear()  # that it failed is said there, too
