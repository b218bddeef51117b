"""GET /client.js in Chromium: one stream for all tabs, and nothing missed or repeated, whatever happens."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import playwright.async_api
import pytest

from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.event import Event
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.runner import Server
from tests.conftest import Program, Serve
from tests.support.browser import Page, chromium, publish, wait_for
from tests.support.internals import outboxes_of
from tests.support.proxy import Proxy
from tests.support.sockets import until

TOKEN = "a-token-of-forty-characters-at-the-least"

PAGE = """<!doctype html><title>tab</title><script type="module">
import { subscribe } from "/client.js";
window.seen = [];
window.opened = 0;
window.start = (options) => {
  window.subscription = subscribe("/events", {
    onopen: () => { window.opened += 1; },
    onevent: (event) => seen.push(["event", event.data]),
    onreset: (loss) => seen.push(["reset", loss.reason]),
    onclose: (end) => seen.push(["close", end.reason]),
    onerror: (failure) => seen.push(["error", failure.status]),
    ...options,
  });
};
window.data = () => seen.filter(([name]) => name === "event").map(([, data]) => data);
window.told = (name) => seen.filter(([kind]) => kind === name).map(([, value]) => value);
window.ready = true;
</script>"""


class Tabs:
    """Tabs of one browser profile, all with the page, as if the server had served it."""

    def __init__(self, context: playwright.async_api.BrowserContext, url: str) -> None:
        self.context = context
        self.url = url

    async def open(self, options: str = "{}") -> playwright.async_api.Page:
        """Open a tab that subscribes with these options, and wait until its channels are carried."""
        page = await self.context.new_page()
        await self.load(page)
        await page.evaluate(f"start({options})")
        await wait_for(page, "opened > 0")
        return page

    async def load(self, page: playwright.async_api.Page) -> None:
        """Load the page, again or for the first time."""
        await page.goto(f"{self.url}/page")
        await wait_for(page, "window.ready")


@pytest.fixture
async def browser(program: Program) -> AsyncIterator[playwright.async_api.Browser]:
    async with chromium(program) as running:
        yield running


async def tabs_at(browser: playwright.async_api.Browser, url: str) -> Tabs:
    """Return a new profile whose pages come from an origin."""
    context = await browser.new_context()

    async def serve_page(route: playwright.async_api.Route) -> None:
        await route.fulfill(body=PAGE, content_type="text/html; charset=utf-8")

    await context.route(f"{url}/page", serve_page)
    return Tabs(context, url)


async def data(page: Page, count: int) -> list[Any]:
    """Return the data of all events that a tab has, once they are as many."""
    await wait_for(page, f"data().length >= {count}")
    found: list[Any] = await page.evaluate("data()")
    return found


async def leader(pages: Sequence[playwright.async_api.Page]) -> playwright.async_api.Page:
    """Return the tab that holds the lock."""
    held = "navigator.locks.query().then(({ held }) => held.map((lock) => lock.clientId))"
    (holder,) = await pages[0].evaluate(held)
    own = """navigator.locks.request(String(Math.random()), async (lock) =>
      (await navigator.locks.query()).held.find((each) => each.name === lock.name).clientId)"""
    for page in pages:
        if await page.evaluate(own) == holder:
            return page
    raise AssertionError("no tab leads")


def streams(server: Server) -> int:
    return server.broadcaster.client_count


async def test_ten_tabs_share_one_connection(server: Server, browser: playwright.async_api.Browser) -> None:
    """Each sees every event of its channels, once and in order, and none of another's."""
    tabs = await tabs_at(browser, server.url)
    pages = [await tabs.open(f'{{channels: ["all", "own.{number}"]}}') for number in range(10)]
    await until(lambda: streams(server) == 1)
    for number in range(20):
        await publish(server, "all", f"all {number}")
        await publish(server, f"own.{number % 10}", f"own {number}")
    await publish(server, "all", "end")
    for number, page in enumerate(pages):
        own = [f"own {each}" for each in (number, number + 10)]
        found = await data(page, 23)
        assert [each for each in found if each.startswith("all")] == [f"all {each}" for each in range(20)]
        assert [each for each in found if each.startswith("own")] == own
        assert found[-1] == "end"
    assert streams(server) == 1


async def test_an_event_of_several_channels_reaches_the_tabs_of_each(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """Once, under the channel that the tab follows; by its name or by a pattern."""
    tabs = await tabs_at(browser, server.url)
    named = "onevent: (event) => seen.push(['event', [event.channel, event.data]])"
    pages = [await tabs.open(f'{{channels: ["{name}"], {named}}}') for name in ("a", "b", "c.*", "x")]
    await server.broadcaster.publish(Event("one"), ["a", "b", "c.1", "d"])
    await publish(server, "x", "end")
    assert await data(pages[3], 1) == [["x", "end"]]
    for page, name in zip(pages, ("a", "b", "c.1"), strict=False):
        assert await data(page, 1) == [[name, "one"]]


async def test_line_separators_of_unicode_end_no_line(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """U+2028 ends a line for regular expressions of JavaScript; what follows it is data, and no field."""
    tabs = await tabs_at(browser, server.url)
    page = await tabs.open('{channels: "news"}')
    text = 'a\u2028id: 1\u2029data: {"channel": "news"}: \x85 b'
    await publish(server, "news", text, "after")
    assert await data(page, 2) == [text, "after"]


async def rounds(server: Server, pages: Sequence[Page], sent: list[str], label: str) -> None:
    """Publish some events, and wait until each tab has all that were sent so far, once and in order."""
    sent += [f"{label} {number}" for number in range(5)]
    await publish(server, "news", *sent[-5:])
    for page in pages:
        assert await data(page, len(sent)) == sent


async def test_nothing_is_missed_or_repeated_while_leaders_change(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """The leader is closed, frozen and set offline, in turn, with events before, meanwhile and after."""
    async with Proxy(server.port) as proxy:
        tabs = await tabs_at(browser, f"http://127.0.0.1:{proxy.port}")
        pages = [await tabs.open('{channels: "news"}') for _ in range(10)]
        sent: list[str] = []
        await rounds(server, pages, sent, "first")
        for turn in range(3):
            first = await leader(pages)
            pages.remove(first)
            await first.close()
            await rounds(server, pages, sent, f"closed {turn}")

            frozen = await leader(pages)
            session = await tabs.context.new_cdp_session(frozen)
            await session.send("Page.setWebLifecycleState", {"state": "frozen"})
            others = [page for page in pages if page is not frozen]
            await rounds(server, others, sent, f"frozen {turn}")
            await session.send("Page.setWebLifecycleState", {"state": "active"})
            assert await data(frozen, len(sent)) == sent

            await tabs.context.set_offline(True)
            await until(lambda: streams(server) == 0)
            sent.append(f"offline {turn}")
            await publish(server, "news", sent[-1])
            await tabs.context.set_offline(False)
            await rounds(server, pages, sent, f"online {turn}")

            proxy.cut()
            await until(lambda: streams(server) == 0)
            sent.append(f"cut {turn}")
            await publish(server, "news", sent[-1])
            await proxy.restore()
            await rounds(server, pages, sent, f"restored {turn}")
        assert streams(server) == 1
        for page in pages:
            assert await page.evaluate('told("reset")') == []


async def test_a_restart_is_survived_and_told(browser: playwright.async_api.Browser) -> None:
    """Each tab is told once that the stream closed and that the history is lost, and goes on."""
    first = Server(Config(port=0, retry=500, shutdown_timeout=4))
    await first.start()
    port = first.port
    tabs = await tabs_at(browser, first.url)
    pages = [await tabs.open('{channels: "news"}') for _ in range(10)]
    await publish(first, "news", "before")
    for page in pages:
        await data(page, 1)
    await first.stop()
    second = Server(Config(port=port, shutdown_timeout=4))
    await second.start()
    try:
        await until(lambda: streams(second) == 1)
        await publish(second, "news", "after")
        for page in pages:
            assert await data(page, 2) == ["before", "after"]
            assert await page.evaluate('told("reset")') == ["epoch"]
            assert await page.evaluate('told("close")') == ["drain"]
    finally:
        await second.stop()


async def test_a_page_goes_on_where_the_last_one_ended(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """Alone, or beside a tab that follows the same; what came between two pages is there, once."""
    tabs = await tabs_at(browser, server.url)
    page = await tabs.open('{channels: "news"}')
    await publish(server, "news", "one")
    await data(page, 1)
    await page.goto("about:blank")
    await until(lambda: streams(server) == 0)
    await publish(server, "news", "two")
    await tabs.load(page)
    await page.evaluate('start({channels: "news"})')
    assert await data(page, 1) == ["two"]

    other = await tabs.open('{channels: "news"}')
    await page.goto("about:blank")
    await publish(server, "news", "three")
    assert await data(other, 1) == ["three"]
    await tabs.load(page)
    await page.evaluate('start({channels: "news"})')
    await publish(server, "news", "four")
    assert await data(page, 2) == ["three", "four"]
    assert await data(other, 2) == ["three", "four"]


async def test_a_page_begins_behind_its_snapshot(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """With the id of a publish, or of what the page was made of."""
    tabs = await tabs_at(browser, server.url)
    await publish(server, "news", "in the snapshot")
    id = server.broadcaster.cursor
    await publish(server, "news", "behind it")
    page = await tabs.open(f'{{channels: "news", lastEventId: "{id}"}}')
    assert await data(page, 1) == ["behind it"]


async def test_events_with_the_publishers_own_ids_come_once(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """They say nothing of their order; they are known again after a cut, and an id may be used twice."""
    async with Proxy(server.port) as proxy:
        tabs = await tabs_at(browser, f"http://127.0.0.1:{proxy.port}")
        page = await tabs.open('{channels: "news"}')
        for text in ("one", "two"):
            await server.broadcaster.publish(Event(text, id="price"), ["news"])
        assert await data(page, 2) == ["one", "two"]
        proxy.cut()
        await until(lambda: streams(server) == 0)
        await server.broadcaster.publish(Event("three", id="price"), ["news"])
        await proxy.restore()
        assert await data(page, 3) == ["one", "two", "three"]


GUEST = "g" * 40


async def test_a_token_is_renewed_before_it_expires(
    serve: Serve, browser: playwright.async_api.Browser
) -> None:
    """The callback gives another in time; the page sees no end and misses nothing."""
    server = await serve(token=TOKEN, token_lifetime=3600)
    tabs = await tabs_at(browser, server.url)
    mint = f"""async () => {{
      window.minted = (window.minted ?? 0) + 1;
      const answer = await fetch("/tokens", {{
        method: "POST",
        headers: {{ Authorization: "Bearer {TOKEN}", "Content-Type": "application/json" }},
        body: JSON.stringify({{ grants: {{ subscribe: ["*"] }}, lifetime: 5 }}),
      }});
      return answer.json();
    }}"""
    page = await tabs.open(f'{{channels: "news", token: {mint}}}')
    await wait_for(page, "minted >= 2")
    await wait_for(page, "opened >= 2")
    await publish(server, "news", "after")
    assert await data(page, 1) == ["after"]
    assert await page.evaluate('told("close")') == []
    assert await page.evaluate('told("error")') == []


async def test_a_token_is_renewed_after_a_401(serve: Serve, browser: playwright.async_api.Browser) -> None:
    """The callback is told that the last one was rejected."""
    server = await serve(token=TOKEN)
    tabs = await tabs_at(browser, server.url)
    ask = f'({{ rejected }}) => (seen.push(["asked", rejected]), rejected ? "{TOKEN}" : "wrong-token")'
    page = await tabs.open(f'{{channels: "news", token: {ask}}}')
    assert await page.evaluate('told("asked")') == [False, True]
    await publish(server, "news", "here")
    assert await data(page, 1) == ["here"]


async def test_tabs_of_different_users_share_nothing(
    serve: Serve, browser: playwright.async_api.Browser
) -> None:
    """Each user's token is for that user's stream alone."""
    server = await serve(token=TOKEN, caller=(CallerRule(name="guest", token=GUEST, subscribe=("public",)),))
    tabs = await tabs_at(browser, server.url)
    owner = await tabs.open(f'{{channels: "*", user: "owner", token: () => "{TOKEN}"}}')
    guest = await tabs.open(f'{{channels: "public", user: "guest", token: () => "{GUEST}"}}')
    await until(lambda: streams(server) == 2)
    await publish(server, "private", "secret")
    await publish(server, "public", "open")
    assert await data(owner, 2) == ["secret", "open"]
    assert await data(guest, 1) == ["open"]


async def test_a_forbidden_channel_harms_only_who_asked_for_it(
    serve: Serve, browser: playwright.async_api.Browser
) -> None:
    """That subscription is told and ends; others of the same user, before and after it, go on."""
    server = await serve(token=TOKEN, caller=(CallerRule(name="guest", token=GUEST, subscribe=("public",)),))
    tabs = await tabs_at(browser, server.url)
    good = await tabs.open(f'{{channels: "public", token: () => "{GUEST}"}}')
    bad = await tabs.context.new_page()
    await tabs.load(bad)
    await bad.evaluate(f'start({{channels: "private", token: () => "{GUEST}"}})')
    await wait_for(bad, 'told("error").includes(403)')
    also = await tabs.open(f'{{channels: "public", token: () => "{GUEST}"}}')
    await publish(server, "public", "open")
    assert await data(good, 1) == ["open"]
    assert await data(also, 1) == ["open"]
    assert await good.evaluate('told("error")') == []


async def test_who_leads_with_a_forbidden_channel_makes_way(
    serve: Serve, browser: playwright.async_api.Browser
) -> None:
    """The first tab asks for what it may not have; the second gets its own all the same."""
    server = await serve(token=TOKEN, caller=(CallerRule(name="guest", token=GUEST, subscribe=("public",)),))
    tabs = await tabs_at(browser, server.url)
    bad = await tabs.context.new_page()
    await tabs.load(bad)
    await bad.evaluate(f'start({{channels: "private", token: () => "{GUEST}"}})')
    good = await tabs.open(f'{{channels: "public", token: () => "{GUEST}"}}')
    await publish(server, "public", "open")
    assert await data(good, 1) == ["open"]
    await wait_for(bad, 'told("error").includes(403)')


async def test_a_connection_that_is_half_open_is_noticed(
    serve: Serve, browser: playwright.async_api.Browser
) -> None:
    """Nothing comes, not even a heartbeat: the helper connects again, and has what it missed."""
    server = await serve(heartbeat=0.2)
    async with Proxy(server.port) as proxy:
        tabs = await tabs_at(browser, f"http://127.0.0.1:{proxy.port}")
        page = await tabs.open('{channels: "news"}')
        proxy.swallow()
        await publish(server, "news", "swallowed")
        assert await data(page, 1) == ["swallowed"]
        assert await page.evaluate("opened") >= 2
        assert await page.evaluate('told("error")') == []


async def test_a_close_is_told_and_the_stream_goes_on(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    tabs = await tabs_at(browser, server.url)
    pages = [await tabs.open('{channels: "news"}') for _ in range(2)]
    server.broadcaster.end(next(iter(outboxes_of(server.broadcaster))), CloseReason.DISCONNECTED)
    for page in pages:
        await wait_for(page, 'told("close")[0] === "disconnected"')
    await publish(server, "news", "after")
    for page in pages:
        assert await data(page, 1) == ["after"]


async def test_a_subscription_that_is_closed_hears_nothing_more(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """Neither does the server have anything of it."""
    tabs = await tabs_at(browser, server.url)
    page = await tabs.open('{channels: "news"}')
    await page.evaluate("subscription.close()")
    await until(lambda: streams(server) == 0)


async def test_an_exception_of_the_page_is_the_pages_own(
    server: Server, browser: playwright.async_api.Browser
) -> None:
    """It does not end the stream for the other tabs."""
    tabs = await tabs_at(browser, server.url)
    broken = await tabs.open('{channels: "news", onevent: () => { throw new Error("mine"); }}')
    sound = await tabs.open('{channels: "news"}')
    thrown: list[str] = []
    broken.on("pageerror", lambda error: thrown.append(error.message))
    await publish(server, "news", "one", "two")
    assert await data(sound, 2) == ["one", "two"]
    await until(lambda: thrown == ["mine", "mine"])
    assert streams(server) == 1
