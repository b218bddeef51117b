"""docs/clients.md: its programs run, and its description of a stream is true."""

import asyncio
import queue
import re
from pathlib import Path
from typing import Any

from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.runner import Server
from tests.conftest import Connect, Serve
from tests.support.browser import Browser, Firefox, Page
from tests.support.internals import outboxes_of
from tests.support.sockets import PATIENCE, until
from tests.support.stream_proxy import StreamProxy

PAGE = (Path(__file__).parent.parent / "docs" / "clients.md").read_text()

BLOCK = re.compile(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", re.DOTALL)

BLOCKS = dict(BLOCK.findall(PAGE))

SHOWS = """
<!doctype html><title>watchdog</title><script>
const seen = [];
%s
subscribe("/events", (event) => seen.push([event.type, event.data]));
</script>
"""


def test_every_program_runs_in_a_test() -> None:
    assert set(BLOCKS) == {"loop", "watchdog"}


async def test_a_stream_has_the_shown_bytes(server: Server, connect: Connect) -> None:
    """The epoch, the positions and the reconnection time differ."""
    for _ in range(41):
        await server.broadcaster.broadcast("before")
    subscriber = await connect(server)
    await subscriber.subscribe()
    data = await subscriber.chunk()
    await server.broadcaster.broadcast("EUR 1.08", event="price")
    data += await subscriber.chunk()
    epoch = server.broadcaster.cursor.partition("-")[0]
    said = re.sub(r"retry: \d+", "retry: 3127", data.decode()).replace(epoch, "0a1b2c3d")
    assert f"```text\n{said}: \n```\n" in PAGE


async def show(browser: Browser, url: str, html: str) -> Page:
    """Show a page as if the proxy had served it, which has one page of its own."""
    if not isinstance(browser, Firefox):
        return await browser.show(url, html)
    tab = await browser.open(f"{url}/page")
    await tab.run("document.open(); document.write(arguments[0]); document.close()", html)
    return tab


async def test_the_watchdog_survives_a_refused_reconnection(serve: Serve, browser: Browser) -> None:
    """At a 502 an EventSource stops for good. The page continues with the last id, and misses nothing."""
    server = await serve(retry=100)
    async with StreamProxy(server.port, "/events") as proxy, asyncio.timeout(PATIENCE):
        # The page's times are for people, and too long for a test.
        page = await show(browser, proxy.url, SHOWS % BLOCKS["watchdog"].replace("3000", "50"))
        await until(lambda: server.broadcaster.client_count == 1)
        await server.broadcaster.broadcast("before")
        await page.wait_for_function("seen.length === 1")
        proxy.refusing = True
        await proxy.cut_now(clean=False)
        await server.broadcaster.broadcast("away")
        proxy.restore()
        await proxy.until(lambda: sum(exchange.is_refusal for exchange in proxy.exchanges) >= 2)
        proxy.refusing = False
        await page.wait_for_function("seen.length === 2")
        assert await page.evaluate("seen") == [["message", "before"], ["message", "away"]]


async def test_the_python_loop_misses_nothing(serve: Serve) -> None:
    """It is cut, refused and told to reconnect. It yields each event once, without system events."""
    server = await serve(retry=100)
    program: dict[str, Any] = {}
    exec(BLOCKS["loop"], program)
    got: queue.SimpleQueue[str] = queue.SimpleQueue()
    async with StreamProxy(server.port, "/events") as proxy, asyncio.timeout(PATIENCE):
        last = f"{server.broadcaster.cursor.partition('-')[0]}-0"

        def read() -> None:
            for event in program["subscribe"](f"{proxy.url}/events", last, 0.05):
                got.put(event.data)
                if event.data == "end":
                    return

        reading = asyncio.create_task(asyncio.to_thread(read))
        await until(lambda: server.broadcaster.client_count == 1)
        await server.broadcaster.broadcast("before")
        await until(lambda: got.qsize() == 1)
        await proxy.cut_now(clean=False)
        await server.broadcaster.broadcast("away")
        proxy.restore()
        await until(lambda: got.qsize() == 2)
        server.broadcaster.end(next(iter(outboxes_of(server.broadcaster))), CloseReason.LIFETIME)
        await server.broadcaster.broadcast("end")
        await reading
        assert [got.get() for _ in range(got.qsize())] == ["before", "away", "end"]
