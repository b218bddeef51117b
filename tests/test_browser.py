"""EventSource of Chromium and Firefox with a real server."""

from sse_broadcast.config.schema import Config
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support.browser import Browser, Page, seen
from tests.support.sockets import RawClient, until
from tests.test_real_clients import MESSAGES, arrives_as

PAGE = """
<!doctype html><title>events</title><script>
const seen = [], source = new EventSource("/events");
for (const type of ["message", "price", "$close"])
  source.addEventListener(type, event => seen.push([event.type, event.data]));
let opened = 0;
source.onopen = () => { opened += 1; };
</script>
"""


async def open_page(browser: Browser, url: str) -> Page:
    page = await browser.show(url, PAGE)
    await page.wait_for_function("opened > 0")
    return page


async def test_an_event_source_gets_the_published_events(serve: Serve, browser: Browser) -> None:
    """They have every kind of text and come in order, with heartbeats between. Only Firefox drops NUL."""
    server = await serve(heartbeat=0.2)
    page = await open_page(browser, server.url)
    for message in MESSAGES.values():
        await server.broadcaster.broadcast(message)
        await server.broadcaster.broadcast(message, event="price")
    dropped = "\0" if browser.name == "firefox" else ""
    texts = [arrives_as(text).replace(dropped, "") for text in MESSAGES.values()]
    expected = [[kind, text] for text in texts for kind in ("message", "price")]
    assert await seen(page, len(expected)) == expected


CURSORS = """
<!doctype html><title>cursors</title><script>
const seen = [], source = new EventSource("/events?heartbeat=event");
for (const type of ["message", "$open", "$heartbeat"])
  source.addEventListener(type, event => seen.push([event.type, event.data, event.lastEventId]));
</script>
"""


async def test_a_page_can_listen_to_the_cursor(serve: Serve, browser: Browser) -> None:
    """`$open` and each heartbeat have the id to resume from and the interval of heartbeats."""
    server = await serve(heartbeat=0.2)
    await server.broadcaster.broadcast("before")
    id = server.broadcaster.cursor
    page = await browser.show(server.url, CURSORS)
    heartbeat = ["$heartbeat", "{}", id]
    assert (await seen(page, 3))[:3] == [["$open", '{"heartbeat": 0.2}', id], heartbeat, heartbeat]


async def test_closing_the_page_is_noticed_at_once(server: Server, browser: Browser) -> None:
    page = await open_page(browser, server.url)
    await until(lambda: server.broadcaster.client_count == 1)
    await page.close()
    await until(lambda: server.broadcaster.client_count == 0)
    assert server.broadcaster.counts.closed == {"left": 1}


async def test_an_event_source_reconnects_after_a_restart(browser: Browser) -> None:
    """It gets the reason, waits for the given time, and gets new events."""
    first = Server(Config(port=0, retry=100, shutdown_timeout=4))
    await first.start()
    port = first.port
    page = await open_page(browser, first.url)
    await first.broadcaster.broadcast("before")
    assert await seen(page, 1) == [["message", "before"]]
    await first.stop()
    assert (await seen(page, 2))[1] == ["$close", '{"reason": "drain"}']
    second = Server(Config(port=port, shutdown_timeout=4))
    await second.start()
    try:
        await until(lambda: second.broadcaster.client_count == 1)
        await second.broadcaster.broadcast("after")
        assert (await seen(page, 3))[2] == ["message", "after"]
    finally:
        await second.stop()


async def test_a_rejected_event_source_does_not_stop(serve: Serve, browser: Browser) -> None:
    """A full server's response has the reason and leaves it connecting. A 503 would stop it for good."""
    server = await serve(max_connections=1)
    keeper = await RawClient.open(server.port)
    await keeper.subscribe()
    page = await open_page(browser, server.url)
    assert await seen(page, 1) == [["$close", '{"reason": "full"}']]
    await page.wait_for_function("source.readyState === EventSource.CONNECTING")
    keeper.close()
