"""The console in Firefox: what differs between browsers is its policy, its streams and its storage."""

import asyncio
from typing import Any

from sse_broadcast.event import Event
from sse_broadcast.server.runner import Server
from sse_broadcast.server.services import STATUS_STREAMS
from tests.conftest import Serve
from tests.support.browser import Firefox, Tab, publish
from tests.support.sockets import PATIENCE, until
from tests.test_console import ATTACKS, TOKEN, VIEWS


async def value(tab: Tab, expression: str) -> Any:
    """Return the value of an expression, in the driver's own scope: the page's policy forbids `eval`."""
    return await tab.run(f"return {expression}")


async def becomes(tab: Tab, condition: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await value(tab, f"Boolean({condition})"):
            await asyncio.sleep(0.02)


async def opened(firefox: Firefox, server: Server) -> Tab:
    tab = await firefox.open(f"{server.url}/")
    await becomes(tab, "['live', 'closed'].includes(document.body.dataset.state)")
    return tab


async def test_it_lights_up_and_shows_what_is_published_as_text(
    server: Server, firefox_browser: Firefox
) -> None:
    """Each view is there; markup of a publisher is text, and nothing is run that its policy forbids."""
    tab = await opened(firefox_browser, server)
    await tab.run(
        "window.violated = []; document.addEventListener('securitypolicyviolation',"
        " (event) => violated.push(event.violatedDirective))"
    )
    await until(lambda: server.broadcaster.client_count == 1 and len(server.app[STATUS_STREAMS]) == 1)
    await publish(server, "default", "hello")
    await becomes(tab, "document.getElementById('first-text').textContent === 'On default: hello'")
    await tab.run("location.hash = '#stream'")
    for number, attack in enumerate(ATTACKS, 2):
        await server.broadcaster.publish(Event(attack), ["attack"])
        await becomes(tab, f"document.querySelectorAll('#events li').length === {number}")
    await tab.run("document.querySelector('#events button').click()")
    shown = await value(tab, "document.getElementById('events').textContent")
    assert all(attack in shown for attack in ATTACKS)
    for view in VIEWS:
        await tab.run(f"location.hash = '#{view}'")
        await becomes(tab, f"!document.getElementById('{view}').hidden")
    await becomes(tab, "document.getElementById('settings').children.length > 0")
    assert await value(tab, "document.querySelectorAll('img, iframe, object').length") == 0
    assert await value(tab, "violated") == []
    await tab.close()
    await until(lambda: server.broadcaster.client_count == 0 and not server.app[STATUS_STREAMS])


async def test_a_token_is_asked_for_and_forgotten(serve: Serve, firefox_browser: Firefox) -> None:
    server = await serve(token=TOKEN)
    tab = await opened(firefox_browser, server)
    await tab.run(
        "document.getElementById('token').value = arguments[0];"
        "document.getElementById('keep').checked = true;"
        "document.querySelector('#gate-form .primary').click()",
        TOKEN,
    )
    await becomes(tab, "document.body.dataset.state === 'live'")
    await until(lambda: server.broadcaster.client_count == 1)
    await tab.run("document.getElementById('token-button').click()")
    await becomes(tab, "document.body.dataset.state === 'closed'")
    assert await value(tab, "sessionStorage.length + localStorage.length") == 0
    await until(lambda: server.broadcaster.client_count == 0)
    await tab.close()
