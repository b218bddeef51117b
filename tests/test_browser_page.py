"""docs/browser.md and docs/console.md: what they show runs."""

import json

import pytest
from playwright.async_api import Page

from tests.conftest import Program, Serve
from tests.support import process
from tests.support.browser import chromium, publish, shown, wait_for
from tests.support.pages import page
from tests.support.process import Programs
from tests.support.shell import bash
from tests.support.sockets import until

MODULE = page("docs/browser.md").blocks["module"].code
SAMPLES = page("docs/console.md").blocks["samples"]

programs = pytest.fixture(process.programs)


async def told(tab: Page, text: str) -> None:
    await wait_for(tab, f"window.lines.includes({json.dumps(text)})")


async def test_the_module_follows_as_shown(serve: Serve, program: Program) -> None:
    """In a page of the server's own origin; the console of the browser has what came."""
    server = await serve()
    html = "<script>window.lines = []; console.log = (...all) => lines.push(all.join(' '))</script>"
    async with chromium(program) as browser:
        tab = await shown(browser, server.url, html + MODULE.replace("https://push.example.com", server.url))
        await until(lambda: server.broadcaster.client_count == 1)
        await publish(server, "chat.general", "hello")
        await told(tab, "chat.general hello")


async def test_curl_gets_samples(serve: Serve, programs: Programs, program: Program) -> None:
    program("curl")
    server = await serve()
    asking = await bash(programs, SAMPLES.at(server.port), server.port)
    ended = await asking.ended()
    (first, *_) = [line for line in ended.out.decode().splitlines() if line.startswith("data: ")]
    assert json.loads(first.removeprefix("data: "))["connected_clients"] == 0
