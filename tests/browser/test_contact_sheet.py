"""A contact sheet in a browser, from its file: complete, without a request or a complaint, and accessible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from searchdb.client import SearchDB

pytestmark = pytest.mark.browser


def test_a_sheet(demo_collection: SearchDB, browser: Browser, tmp_path: Path, artifacts: Path) -> None:
    demo_collection.export(tmp_path / "boats.html", "a boat", exclude="a dog", count=24)
    for name, width, scheme in (("dark", 1280, "dark"), ("narrow", 390, "light")):
        wanted: Any = scheme
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=wanted, offline=True)
        page = context.new_page()
        complaints: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message, found=complaints: found.append(message.text))
        page.on("request", lambda request, found=requests: found.append(request.url))
        page.goto((tmp_path / "boats.html").as_uri())
        assert page.locator(".cells > li").count() == 24
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        page.screenshot(path=artifacts / f"contact-sheet-{name}.png")
        found = Axe().run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
        context.close()
