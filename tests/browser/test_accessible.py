"""axe-core finds no serious or critical violation on any page, in light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.helpers.browser_tabs import Tabs

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

CONTEXT = {"exclude": [".grid > .cell:nth-child(n + 9)"]}
"""Forty hits are no different from eight, but take axe most of its time."""
CONTRASTS = """() => {
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


def violations(page: Page) -> list[str]:
    """What is serious or critical, with the elements that it is about."""
    found: list[dict[str, Any]] = Axe().run(page, context=CONTEXT).response["violations"]
    return [
        f"{each['id']}: {node['html'][:120]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:3]
    ]


def low_contrasts(page: Page) -> list[str]:
    """Texts that are hard to tell from their background. Where axe is not sure of it, it says nothing."""
    return page.evaluate(CONTRASTS)


@pytest.mark.parametrize(("size", "scheme"), [("phone", "dark"), ("laptop", "light")])
def test_every_page(site: str, tabs: Tabs, size: str, scheme: str) -> None:
    page = tabs.open(size=size, scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    found: dict[str, list[str]] = {}
    # On a laptop, the pages that are arranged in another way than on a phone.
    for name in PATHS if size == "phone" else ("home", "filtered", "image", "status"):
        page.goto(site + PATHS[name])
        found[name] = violations(page) + low_contrasts(page)
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
