"""GET /client.js in Chromium and in Firefox: what does not need a browser's own tools."""

import asyncio

from sse_broadcast.config.schema import Config
from sse_broadcast.server.endpoints.console import FILES
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support.browser import Browser, Firefox, Page, publish, wait_for
from tests.support.proxy import Proxy
from tests.support.sockets import PATIENCE, until
from tests.support.stream_proxy import StreamProxy
from tests.test_client_module import PAGE, data, rounds, streams
from tests.test_clients_page import show as show_by_proxy


async def begin(page: Page, options: str) -> Page:
    """Have a page subscribe with these options, and wait until its channels are carried."""
    await wait_for(page, "window.ready")
    await page.evaluate(f"start({options})")
    await wait_for(page, "opened > 0")
    return page


async def show(browser: Browser, url: str, options: str, html: str = PAGE) -> Page:
    """Show a tab that subscribes, as if this server had served it."""
    return await begin(await browser.show(url, html), options)


async def test_tabs_share_one_connection_and_take_over(server: Server, browser: Browser) -> None:
    """Each tab that leads is closed in turn; the others see every event once and in order."""
    pages = [await show(browser, server.url, '{channels: "news"}') for _ in range(4)]
    if not isinstance(browser, Firefox):
        # Pages of separate profiles share nothing: `shown` makes one for each page.
        await until(lambda: streams(server) == 4)
    else:
        await until(lambda: streams(server) == 1)
    sent: list[str] = []
    await rounds(server, pages, sent, "first")
    while len(pages) > 1:
        await pages.pop(0).close()
        await rounds(server, pages, sent, f"left {len(pages)}")
    await until(lambda: streams(server) == 1)


async def test_a_cut_is_survived(server: Server, browser: Browser) -> None:
    """Again and again, with events meanwhile."""
    async with Proxy(server.port) as proxy:
        page = await show(browser, f"http://127.0.0.1:{proxy.port}", '{channels: "news"}')
        sent: list[str] = []
        for turn in range(3):
            await rounds(server, [page], sent, f"before {turn}")
            proxy.cut()
            await until(lambda: streams(server) == 0)
            sent.append(f"cut {turn}")
            await publish(server, "news", sent[-1])
            await proxy.restore()
        await rounds(server, [page], sent, "end")
        assert await page.evaluate('told("reset")') == []


async def test_a_half_open_connection_is_noticed(serve: Serve, browser: Browser) -> None:
    server = await serve(heartbeat=0.2)
    async with Proxy(server.port) as proxy:
        page = await show(browser, f"http://127.0.0.1:{proxy.port}", '{channels: "news"}')
        proxy.swallow()
        await publish(server, "news", "swallowed")
        assert await data(page, 1) == ["swallowed"]


async def test_a_restart_is_told(browser: Browser) -> None:
    first = Server(Config(port=0, retry=500, shutdown_timeout=4))
    await first.start()
    port = first.port
    page = await show(browser, first.url, '{channels: "news"}')
    await publish(first, "news", "before")
    await data(page, 1)
    await first.stop()
    second = Server(Config(port=port, shutdown_timeout=4))
    await second.start()
    try:
        await until(lambda: streams(second) == 1)
        await publish(second, "news", "after")
        assert await data(page, 2) == ["before", "after"]
        assert await page.evaluate('told("reset")') == ["epoch"]
    finally:
        await second.stop()


async def proxied(browser: Browser, proxy: StreamProxy, before: str) -> Page:
    """Show a page of the proxy's origin with the module inside, since that proxy has no other path."""
    html = PAGE.replace('import { subscribe } from "/client.js";', MODULE)
    html = html.replace("<script", f"<script>{before}</script><script", 1)
    return await begin(await show_by_proxy(browser, proxy.url, html), '{channels: "news"}')


MODULE = (FILES / "client" / "client.js").read_text()

NO_FETCH_STREAMS = "delete self.TextDecoderStream;"


async def survives_a_502(serve: Serve, browser: Browser, before: str) -> None:
    server = await serve(retry=100)
    async with StreamProxy(server.port, "/events") as proxy, asyncio.timeout(PATIENCE):
        page = await proxied(browser, proxy, before)
        await publish(server, "news", "before")
        assert await data(page, 1) == ["before"]
        proxy.refusing = True
        await proxy.cut_now(clean=False)
        await publish(server, "news", "away")
        proxy.restore()
        await proxy.until(lambda: sum(exchange.is_refusal for exchange in proxy.exchanges) >= 2)
        proxy.refusing = False
        assert await data(page, 2) == ["before", "away"]


async def test_a_502_of_a_proxy_is_survived(serve: Serve, browser: Browser) -> None:
    """An EventSource of the page would end for good."""
    await survives_a_502(serve, browser, "")


async def test_an_event_source_stands_in_where_fetch_reads_no_streams(serve: Serve, browser: Browser) -> None:
    """It comes back from a 502 all the same, with the last id."""
    await survives_a_502(serve, browser, NO_FETCH_STREAMS)


async def test_named_types_come_by_the_event_source_too(server: Server, browser: Browser) -> None:
    html = PAGE.replace("<script", f"<script>{NO_FETCH_STREAMS}</script><script", 1)
    page = await show(browser, server.url, '{channels: "news", types: ["price"]}', html)
    await server.broadcaster.broadcast("EUR 1.08", event="price", channels=["news"])
    await publish(server, "news", "end")
    assert await data(page, 2) == ["EUR 1.08", "end"]
