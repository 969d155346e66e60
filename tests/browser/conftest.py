"""A real browser on a real server over the demo album."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from werkzeug.serving import WSGIRequestHandler, make_server

from searchdb.config import Settings
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.browser_tabs import Tabs
from tests.helpers.waiting import GIVE_UP_S
from web import create_app
from web.backend import EXTENSION

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

expect.set_options(timeout=GIVE_UP_S * 1000)

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",  # it has none to offer to root, which containers run as
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features="
    # The popup of the address bar: Chromium loads it as a separate page for each tab, at half of the tab's cost.
    "WebUIOmniboxPopup,WebUIOmniboxAimPopup,"
    # This argument replaces Playwright's own; these features of its list concern pages.
    "AvoidUnnecessaryBeforeUnloadCheckSync,HttpsFirstBalancedModeAutoEnable,HttpsUpgrades,LensOverlay,MediaRouter,"
    "OptimizationHints,PaintHolding,PreconnectToSearch,ThirdPartyStoragePartitioning",
)


class QuietHandler(WSGIRequestHandler):
    """Serves without a line in the log for each image."""

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - its name in werkzeug
        pass


class Whole:
    """Gives each answer to the server in one piece.

    It leaves files open whose browser has hung up in the meantime, as browsers do with what they need no more.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        parts = self._app(environ, start_response)
        try:
            return [b"".join(parts)]
        finally:
            if isinstance(parts, Closes):
                parts.close()


@runtime_checkable
class Closes(Protocol):
    """What a WSGI application's answer may have to be told."""

    def close(self) -> None: ...


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """The folder for what people may want to look at after a run; not in version control."""
    folder = Path(__file__).parents[2] / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def site(demo_settings: Settings, embedder: CLIPEmbedder) -> Iterator[str]:
    """The address of the page over the demo album."""
    app = create_app(demo_settings, embedder=embedder)
    app.wsgi_app = Whole(app.wsgi_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()
    app.extensions[EXTENSION].close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        reason = f"there is no Chromium here: none of {', '.join(CHROMIUM_NAMES)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    """Tabs for one test, which fails where a page broke its own policy or its script failed."""
    tabs = Tabs(browser)
    yield tabs
    tabs.close()
    assert not tabs.complaints, "a page broke its own content security policy, or its script failed"
