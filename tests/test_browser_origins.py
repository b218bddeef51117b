"""What web pages of several origins can do with a server, in Chromium."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from sse_broadcast.auth.revocation import RevocationList
from sse_broadcast.server.runner import Server
from sse_broadcast.server.services import STREAM_EXPIRY
from sse_broadcast.server.streams import expiry
from tests.conftest import Program, Serve
from tests.server.blocks import opening
from tests.support.asking import ask, bearer
from tests.support.browser import chromium, seen
from tests.support.credentials import OWN_SECRET, STATIC, caller, own, static
from tests.support.memory import inside
from tests.support.sockets import until

READER = caller("reader", subscribe=("*",), publish=("*",))
SETTINGS = {"token": STATIC, "caller": (READER,), "cookie": "visitor", "token_secret": OWN_SECRET}

REBOUND = "rebound.example"
"""A name whose owner has pointed it to this server's address."""

LISTEN = """([url, options]) => {
  window.seen = [];
  window.source = new EventSource(url, options);
  for (const type of ["message", "$close"])
    source.addEventListener(type, event => seen.push([event.type, event.data]));
}"""

SEND = """([url, options]) => fetch(url, options).then(
  answer => ({type: answer.type, status: answer.status}), error => ({type: "failed", status: 0}))"""


@pytest.fixture
async def browser(program: Program) -> AsyncIterator[Browser]:
    async with chromium(program, f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1") as browser:
        yield browser


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """Serve an empty page, and yield its origin."""

    async def empty(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>page</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", empty)
    runner = web.AppRunner(app)
    await runner.setup()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"


async def page_at(browser: Browser, url: str) -> Page:
    page = await browser.new_page()
    await page.goto(url)
    return page


async def listen(page: Page, url: str, **options: Any) -> None:
    await page.evaluate(LISTEN, [url, options])


async def refused(page: Page) -> None:
    await page.wait_for_function("source.readyState === EventSource.CLOSED")


async def opened(page: Page) -> None:
    await page.wait_for_function("source.readyState === EventSource.OPEN")


async def send(page: Page, url: str, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await page.evaluate(SEND, [url, {"method": "POST", **options}])
    return answer


async def test_a_foreign_page_cannot_read_a_stream(serve: Serve, browser: Browser, site: str) -> None:
    """All channels are public: the browser itself withholds the stream from the page."""
    server = await serve(**SETTINGS, anonymous_subscribe=("*",))
    page = await page_at(browser, site)
    await listen(page, f"{server.url}/events")
    await refused(page)
    assert server.broadcaster.counts.opened == 1
    await until(lambda: server.broadcaster.client_count == 0)


async def test_a_page_of_an_allowed_origin_can_read_a_stream(
    serve: Serve, browser: Browser, site: str
) -> None:
    server = await serve(**SETTINGS, anonymous_subscribe=("*",), cors_origins=(site,))
    page = await page_at(browser, site)
    await listen(page, f"{server.url}/events")
    await opened(page)
    await server.broadcaster.broadcast("hello")
    assert await seen(page, 1) == [["message", "hello"]]
    other = await page_at(browser, site.replace("127.0.0.1", "localhost"))
    await listen(other, f"{server.url}/events")
    await refused(other)


async def test_a_page_of_an_allowed_subdomain_can_read_a_stream(
    serve: Serve, browser: Browser, site: str
) -> None:
    below = site.replace("127.0.0.1", "*.localhost")
    server = await serve(**SETTINGS, anonymous_subscribe=("*",), cors_origins=(below,))
    for label in ("a", "b.a"):
        page = await page_at(browser, below.replace("*", label))
        await listen(page, f"{server.url}/events")
        await opened(page)
    apex = await page_at(browser, below.replace("*.", ""))
    await listen(apex, f"{server.url}/events")
    await refused(apex)


FIRST_BYTES = """async ([url, options]) => {
  const reader = (await fetch(url, options)).body.getReader();
  const text = new TextDecoder().decode((await reader.read()).value);
  await reader.cancel();
  return text;
}"""


async def test_a_page_can_subscribe_by_a_body(serve: Serve, browser: Browser, site: str) -> None:
    """It is a fetch after a preflight. An aborted one ends the stream."""
    server = await serve(**SETTINGS, cors_origins=(site,))
    page = await page_at(browser, site)
    headers = {"Authorization": f"Bearer {static('reader')}", "Content-Type": "application/json"}
    options = {"method": "POST", "headers": headers, "body": '{"channels": ["a", "b"]}'}
    first = await page.evaluate(FIRST_BYTES, [f"{server.url}/events", options])
    assert opening(id=server.broadcaster.cursor).fullmatch(first.encode())
    await until(lambda: server.broadcaster.client_count == 0)
    assert server.broadcaster.counts.opened == 1


async def test_a_page_can_send_its_cookie(serve: Serve, browser: Browser, site: str) -> None:
    server = await serve(**SETTINGS, cors_origins=(site,))
    page = await page_at(browser, site)
    await page.context.add_cookies([{"name": "visitor", "value": static("reader"), "url": server.url}])
    await listen(page, f"{server.url}/events")
    await refused(page)
    await listen(page, f"{server.url}/events", withCredentials=True)
    await opened(page)
    assert await send(page, f"{server.url}/send", body="hello", credentials="include") == {
        "type": "cors",
        "status": 200,
    }
    assert await seen(page, 1) == [["message", "hello"]]


async def test_a_foreign_page_cannot_use_a_visitors_cookie(serve: Serve, browser: Browser, site: str) -> None:
    """The browser sends it, but nothing is published and no token is issued."""
    server = await serve(**SETTINGS)
    page = await page_at(browser, site)
    await page.context.add_cookies([{"name": "visitor", "value": STATIC, "url": server.url}])
    for path in ("/send", "/tokens", "/revoke"):
        answer = await send(page, f"{server.url}{path}", body="x", mode="no-cors", credentials="include")
        assert answer == {"type": "opaque", "status": 0}
    assert server.broadcaster.counts.published == 0
    assert [len(each) for each in inside(server.services.authenticator, RevocationList)] == [0]
    own_page = await page_at(browser, f"{server.url}/healthz")
    await own_page.context.add_cookies([{"name": "visitor", "value": STATIC, "url": server.url}])
    assert (await send(own_page, f"{server.url}/send", body="x"))["status"] == 200


async def test_a_page_can_send_a_token_in_the_url(serve: Serve, browser: Browser, site: str) -> None:
    server = await serve(**SETTINGS, cors_origins=(site,))
    page = await page_at(browser, site)
    await listen(page, f"{server.url}/events?access_token=not-good-0123456789")
    await refused(page)
    await listen(page, f"{server.url}/events?access_token={static('reader')}")
    await opened(page)
    await server.broadcaster.broadcast("hello")
    assert await seen(page, 1) == [["message", "hello"]]


async def test_a_page_can_send_a_token_in_a_header(serve: Serve, browser: Browser, site: str) -> None:
    server = await serve(**SETTINGS, cors_origins=(site,))
    page = await page_at(browser, site)
    headers = {
        "Authorization": f"Bearer {static('reader')}",
        "Idempotency-Key": "one",
        "X-Requested-With": "XMLHttpRequest",  # axios and jQuery add this header.
    }
    for _ in range(2):
        answer = await send(page, f"{server.url}/send", body="x", headers=headers)
        assert answer == {"type": "cors", "status": 200}
    assert server.broadcaster.counts.published == 1
    answer = await send(page, f"{server.url}/send", body="x", headers={"Authorization": "Bearer bad"})
    assert answer == {"type": "cors", "status": 401}


async def test_a_foreign_page_cannot_publish_to_loopback(server: Server, browser: Browser, site: str) -> None:
    """No token is needed there. A request without a preflight is refused, one with it is not sent."""
    page = await page_at(browser, site)
    text, json = {"Content-Type": "text/plain"}, {"Content-Type": "application/json"}
    for options, kind in (
        ({"mode": "no-cors", "body": "x", "headers": text}, "opaque"),
        ({"mode": "no-cors", "body": '{"message": "x"}', "headers": text}, "opaque"),
        ({"mode": "no-cors", "body": "x", "referrerPolicy": "no-referrer"}, "opaque"),
        ({"mode": "cors", "body": "x"}, "failed"),
        ({"mode": "cors", "body": '{"message": "x"}', "headers": json}, "failed"),
        ({"mode": "cors", "method": "PUT", "body": "x"}, "failed"),
    ):
        assert await send(page, f"{server.url}/send", **options) == {"type": kind, "status": 0}
    assert server.broadcaster.counts.published == 0
    assert (await ask(server, "POST", "/send", body=b"x")).status == 200


async def test_a_form_of_a_foreign_page_publishes_nothing(
    server: Server, browser: Browser, site: str
) -> None:
    page = await page_at(browser, site)
    await page.set_content(
        f'<form method=post enctype=text/plain action="{server.url}/send"><input name=a value=b></form>'
    )
    async with page.expect_navigation():
        await page.evaluate("document.forms[0].submit()")
    assert "is not allowed" in await page.inner_text("body")
    assert server.broadcaster.counts.published == 0


async def test_a_name_rebound_to_this_machine_is_refused(server: Server, browser: Browser) -> None:
    """For the browser the page and the server are one origin. The server sees a foreign host name."""
    page = await page_at(browser, f"http://{REBOUND}:{server.port}/healthz")
    assert (await page.inner_text("body")).strip() == '{"status":"alive"}'
    for path in ("/send", "/events", "/tokens", "/revoke"):
        assert await send(page, path, body="x") == {"type": "basic", "status": 421}
    for path in ("/status", "/channels", "/events"):
        for headers in ({}, {"X-Forwarded-For": "192.0.2.1"}):
            answer = await page.evaluate(SEND, [path, {"headers": headers}])
            assert answer == {"type": "basic", "status": 421}
    assert server.broadcaster.counts.published == server.broadcaster.counts.opened == 0
    own_page = await page_at(browser, f"http://localhost:{server.port}/healthz")
    assert await send(own_page, "/send", body="x") == {"type": "basic", "status": 200}


async def test_a_page_gets_the_end_of_its_expired_token(
    serve: Serve, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets `$close` and does not reconnect: its URL would be refused, so it gets a new token first."""
    monkeypatch.setattr(expiry, "CLOCK_CHECK_INTERVAL", 0.005)
    server = await serve(**SETTINGS, retry=10)
    now = time.time()
    token = own(exp=now + 3600, grants={"subscribe": ["*"]})
    page = await page_at(browser, f"{server.url}/healthz")
    await listen(page, f"/events?access_token={token}")
    await opened(page)
    await server.broadcaster.broadcast("hello")
    assert await seen(page, 1) == [["message", "hello"]]
    end(server, now + 3600)
    assert (await seen(page, 2))[1] == ["$close", '{"reason": "expired"}']
    await refused(page)


def end(server: Server, now: float) -> None:
    """Set the time for streams and tokens."""
    server.app[STREAM_EXPIRY].clock = server.services.authenticator.clock = lambda: now


async def test_a_page_gets_the_end_of_its_revoked_token(serve: Serve, browser: Browser, site: str) -> None:
    server = await serve(**SETTINGS, retry=10, cors_origins=(site,))
    page = await page_at(browser, site)
    token = own(sub="ada", grants={"subscribe": ["*"]})
    await listen(page, f"{server.url}/events?access_token={token}")
    await opened(page)
    headers = f"Content-Type: application/json\r\n{bearer(STATIC)}"
    assert (await ask(server, "POST", "/revoke", headers=headers, body=b'{"subject": "ada"}')).json == {
        "status": "revoked",
        "streams": 1,
    }
    assert await seen(page, 1) == [["$close", '{"reason": "revoked"}']]
    await refused(page)
