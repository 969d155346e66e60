"""The page of a comparison in a browser, from its file: complete, without a request or a complaint, and accessible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from searchdb.client import SearchDB
from searchdb.compare.records import ModelQuery
from tests.helpers.tiny_models import demo_twin

pytestmark = pytest.mark.browser

DRAWN = """() => {
    const shown = [...document.querySelectorAll('.frame .t')];
    const loaded = url => new Promise(done => {
        const image = new Image();
        image.onload = () => done(image.naturalWidth > 0);
        image.onerror = () => done(false);
        image.src = url;
    });
    const urls = shown.map(each => getComputedStyle(each).backgroundImage.slice(5, -2));
    return Promise.all(urls.map(loaded)).then(all => [all.length, all.every(Boolean)]);
}"""


def test_a_comparison(demo_collection: SearchDB, browser: Browser, tmp_path: Path, artifacts: Path) -> None:
    queries = [ModelQuery(text="a boat at sunset", relevant=[1, 2]), ModelQuery(text="a very long query " * 12)]
    path = tmp_path / "comparison.html"
    twin = demo_twin(tmp_path / "a-model-with-quite-a-long-name-of-its-own", 768)
    demo_collection.compare_models(str(twin), queries=queries, sample=60, output=path)
    sizes = (("dark", 1280, "dark"), ("narrow", 390, "light"), ("wide", 2560, "light"))
    for name, width, scheme in sizes:
        wanted: Any = scheme
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=wanted, offline=True)
        page = context.new_page()
        complaints: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message, found=complaints: found.append(message.text))
        page.on("request", lambda request, found=requests: found.append(request.url))
        page.goto(path.as_uri())
        assert page.locator(".query").count() == 2
        assert page.evaluate(DRAWN) == [40, True]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        page.screenshot(path=artifacts / f"model-comparison-{name}.png", full_page=True)
        found = Axe().run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
        context.close()
