"""EventSource of a browser after a lost network or a restarted server."""

import asyncio
import json

import pytest

from sse_broadcast.config.schema import Config
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import process
from tests.support.browser import Browser, Page, publish, wait_for
from tests.support.process import Programs, Serving
from tests.support.proxy import Proxy
from tests.support.sockets import PATIENCE, RawClient, until

PAGE = """
<!doctype html><title>resume</title><script>
const seen = {busy: [], quiet: []}, opened = {busy: 0, quiet: 0}, sources = {};
for (const channel of ["busy", "quiet"]) {
  const source = sources[channel] = new EventSource("/events/" + channel);
  source.onopen = () => { opened[channel] += 1; };
  for (const type of ["message", "$reset", "$close"])
    source.addEventListener(type, event => seen[channel].push(
      [type, type === "message" ? event.data : JSON.parse(event.data).reason]));
}
</script>
"""

RETRY = 100

programs = pytest.fixture(process.programs)


async def open_page(browser: Browser, url: str) -> Page:
    page = await browser.show(url, PAGE)
    await both_open(page, 1)
    return page


async def both_open(page: Page, times: int) -> None:
    await wait_for(page, f"opened.busy >= {times} && opened.quiet >= {times}")


async def both_lost(page: Page) -> None:
    await wait_for(
        page, "Object.values(sources).every(source => source.readyState === EventSource.CONNECTING)"
    )


async def seen(page: Page, channel: str, last: str) -> list[list[str]]:
    """Return all events of a channel's source once the last one has come."""
    await wait_for(page, f"seen.{channel}.some(event => event[1] === {json.dumps(last)})")
    async with asyncio.timeout(PATIENCE):  # playwright has no API for this.
        events: list[list[str]] = await page.evaluate(f"seen.{channel}")
    return events


def messages(*data: str) -> list[list[str]]:
    return [["message", each] for each in data]


async def test_an_event_source_resumes_after_network_outages(serve: Serve, browser: Browser) -> None:
    """It gets all events once over many of them, also of a new channel."""
    server = await serve(retry=RETRY)
    async with Proxy(server.port) as proxy:
        page = await open_page(browser, f"http://127.0.0.1:{proxy.port}")
        expected: list[str] = []
        for time in range(1, 4):
            await publish(server, "busy", f"live {time}")
            assert await seen(page, "busy", f"live {time}") == messages(*expected, f"live {time}")
            proxy.cut()
            await both_lost(page)
            await until(lambda: server.broadcaster.client_count == 0)
            away = [f"away {time} {number}" for number in range(20)]
            await publish(server, "busy", *away)
            if time == 2:
                await publish(server, "quiet", "the first there ever was")
            await proxy.restore()
            expected += [f"live {time}", *away]
            assert await seen(page, "busy", expected[-1]) == messages(*expected)
        await until(lambda: server.broadcaster.client_count == 2)
        await publish(server, "quiet", "end")
        assert await seen(page, "quiet", "end") == messages("the first there ever was", "end")
        assert server.broadcaster.counts.resets == {}


@pytest.mark.parametrize("place", [1, 10, 400, 1000, 2014, 2025, 2027])
async def test_an_event_source_cut_inside_an_event_gets_the_whole_event(
    serve: Serve, browser: Browser, place: int
) -> None:
    """It is cut in the data, in the id or after it. The event comes again, once."""
    server = await serve(retry=RETRY)
    async with Proxy(server.port) as proxy:
        page = await open_page(browser, f"http://127.0.0.1:{proxy.port}")
        await publish(server, "busy", "before")
        await seen(page, "busy", "before")
        proxy.cut_behind(place)
        long = "x" * 2000
        await publish(server, "busy", long)
        await until(lambda: proxy.is_cut)
        await both_lost(page)
        assert await seen(page, "busy", "before") == messages("before")
        await proxy.restore()
        await publish(server, "busy", "after")
        assert await seen(page, "busy", "after") == messages("before", long, "after")
        assert server.broadcaster.counts.resets == {}


async def test_an_event_source_gets_one_reset_after_a_restart(browser: Browser) -> None:
    """New events follow. A later cut brings no other `$reset`."""
    first = Server(Config(port=0, retry=RETRY, shutdown_timeout=4))
    await first.start()
    port = first.port
    async with Proxy(port) as proxy:
        page = await open_page(browser, f"http://127.0.0.1:{proxy.port}")
        await publish(first, "busy", "before")
        await seen(page, "busy", "before")
        await first.stop()
        second = Server(Config(port=port, retry=RETRY, shutdown_timeout=4))
        await second.start()
        try:
            await until(lambda: second.broadcaster.client_count == 2)
            await publish(second, "busy", "after")
            await publish(second, "quiet", "after")
            reported = [["$close", "drain"], ["$reset", "epoch"]]
            busy = [*messages("before"), *reported, *messages("after")]
            assert await seen(page, "busy", "after") == busy
            assert await seen(page, "quiet", "after") == [*reported, *messages("after")]
            proxy.cut()
            await both_lost(page)
            await publish(second, "busy", "away")
            await publish(second, "quiet", "away")
            await proxy.restore()
            assert await seen(page, "busy", "away") == [*busy, *messages("away")]
            assert await seen(page, "quiet", "away") == [*reported, *messages("after", "away")]
        finally:
            await second.stop()


async def post(serving: Serving, channel: str, data: str) -> None:
    client = await RawClient.open(serving.port)
    status, answer = await client.ask("POST", f"/send/{channel}", body=data.encode())
    client.close()
    assert status == 200, answer


async def test_an_event_source_survives_a_killed_server(programs: Programs, browser: Browser) -> None:
    """Another one starts on its port, and sends one `$reset` to each source."""
    options = ("--retry", str(RETRY))
    first = await programs.serve(*options)
    page = await open_page(browser, first.url)
    await post(first, "busy", "before")
    await seen(page, "busy", "before")
    await first.process.kill()
    await both_lost(page)
    second = await programs.serve(*options, "--port", str(first.port))
    await both_open(page, 2)
    for channel in ("busy", "quiet"):
        await seen(page, channel, "epoch")
        await post(second, channel, "after")
    reported = [["$reset", "epoch"], *messages("after")]
    assert await seen(page, "busy", "after") == [*messages("before"), *reported]
    assert await seen(page, "quiet", "after") == reported
