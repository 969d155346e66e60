"""Searching by an image in Chromium: chosen, pasted, dropped, by its address; with words, and shared."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, expect

from searchdb.client import SearchDB
from tests.helpers.browser_tabs import Tabs
from tests.helpers.image_server import ImageServer

pytestmark = pytest.mark.browser

TRANSFER = """([data, type]) => {
    const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "mine", { type }));
    return transfer;
}"""


@pytest.fixture(scope="module")
def boat(demo_collection: SearchDB) -> tuple[int, Path]:
    """Id and file of an image of the album."""
    [hit] = demo_collection.search("a boat at sunset", count=1)
    return hit.id, Path(hit.image)


def found(page: Page) -> list[int]:
    """Wait for the results, and return their ids."""
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("Like your image"))
    ids = page.locator(".cell").evaluate_all("cells => cells.map(cell => cell.id.replace('image-', ''))")
    return [int(each) for each in ids]


def test_an_image_with_words_can_be_chosen_cleared_and_shared(site: str, tabs: Tabs, boat: tuple[int, Path]) -> None:
    number, path = boat
    page = tabs.open()
    page.goto(site)
    page.get_by_title("Search by image").click()
    page.get_by_label("Choose an image").set_input_files(path)
    ids = found(page)
    assert ids[0] == number
    thumbnail = page.locator("canvas[data-vector]")
    expect(thumbnail).to_be_visible()
    shades = thumbnail.evaluate("it => new Set(it.getContext('2d').getImageData(0, 0, 32, 32).data).size")
    assert shades > 10, "the image is drawn on it"
    page.reload()
    expect(thumbnail).to_be_visible()

    other = tabs.open()
    other.goto(page.url)
    assert found(other) == ids
    expect(other.get_by_text("Your image", exact=True)).to_be_visible()
    expect(other.locator("canvas[data-vector]")).to_be_hidden()

    page.get_by_label("Describe the image you are looking for").fill("a house in the snow")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"\?q=a\+house\+in\+the\+snow&vector=[\w=%-]+$"))
    assert found(page) != ids
    page.get_by_label("Remove your image from the search").click()
    page.wait_for_url(f"{site}/?q=a+house+in+the+snow")


def test_search_by_a_pasted_image(site: str, tabs: Tabs, boat: tuple[int, Path]) -> None:
    page = tabs.open(permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{site}/?q=a+tree&tag=boat")
    page.evaluate(
        """async (address) => {
            const bitmap = await createImageBitmap(await (await fetch(address)).blob());
            const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
            canvas.getContext("2d").drawImage(bitmap, 0, 0);
            await navigator.clipboard.write([new ClipboardItem({ "image/png": canvas.convertToBlob() })]);
        }""",
        f"{site}/images/{boat[0]}/file",
    )
    page.keyboard.press("Control+V")
    page.wait_for_url(re.compile(r"\?q=a\+tree&tag=boat&vector="))
    assert boat[0] in found(page)[:10]


def test_search_by_a_dropped_image(site: str, tabs: Tabs, boat: tuple[int, Path]) -> None:
    page = tabs.open()
    page.goto(f"{site}/images/1")
    data = base64.b64encode(boat[1].read_bytes()).decode()
    transfer = page.evaluate_handle(TRANSFER, [data, "image/jpeg"])
    page.dispatch_event("main", "dragover", {"dataTransfer": transfer})
    expect(page.get_by_text("Drop to search by this image")).to_be_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    assert found(page)[0] == boat[0]


def test_a_dropped_file_that_is_not_an_image_is_named(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site)
    address = page.url
    transfer = page.evaluate_handle(TRANSFER, ["aGVsbG8=", "text/plain"])
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    expect(page.get_by_role("alert")).to_have_text("This file is not an image.")
    assert page.url == address


def test_search_by_a_pasted_image_url(site: str, tabs: Tabs, boat: tuple[int, Path]) -> None:
    page = tabs.open(permissions=["clipboard-read", "clipboard-write"])
    page.goto(site)
    with ImageServer() as server:
        server.bodies["/boat.jpg"] = boat[1].read_bytes()
        page.evaluate("text => navigator.clipboard.writeText(text)", server.url("/boat.jpg"))
        page.keyboard.press("Control+V")
        assert found(page)[0] == boat[0]
    # Pasted into the box it is a text like any other.
    page.get_by_label("Describe the image you are looking for").press("Control+V")
    expect(page.get_by_label("Describe the image you are looking for")).to_have_value(re.compile("^http://"))


def test_a_file_that_is_too_large_is_not_uploaded(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(site)
    page.evaluate("document.getElementById('image-search').dataset.largest = 3000000")
    page.get_by_title("Search by image").click()
    big: FilePayload = {"name": "big.jpg", "mimeType": "image/jpeg", "buffer": bytes(3_000_001)}
    page.get_by_label("Choose an image").set_input_files(files=[big])
    expect(page.get_by_role("alert")).to_have_text("This image is too large: the limit is 3 MB.")
    assert page.url == f"{site}/"


def test_a_damaged_image_is_explained(site: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(f"{site}/?q=boat")
    page.get_by_title("Search by image").click()
    text: FilePayload = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"not at all"}
    page.get_by_label("Choose an image").set_input_files(files=[text])
    expect(page.get_by_role("heading", level=1)).to_have_text("This file is not an image we can read")
    expect(page.get_by_label("Describe the image you are looking for")).to_have_value("boat")
    tabs.complaints.clear()  # that it was refused is said there, too
