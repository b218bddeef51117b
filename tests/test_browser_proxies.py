"""The proxy configurations of `docs/deploy`, with the real proxies between a server and Chromium."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from sse_broadcast.config.schema import Config
from sse_broadcast.server.runner import Server
from tests.conftest import Program, Serve
from tests.support import fronts as front_support
from tests.support import process
from tests.support.browser import chromium, publish, shown, wait_for
from tests.support.fronts import CUTTING, HASTY, OVER_1_1, Fronts
from tests.support.proxy_kinds import APACHE, CADDY, HAPROXY, NGINX, Kind
from tests.support.sockets import until

EACH = pytest.mark.parametrize("kind", [NGINX, CADDY], ids=str)

STREAMS = 20
RETRY = 100

PAGE = """
<!doctype html><title>streams</title><script>
const seen = {}, sources = {};
let opened = 0, lost = 0;
function follow(channel) {
  const source = sources[channel] = new EventSource("/events/" + channel);
  seen[channel] = [];
  source.onopen = () => { opened += 1; };
  source.onerror = () => { lost += 1; };
  for (const type of ["message", "$reset"])
    source.addEventListener(type, event => seen[channel].push(
      type === "message" ? event.data : JSON.parse(event.data).reason));
}
const all = state => Object.values(sources).every(source => source.readyState === state);
</script>
"""

SETTINGS: Mapping[str, Any] = {
    "anonymous_subscribe": ("*",),
    "trusted_proxies": ("127.0.0.1",),
    "retry": RETRY,
}

programs = pytest.fixture(process.programs)
fronts = pytest.fixture(front_support.fronts)


@pytest.fixture
async def browser(program: Program) -> AsyncIterator[Browser]:
    async with chromium(program, "--ignore-certificate-errors") as browser:
        yield browser


async def page_with(browser: Browser, url: str, *channels: str) -> Page:
    """Open a page that subscribes to channels, each by a stream of its own."""
    page = await shown(browser, url, PAGE)
    await page.evaluate("channels => channels.forEach(follow)", list(channels))
    return page


async def seen(page: Page, channel: str, last: str) -> list[str]:
    """Return all events of a stream once the last one has come."""
    await wait_for(page, f"seen[{json.dumps(channel)}].includes({json.dumps(last)})")
    events: list[str] = await page.evaluate(f"seen[{json.dumps(channel)}]")
    return events


@pytest.mark.parametrize(
    ("kind", "streams"), [(NGINX, STREAMS), (CADDY, STREAMS), (HAPROXY, STREAMS), (APACHE, 6)], ids=str
)
async def test_a_page_has_many_streams_at_once(
    serve: Serve, fronts: Fronts, browser: Browser, kind: Kind, streams: int
) -> None:
    """They are over HTTP/2. Each gets its own events, and a closed one is released while others go on."""
    server = await serve(**SETTINGS, heartbeat=15 if kind.can.notices_leaving else 0.1)
    front = await fronts.put(kind, server.port)
    channels = [f"stream-{number}" for number in range(streams)]
    page = await page_with(browser, front.url, *channels)
    await wait_for(page, f"opened === {streams} && all(EventSource.OPEN)")
    assert server.broadcaster.client_count == streams
    for channel in channels:
        await publish(server, channel, f"for {channel}")
    for channel in channels:
        assert await seen(page, channel, f"for {channel}") == [f"for {channel}"]
    await page.evaluate(f"sources[{json.dumps(channels[0])}].close()")
    await until(lambda: server.broadcaster.client_count == streams - 1)
    await publish(server, channels[1], "more")
    assert await seen(page, channels[1], "more") == [f"for {channels[1]}", "more"]
    assert await page.evaluate("[opened, lost]") == [streams, 0]


@EACH
async def test_a_page_has_six_streams_over_http_1_1(
    serve: Serve, fronts: Fronts, browser: Browser, kind: Kind
) -> None:
    """The seventh waits until one of them is closed."""
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port, OVER_1_1[kind.program])
    channels = [f"stream-{number}" for number in range(STREAMS)]
    page = await page_with(browser, front.url, *channels)
    for closed in range(5):
        await wait_for(page, f"opened === {6 + closed}")
        await until(lambda: server.broadcaster.client_count == 6)
        await publish(server, f"stream-{closed}", "hello")
        assert await seen(page, f"stream-{closed}", "hello") == ["hello"]
        assert server.broadcaster.counts.opened == await page.evaluate("opened") == 6 + closed
        await page.evaluate(f"sources[{json.dumps(channels[closed])}].close()")


@EACH
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_page_continues_after_an_outage_of_its_proxy(
    serve: Serve, fronts: Fronts, browser: Browser, kind: Kind, how: str
) -> None:
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port, CUTTING.get(kind.program))
    page = await page_with(browser, front.url, "busy", "quiet")
    await wait_for(page, "opened === 2")
    expected = []
    for time in range(2):
        await publish(server, "busy", f"live {time}")
        await seen(page, "busy", f"live {time}")
        await (front.stop() if how == "stop" else front.kill())
        await wait_for(page, "all(EventSource.CONNECTING)")
        await until(lambda: server.broadcaster.client_count == 0)
        away = [f"away {time} {number}" for number in range(20)]
        await publish(server, "busy", *away)
        await front.start()
        expected += [f"live {time}", *away]
        assert await seen(page, "busy", expected[-1]) == expected
    await publish(server, "quiet", "end")
    assert await seen(page, "quiet", "end") == ["end"]
    assert server.broadcaster.counts.resets == {}


@EACH
async def test_a_page_continues_after_an_outage_of_the_server(
    fronts: Fronts, browser: Browser, kind: Kind
) -> None:
    """It may be of any length: the page gets no error that stops its EventSource."""
    first = Server(Config(port=0, shutdown_timeout=4, **SETTINGS))
    await first.start()
    end = ";" if kind is NGINX else "\n"
    soon = {f" {wait}{end}": f" {RETRY}{end}" for wait in (2000, 3000, 4000, 5000)}
    front = await fronts.put(kind, first.port, {**soon, **HASTY.get(kind.program, {})})
    page = await page_with(browser, front.url, "busy")
    await wait_for(page, "opened === 1")
    await publish(first, "busy", "before")
    await seen(page, "busy", "before")
    port = first.port
    await first.stop()
    # It is told to reconnect, does so, and is told again.
    await wait_for(page, "opened >= 4 && lost >= 4")
    second = Server(Config(port=port, shutdown_timeout=4, **SETTINGS))
    await second.start()
    try:
        await until(lambda: second.broadcaster.client_count == 1)
        await publish(second, "busy", "after")
        assert await seen(page, "busy", "after") == ["before", "epoch", "after"]
    finally:
        await second.stop()


@EACH
async def test_a_page_misses_nothing_when_its_proxy_is_reloaded(
    serve: Serve, fronts: Fronts, browser: Browser, kind: Kind
) -> None:
    """Over HTTP/2 the proxy ends the connection with GOAWAY."""
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    page = await page_with(browser, front.url, "busy")
    await wait_for(page, "opened === 1")
    expected: list[str] = []
    for time in range(3):
        expected += [f"before {time}", f"after {time}"]
        await publish(server, "busy", f"before {time}")
        await front.reload()
        await publish(server, "busy", f"after {time}")
        assert await seen(page, "busy", f"after {time}") == expected
    assert server.broadcaster.counts.resets == {}
