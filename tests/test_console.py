"""The console in Chromium: what it shows, to whom, and that nothing it shows can do anything."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import playwright.async_api
import pytest
from playwright.async_api import Page

from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.event import Event
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.endpoints.console import page_file
from sse_broadcast.server.runner import Server
from sse_broadcast.server.services import STATUS_STREAMS
from tests.conftest import Connect, Program, Serve, missing
from tests.support.browser import chromium, publish
from tests.support.internals import outboxes_of
from tests.support.sockets import PATIENCE, until

AXE = Path(__file__).parent / "clients" / "node_modules" / "axe-core" / "axe.min.js"
TOKEN = "t" * 40
VIEWS = ("overview", "stream", "channels", "subscribers", "publish", "config")


async def becomes(page: Page, condition: str) -> None:
    """Wait until something is so in the page, whose policy forbids playwright's own `wait_for_function`."""
    async with asyncio.timeout(PATIENCE):
        while not await page.evaluate(f"Boolean({condition})"):
            await asyncio.sleep(0.02)


class Console:
    """A page with the console, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        self.requested: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", self._note)

    def _note(self, message: playwright.async_api.ConsoleMessage) -> None:
        if message.type == "error" and "Content Security Policy" in message.text:
            self.faults.append(message.text)

    async def go(self, view: str) -> None:
        """Go to a view by its link, as with a keyboard."""
        link = self.page.locator(f'nav a[href="#{view}"]')
        await link.focus()
        await self.page.keyboard.press("Enter")
        await becomes(self.page, f"!document.getElementById('{view}').hidden")

    async def shows(self, id: str, text: str) -> None:
        """Wait until an element has a text in it."""
        await becomes(self.page, f"document.getElementById({id!r}).textContent.includes({json.dumps(text)})")

    async def text(self, id: str) -> str:
        return str(await self.page.evaluate(f"document.getElementById({id!r}).textContent"))


@pytest.fixture
async def browser(program: Program) -> AsyncIterator[playwright.async_api.Browser]:
    async with chromium(program) as running:
        yield running


async def opened(browser: playwright.async_api.Browser, server: Server, **options: Any) -> Console:
    """Open the console, and wait until it is live, or asks for a token."""
    console = Console(await browser.new_page(**options))
    await console.page.goto(f"{server.url}/")
    await becomes(console.page, "['live', 'closed'].includes(document.body.dataset.state)")
    return console


async def followed(server: Server) -> None:
    """Wait until the console's subscriber is there."""
    await until(lambda: server.broadcaster.client_count == 1)


async def test_an_empty_server_is_told_and_lights_up(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """It shows two lines for curl, and then the first event."""
    console = await opened(browser, server)
    await becomes(console.page, "!document.getElementById('welcome').hidden")
    assert await console.text("curl-subscribe") == f"curl -N {server.url}/events"
    assert await console.text("curl-publish") == f"curl -d hello {server.url}/send"
    await followed(server)
    await publish(server, "default", "hello")
    await becomes(console.page, "document.getElementById('welcome').hidden")
    await console.shows("first-text", "On default: hello")
    await console.shows("busiest", "default")
    assert console.faults == []


async def test_it_costs_one_subscriber_and_one_status_stream(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """However its views are looked at; and nothing when it is closed."""
    console = await opened(browser, server)
    await followed(server)
    for view in VIEWS:
        await console.go(view)
        assert server.broadcaster.client_count == 1
        assert len(server.app[STATUS_STREAMS]) == 1
    await console.page.close()
    await until(lambda: server.broadcaster.client_count == 0 and not server.app[STATUS_STREAMS])


async def test_it_asks_nobody_but_its_server(server: Server, browser: playwright.async_api.Browser) -> None:
    """One document brings all of it; no policy is violated in any view."""
    console = await opened(browser, server)
    for view in VIEWS:
        await console.go(view)
    await becomes(console.page, "document.getElementById('settings').children.length > 0")
    asked = {url.removeprefix(server.url).partition("?")[0] for url in console.requested}
    assert {url for url in asked if not url.startswith("data:")} == {
        "/",
        "/status",
        "/events",
        "/channels",
        "/subscribers",
        "/config",
    }
    assert console.faults == []


ATTACKS = (
    '<img src=x onerror="hacked()">',
    "<script>hacked()</script>",
    '"><svg onload=hacked()>',
    "javascript:hacked()",
    "${hacked()}{{hacked()}}",
    "</style></script><script>hacked()</script>",
    "\u202ehacked()\u2028hacked()",
)


async def test_what_publishers_and_clients_say_is_text(
    serve: Serve, connect: Connect, browser: playwright.async_api.Browser
) -> None:
    """Data, types and ids of events, channels and callers: nothing is markup anywhere, in any view."""
    server = await serve()
    console = await opened(browser, server)
    await console.page.evaluate("void (window.hacked = () => { window.owned = true; })")
    await followed(server)
    before = await console.page.evaluate("document.querySelectorAll('img, script, iframe, object').length")
    await console.go("stream")
    for number, attack in enumerate(ATTACKS):
        await server.broadcaster.publish(Event(attack, f"x{attack}", id=f"id-{number}"), [f"a~{number}"])
        await server.broadcaster.publish(Event(json.dumps({attack: attack}), json=True), ["json"])
        await becomes(console.page, f"document.querySelectorAll('#events li').length === {2 * number + 2}")
    reader = await connect(server)
    await reader.subscribe(path="/events/a~1?event=%3Cimg%20src=x%20onerror=hacked()%3E")
    shown = await console.text("events")
    for attack in ATTACKS:
        assert attack in shown
    for row in await console.page.locator("#events button").all():
        await row.click()
    for view in VIEWS:
        await console.go(view)
    await console.go("publish")
    await console.page.fill("#p-channel", '"><img src=x onerror=hacked()>')
    await console.page.fill("#p-data", ATTACKS[0])
    await console.page.click("#p-send")
    await console.shows("p-result", "Not published: channel: must not contain")
    after = await console.page.evaluate("document.querySelectorAll('img, script, iframe, object').length")
    assert (before, after) == (1, 1)
    assert await console.page.evaluate("window.owned") is None
    assert console.faults == []


async def test_the_curl_line_of_an_event_publishes_it_again(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """Quoted for a shell, whatever is in it; with the type, and as JSON what was JSON."""
    console = await opened(browser, server)
    await followed(server)
    await server.broadcaster.publish(Event("it's $HOME; `id`"), ["a"])
    await server.broadcaster.publish(Event('{"n": 12345}', "price", json=True), ["b"])
    await console.go("stream")
    await becomes(console.page, "document.querySelectorAll('#events li').length === 2")
    lines = []
    for row in await console.page.locator("#events button").all():
        await row.click()
        lines.append(await console.page.evaluate("document.querySelector('#detail .curl code').textContent"))
    typed = '{"data":{"n":12345},"event":"price"}'
    assert lines == [
        f"curl -H \"Content-Type: application/json\" --data-raw '{typed}' {server.url}/send/b",
        f"curl --data-raw 'it'\\''s $HOME; `id`' {server.url}/send/a",
    ]


async def test_the_stream_is_picked_filtered_and_paused(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    console = await opened(browser, server)
    await followed(server)
    await console.go("stream")
    await console.page.fill("#follow", "orders.*, news")
    await console.page.keyboard.press("Enter")
    await until(
        lambda: (
            [each.subscriber.selector.channels for each in outboxes_of(server.broadcaster)]
            == [("news", "orders.*")]
        )
    )
    await console.page.fill("#filter", "WANTED")
    await publish(server, "other", "wanted elsewhere")
    await publish(server, "news", "not this")
    await publish(server, "orders.1", "wanted here")
    await console.shows("events", "wanted here")
    assert await console.page.evaluate("document.querySelectorAll('#events li').length") == 1
    await console.page.click("#pause")
    await publish(server, "news", "wanted meanwhile")
    await console.page.evaluate("new Promise((done) => setTimeout(done, 600))")
    await console.page.click("#pause")
    await publish(server, "news", "wanted after")
    await console.shows("events", "wanted after")
    assert "meanwhile" not in await console.text("events")


async def test_an_event_is_published_by_hand(server: Server, browser: playwright.async_api.Browser) -> None:
    """JSON is checked first, and sent as it was written."""
    console = await opened(browser, server)
    await followed(server)
    await console.go("publish")
    await console.page.fill("#p-channel", "orders")
    await console.page.fill("#p-type", "order")
    await console.page.fill("#p-key", "seven")
    await console.page.check("#p-json")
    await console.page.fill("#p-data", '{"order": 7,}')
    await console.shows("p-check", "This is no JSON")
    await console.page.click("#p-send")
    assert server.broadcaster.counts.published == 0
    await console.page.fill("#p-data", '{"order": 12345678901234567890}')
    await console.page.click("#p-send")
    await console.shows("p-result", "to 1 subscriber.")
    stream = server.broadcaster.subscribe("orders", since="earliest")
    received = await anext(stream)
    await stream.aclose()
    assert (received.event, received.data) == ("order", '{"order":12345678901234567890}')


async def test_a_subscriber_is_disconnected_after_a_question(
    server: Server, connect: Connect, browser: playwright.async_api.Browser
) -> None:
    reader = await connect(server)
    await reader.subscribe(path="/events/slow")
    console = await opened(browser, server)
    await console.go("subscribers")
    await console.shows("subscriber-rows", "slow")
    button = console.page.get_by_role("button", name="Disconnect 1", exact=True)
    await button.focus()
    await console.page.keyboard.press("Enter")
    await console.page.get_by_role("button", name="Keep").click()
    assert server.broadcaster.counts.closed == {}
    await button.click()
    await console.page.get_by_role("button", name="Disconnect", exact=True).first.click()
    assert [event.type for event in await reader.events(1)] == ["$close"]
    await until(lambda: server.broadcaster.counts.closed == {CloseReason.DISCONNECTED: 1})


async def test_channels_are_listed_in_pages(server: Server, browser: playwright.async_api.Browser) -> None:
    """By name a hundred at a time, and the busiest first."""
    console = await opened(browser, server)
    await followed(server)
    for number in range(250):
        await publish(server, f"c{number:03}", "x")
    await publish(server, "c123", *"yz")
    await console.go("channels")
    first = "document.querySelector('#channel-rows td')?.textContent"
    await becomes(console.page, f"{first} === 'c123'")
    await console.page.select_option("#order", "name")
    await becomes(console.page, f"{first} === 'c000'")
    await console.page.click("#next-page")
    await becomes(console.page, f"{first} === 'c100'")
    await console.page.fill("#prefix", "c24")
    await becomes(console.page, "document.querySelectorAll('#channel-rows tr').length === 10")


async def test_the_configuration_is_shown_without_secrets(
    serve: Serve, browser: playwright.async_api.Browser
) -> None:
    server = await serve(token=TOKEN, queue_size=77)
    console = await opened(browser, server)
    await sign_in(console, TOKEN)
    await console.go("config")
    await console.shows("settings", "queue_size")
    await console.page.check("#changed")
    rows = await console.page.locator("#settings tr").all_inner_texts()
    cells = {row.split("\t")[0].strip(): [cell.strip() for cell in row.split("\t")] for row in rows}
    assert cells["queue_size"][1:3] == ["77", "program"]
    assert cells["token"][1] == "(not shown)"
    assert TOKEN not in await console.page.content()


async def sign_in(console: Console, token: str, *, keep: bool = False) -> None:
    await becomes(console.page, "!document.getElementById('gate').hidden")
    await console.page.fill("#token", token)
    if keep:
        await console.page.check("#keep")
    await console.page.keyboard.press("Enter")


async def test_a_token_is_asked_for_kept_and_forgotten(
    serve: Serve, browser: playwright.async_api.Browser
) -> None:
    """In memory, or until the tab is closed; never in a URL, and not behind "Forget"."""
    server = await serve(token=TOKEN)
    console = await opened(browser, server)
    assert await console.text("gate-title") == "This server asks for a token"
    await sign_in(console, "wrong-token-of-some-length")
    await becomes(console.page, "document.getElementById('gate-title').textContent.includes('not good')")
    await sign_in(console, TOKEN)
    await becomes(console.page, "document.body.dataset.state === 'live'")
    await followed(server)
    await console.page.reload()
    await becomes(console.page, "document.body.dataset.state === 'closed'")
    await sign_in(console, TOKEN, keep=True)
    await becomes(console.page, "document.body.dataset.state === 'live'")
    await console.page.reload()
    await becomes(console.page, "document.body.dataset.state === 'live'")
    assert not [url for url in console.requested if TOKEN in url]
    await console.page.get_by_role("button", name="Forget token").click()
    await becomes(console.page, "document.body.dataset.state === 'closed'")
    assert await console.page.evaluate("sessionStorage.length + localStorage.length") == 0
    await until(lambda: server.broadcaster.client_count == 0)


async def test_it_says_what_a_token_may_not_do(serve: Serve, browser: playwright.async_api.Browser) -> None:
    """Without `inspect` nothing is shown; without `admin` and `subscribe` the rest is."""
    callers = (
        CallerRule(name="shop", token="s" * 40, subscribe=("*",)),
        CallerRule(name="watch", token="w" * 40, inspect=("*",)),
    )
    server = await serve(token=TOKEN, caller=callers)
    console = await opened(browser, server)
    await sign_in(console, "s" * 40)
    await console.shows("gate-title", "This token may not inspect")
    await sign_in(console, "w" * 40)
    await becomes(console.page, "document.body.dataset.state === 'live'")
    await console.go("config")
    await console.shows("config-note", "Not for this token: admin '*'")
    await console.go("stream")
    await console.shows("sampled", "No events: subscribe: the token does not allow it")


async def test_a_server_that_is_gone_is_told_and_comes_back(browser: playwright.async_api.Browser) -> None:
    first = Server(Config(port=0, shutdown_timeout=4))
    await first.start()
    port = first.port
    console = await opened(browser, first)
    await first.stop()
    await becomes(console.page, "document.body.dataset.state === 'gone'")
    await console.shows("banner", "The server does not answer")
    second = Server(Config(port=port, shutdown_timeout=4))
    await second.start()
    try:
        await becomes(console.page, "document.body.dataset.state === 'live'")
        assert await console.text("banner") == ""
        await until(lambda: second.broadcaster.client_count == 1)
    finally:
        await second.stop()


async def violations(console: Console) -> list[str]:
    """Return what axe-core finds, with where."""
    found = await console.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{each['id']}: {node['html'][:120]}" for each in found["violations"] for node in each["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_axe_finds_nothing(
    server: Server, connect: Connect, browser: playwright.async_api.Browser, scheme: str, width: int
) -> None:
    """In each view, empty and with events, a subscriber and a question; nor is any wider than a phone."""
    if not AXE.is_file():
        missing("the packages of npm are not installed: npm ci --prefix tests/clients")
    console = await opened(
        browser,
        server,
        color_scheme=scheme,
        viewport={"width": width, "height": 844},
        reduced_motion="reduce",
        bypass_csp=True,
    )
    await console.page.add_script_tag(content=AXE.read_text())
    assert await violations(console) == []
    await followed(server)
    await publish(server, "default", "hello")
    await server.broadcaster.publish(Event('{"a": 1}', "price", json=True), ["prices"])
    reader = await connect(server)
    await reader.subscribe(path="/events/news")
    await console.shows("first-text", "hello")
    for view in VIEWS:
        await console.go(view)
        if view == "stream":
            await console.page.locator("#events button").first.click()
        if view == "subscribers":
            await console.shows("subscriber-rows", "news")
        if view == "config":
            await console.shows("settings", "queue_size")
        assert await violations(console) == [], view
        assert await console.page.evaluate("document.documentElement.scrollWidth") <= width, view
    await console.go("subscribers")
    await console.page.get_by_role("button", name=re.compile("Disconnect 2")).click()
    assert await violations(console) == []


async def test_axe_finds_nothing_where_a_token_is_asked_for(
    serve: Serve, browser: playwright.async_api.Browser
) -> None:
    if not AXE.is_file():
        missing("the packages of npm are not installed: npm ci --prefix tests/clients")
    server = await serve(token=TOKEN)
    console = await opened(browser, server, bypass_csp=True)
    await console.page.add_script_tag(content=AXE.read_text())
    assert await violations(console) == []
    await sign_in(console, "wrong-token-of-some-length")
    await becomes(console.page, "document.getElementById('gate-title').textContent.includes('not good')")
    assert await violations(console) == []


async def test_a_page_is_soon_there(server: Server, browser: playwright.async_api.Browser) -> None:
    """One response of a few kilobytes, behind which the first paint waits for nothing."""
    console = await opened(browser, server)
    entry = await console.page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    assert entry["encodedBodySize"] == page_file().transferred_bytes < 61_440
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    await becomes(console.page, f"{paint} > 0")
