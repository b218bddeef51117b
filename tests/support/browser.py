"""Chromium, driven by playwright."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
"""No sandbox, since tests in containers run as root; and not a word to any other machine."""


@asynccontextmanager
async def chromium(program: Callable[[str], Path]) -> AsyncIterator[Browser]:
    """Run Debian's Chromium, without a window."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program("chromium"), args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()
