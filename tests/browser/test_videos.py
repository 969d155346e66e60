"""Videos in Chromium: they play from their moment, stop when they are left, and fall back to a preview."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from werkzeug.serving import make_server

from searchdb.client import SearchDB
from searchdb.media.embed import CLIPEmbedder
from tests.browser.conftest import QuietHandler, Whole
from tests.helpers.browser_tabs import Tabs
from tests.helpers.databases import NewSettings
from tests.helpers.stored_images import StoredImages
from tests.helpers.stored_videos import StoredVideos
from tests.helpers.videos import draw_video
from web import create_app
from web.backend import EXTENSION

pytestmark = pytest.mark.browser

QUERY = "/?q=a+red+boat&threshold=-1"
RED, BLUE = (200, 30, 30), (30, 30, 200)
SECONDS = 4


@pytest.fixture(scope="module")
def films(new_settings: NewSettings, embedder: CLIPEmbedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over three hits for QUERY: a video, a video that Chromium cannot play, and an image."""
    folder = tmp_path_factory.mktemp("films")
    with new_settings(folder) as settings, SearchDB(settings) as collection:
        videos = StoredVideos(collection.database, embedder)
        played = draw_video(folder / "boats.webm", [(RED, SECONDS / 2), (BLUE, SECONDS / 2)])
        videos.add(played, {0.0: "a dog", 1.5: "a red boat", 3.0: "a cat"}, duration=SECONDS, codec="vp8")
        unknown = draw_video(folder / "old.mp4", [(BLUE, SECONDS)], codec="mpeg4")
        videos.add(unknown, {1.0: "a red boat and a dog"}, duration=SECONDS, codec="mpeg4")
        StoredImages(folder, collection.database, embedder).add("a tree")
        app = create_app(settings, embedder=embedder)
        app.wsgi_app = Whole(app.wsgi_app)
        server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.port}"
        server.shutdown()
        thread.join()
        server.server_close()
        app.extensions[EXTENSION].close()


def ready(page: Page, seconds: float) -> None:
    """Wait until the player has a picture of this second."""
    page.wait_for_function(
        "seconds => { const video = document.querySelector('article video');"
        " return video && video.readyState >= 2 && Math.abs(video.currentTime - seconds) < 0.2 }",
        arg=seconds,
    )


def test_a_video_opens_at_its_moment_and_stops_when_it_is_left(films: str, tabs: Tabs) -> None:
    page = tabs.open()
    page.goto(films + QUERY)
    expect(page.locator(".cell").first).to_contain_text("0:01 / 0:04")
    page.locator(".open").first.click()
    ready(page, 1.5)
    player = page.locator("dialog video")
    kept = player.element_handle()
    assert player.evaluate("video => video.paused")
    player.evaluate("video => { video.muted = true; return video.play() }")

    player.focus()
    page.keyboard.press("ArrowLeft")  # the player's own key: it goes back in the video
    expect(player).to_have_count(1)
    assert "/images/2?" in page.url

    page.get_by_role("link", name="0:03").click()
    ready(page, 3.0)
    assert "/images/3?" in page.url
    expect(page.locator("dialog .moments [aria-current]")).to_be_focused()
    assert kept.evaluate("video => video.paused && !video.hasAttribute('src')")

    page.keyboard.press("ArrowRight")  # outside of the player it leads to the next hit
    expect(page.locator("dialog article h1")).to_have_text("old.mp4")
    page.keyboard.press("ArrowLeft")
    ready(page, 1.5)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page).to_have_url(films + QUERY)
    assert page.locator("video").evaluate_all("videos => videos.every(video => video.paused && !video.src)")


def test_a_video_that_cannot_be_played_is_shown_by_its_preview(films: str, tabs: Tabs) -> None:
    page = tabs.open(scheme="dark")
    page.goto(films + QUERY)
    page.locator(".open").nth(1).click()
    notice = page.locator("dialog .unplayable")
    expect(notice).to_contain_text("This browser cannot play this video (mpeg4)")
    expect(page.locator("dialog video")).to_be_hidden()
    assert notice.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
    page.goto(page.url)
    expect(page.locator("article .unplayable")).to_be_visible()
    expect(page.get_by_role("link", name="Open the file")).to_be_visible()


def test_without_scripts_a_video_has_a_player_and_links(films: str, tabs: Tabs) -> None:
    page = tabs.open(size="phone", javascript=False)
    page.goto(films + QUERY)
    page.locator(".open").first.click()
    expect(page.locator("article video[controls]")).to_be_visible()
    expect(page.locator(".unplayable")).to_be_hidden()
    page.get_by_role("link", name="0:03").click()
    expect(page.locator("article video")).to_have_attribute("src", "/images/3/file#t=3")
    expect(page.get_by_role("link", name="Video file")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
