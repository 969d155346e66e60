"""The page in Chromium: finding, opening, going on from there, by mouse and keys, on phones and wide screens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

pytestmark = pytest.mark.browser

SIZES = {"phone": (390, 844), "laptop": (1280, 860), "wide": (1920, 1080)}
README_SIZE = (1280, 860)
README_QUERY = "a boat at sunset"


class Tabs:
    """Opens tabs, and tells what their pages complained about on the console."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.complaints: list[str] = []

    def open(self, *, size: str = "laptop", scheme: Any = "light", javascript: bool = True) -> Page:
        width, height = SIZES[size]
        phone = size == "phone"
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=javascript,
            is_mobile=phone,
            has_touch=phone,
        )
        context.set_default_timeout(20_000)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    tabs = Tabs(browser)
    yield tabs
    tabs.close()
    assert not tabs.complaints, "a page broke its own content security policy, or its script failed"


def search(page: Page, words: str) -> None:
    page.get_by_label("Describe the picture you look for").fill(words)
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=*")


def test_search_open_go_on_and_back(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site)
    expect(page.get_by_role("heading", level=1)).to_have_text("Find pictures by meaning")
    search(page, "a boat at sunset")
    assert page.url == f"{site}/?q=a+boat+at+sunset"
    pictures = page.locator(".grid img")
    found = [pictures.nth(rank).get_attribute("alt") or "" for rank in range(5)]
    assert all(re.search(r"\bboats?\b.* at sunset", alt) for alt in found), found

    pictures.first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(found[0])
    expect(page.locator(".found")).to_contain_text("Similarity")
    page.get_by_role("link", name="More like this").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Like the picture")
    expect(page.get_by_label("Do not look for pictures like it")).to_be_visible()
    assert pictures.count() > 10
    page.go_back()
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("a boat at sunset"))
    expect(page.get_by_label("Describe the picture you look for")).to_have_value("a boat at sunset")


def test_every_picture_of_a_page_is_there(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+house")
    pictures = page.locator(".grid img")
    for rank in range(pictures.count()):
        pictures.nth(rank).scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator(".missing").count() == 0


def test_through_the_results_by_arrows_and_slash(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+boat+at+sunset")
    order = page.locator(".grid li").evaluate_all("cells => cells.map(cell => cell.id.replace('picture-', ''))")
    page.locator(".grid a").first.click()
    page.wait_for_url(f"**/images/{order[0]}?*")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/images/{order[1]}?*")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/images/{order[0]}?*")
    page.keyboard.press("/")
    expect(page.get_by_label("Describe the picture you look for")).to_be_focused()
    page.get_by_role("link", name="Back to the results").click()
    page.wait_for_url(f"{site}/?q=a+boat+at+sunset#picture-{order[0]}")


def test_refining(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+boat")
    page.get_by_text("Refine").click()
    page.get_by_label("without").fill("the sun")
    page.get_by_label("similarity from").fill("0.9999")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url(f"{site}/?q=a+boat&not=the+sun&threshold=0.9999")
    expect(page.get_by_text("No picture reaches a similarity of 0.9999")).to_be_visible()
    page.get_by_role("link", name="Show the nearest all the same").click()
    page.wait_for_url("**threshold=-1*")
    assert page.locator(".grid li").count() > 10


def test_works_without_javascript(site: str, tabs: Tabs) -> None:
    page = tabs.open(javascript=False)
    page.goto(site)
    page.get_by_label("Describe the picture you look for").fill("a green tree")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("a green tree"))
    page.get_by_role("link", name="More pictures").click()
    expect(page.get_by_text("41–80, best first")).to_be_visible()
    page.locator(".grid a").first.click()
    expect(page.get_by_role("link", name="More like this")).to_be_visible()


def test_nothing_moves_when_pictures_arrive(site: str, tabs: Tabs) -> None:
    places = (
        "cells => cells.map(cell => { const box = cell.getBoundingClientRect(); return [box.x, box.y, box.width] })"
    )
    page = tabs.open()
    page.route("**/thumbnail*", lambda route: None)  # they never come
    page.goto(f"{site}/?q=a+dog", wait_until="domcontentloaded")
    before = page.locator(".grid li").evaluate_all(places)
    page.unroute("**/thumbnail*")
    page.goto(f"{site}/?q=a+dog", wait_until="networkidle")
    assert page.locator(".grid li").evaluate_all(places) == before


def test_picture_that_cannot_be_had_is_a_quiet_frame_with_its_text(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.route("**/thumbnail*", lambda route: route.fulfill(status=200, body=b""))
    page.goto(f"{site}/?q=a+dog")
    expect(page.locator(".frame.missing").first).to_be_visible()


def test_first_tab_skips_to_the_pictures(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=a+dog")
    page.locator("body").press("Tab")  # waits for the page to take keys, which under load is after it has loaded
    expect(page.get_by_role("link", name="Skip to the pictures")).to_be_focused()
    assert page.locator("main, header, footer, search").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_fits_every_screen(site: str, tabs: Tabs, artifacts: Path, size: str, scheme: str) -> None:
    page = tabs.open(size=size, scheme=scheme)
    page.goto(f"{site}/?q=two+flowers")
    picture = page.locator(".grid a").first.get_attribute("href")
    paths = {
        "home": "/",
        "results": "/?q=two+flowers",
        "refined": "/?q=boat&not=night&threshold=0.99",
        "picture": picture,
        "nowhere": "/nowhere",
    }
    for name, path in paths.items():
        page.goto(f"{site}{path}", wait_until="networkidle")
        page.screenshot(path=artifacts / f"{name}-{size}-{scheme}.png")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{name} scrolls sideways by {overflow} pixels"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
        assert (brightness > 200) is (scheme == "light")
    tabs.complaints.clear()  # that /nowhere is not found is said there, too


def test_text_can_be_told_from_its_background(site: str, tabs: Tabs) -> None:
    contrast = """() => {
        const number = colour => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
                .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = element => {
            for (let at = element; at; at = at.parentElement) {
                const colour = getComputedStyle(at).backgroundColor;
                if (/^rgb\\(/.test(colour)) return colour;
            }
        };
        const low = [];
        for (const element of document.querySelectorAll("body *")) {
            const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
            if (!own || !element.checkVisibility() || element.closest("svg, .unseen")) continue;
            const [a, b] = [number(getComputedStyle(element).color), number(behind(element))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) low.push(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
        }
        return low;
    }"""
    for scheme in ("light", "dark"):
        page = tabs.open(scheme=scheme)
        for path in ("/", "/?q=a+boat&not=night", "/images/1?q=a+boat"):
            page.goto(f"{site}{path}")
            assert page.evaluate(contrast) == []


def test_screenshot_for_the_readme(site: str, tabs: Tabs, artifacts: Path) -> None:
    page = tabs.open()
    page.set_viewport_size({"width": README_SIZE[0], "height": README_SIZE[1]})
    page.goto(f"{site}/?q={README_QUERY.replace(' ', '+')}", wait_until="networkidle")
    page.screenshot(path=artifacts / "screenshot.png")
    assert (artifacts / "screenshot.png").stat().st_size > 50_000
