"""axe-core finds no serious or critical violation on any page, in light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.helpers.browser_tabs import SIZES, Tabs

pytestmark = pytest.mark.browser

PATHS = {
    "home": "/",
    "results": "/?q=a+boat&threshold=-1",
    "filtered": "/?q=a+boat&not=night&tag=boat&any_tag=sunset&orientation=landscape",
    "like": "/?like=5&q=snow",
    "balance": "/?like=5&like=7&unlike=9&q=snow&text_weight=0.7",
    "nothing": "/?q=boat&threshold=0.9999",
    "no filter met": "/?q=boat&country=Nowhere",
    "image": "/images/5?q=a+boat&threshold=-1",
    "status": "/status",
    "API": "/api/",
    "error": "/nowhere",
    "refused": "/?q=boat&threshold=7",
}


def violations(page: Page) -> list[str]:
    """What is serious or critical, with the elements that it is about."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:120]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:3]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "laptop"])
def test_every_page(site: str, tabs: Tabs, size: str, scheme: str) -> None:
    assert size in SIZES
    page = tabs.open(size=size, scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    found: dict[str, list[str]] = {}
    for name, path in PATHS.items():
        page.goto(site + path)
        found[name] = violations(page)
    page.goto(f"{site}/?q=a+boat")
    page.get_by_text("Filters", exact=True).click()
    found["filters open"] = violations(page)
    page.get_by_title("Search by image").click()
    found["image panel"] = violations(page)
    page.keyboard.press("Escape")
    page.get_by_text("As SQL", exact=True).click()
    found["SQL"] = violations(page)
    page.locator(".open").first.click()
    page.locator("dialog[open] article").wait_for()
    found["lightbox"] = violations(page)
    assert not {name: each for name, each in found.items() if each}
    tabs.complaints.clear()  # of pages that are errors


def test_focus_is_visible_in_forced_colours(site: str, tabs: Tabs, artifacts: Path) -> None:
    page = tabs.open(forced_colors="active")
    page.goto(f"{site}/?q=a+boat")
    page.screenshot(path=artifacts / "results-forced-colours.png")
    page.locator(".open").first.focus()
    outline = page.locator(".open").first.evaluate("link => getComputedStyle(link).outlineStyle")
    assert outline != "none"
