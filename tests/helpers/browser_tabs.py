"""Browser tabs for tests, which collect what the pages report on the console."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

from tests.helpers.waiting import GIVE_UP_S

SIZES = {"phone": (390, 844), "laptop": (1280, 860), "wide": (1920, 1080)}


class Tabs:
    """Opens tabs in separate browser contexts and collects the errors that pages report on the console."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []

    def open(self, *, size: str = "laptop", scheme: Any = "light", javascript: bool = True, **options: Any) -> Page:
        width, height = SIZES[size]
        phone = size == "phone"
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=javascript,
            is_mobile=phone,
            has_touch=phone,
            **options,
        )
        context.set_default_timeout(GIVE_UP_S * 1000)
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
