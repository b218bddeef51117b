"""Chromium, driven by playwright."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, Route, async_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
"""No sandbox, since tests in containers run as root; and not a word to any other machine."""


@asynccontextmanager
async def chromium(program: Callable[[str], Path], *arguments: str) -> AsyncIterator[Browser]:
    """Run Debian's Chromium, without a window; with further arguments."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program("chromium"), args=[*ARGUMENTS, *arguments]
        )
        try:
            yield browser
        finally:
            await browser.close()


async def shown(browser: Browser, url: str, html: str) -> Page:
    """Open a page as if the server at this address had served it."""
    page = await browser.new_page()

    async def serve_page(route: Route) -> None:
        await route.fulfill(body=html, content_type="text/html; charset=utf-8")

    await page.route(f"{url}/page", serve_page)
    await page.goto(f"{url}/page")
    return page
