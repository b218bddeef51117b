"""Body decoder: large bodies are decoded in a thread, with the same result."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from sse_broadcast.server.app import create_app
from sse_broadcast.server.process.body_decoder import DECODER, LARGE, BodyDecoder
from tests.conftest import LiveServer, Patch, Serve
from tests.support.credentials import caller, static
from tests.support.sockets import until

JSON = "Content-Type: application/json\r\n"
NDJSON = "Content-Type: application/x-ndjson\r\n"
EVENT = b'{"message":"%d","channel":"a"}'


def batch(count: int) -> bytes:
    """Return an array of events of more than `LARGE` bytes."""
    return b"[" + b",".join(EVENT % number for number in range(count)).ljust(LARGE) + b"]"


async def test_only_a_large_body_is_decoded_in_the_thread() -> None:
    """A smaller one is decoded at once, without an await."""
    decoder = BodyDecoder()
    here = threading.get_ident()
    assert await decoder.run(threading.get_ident, size=LARGE) == here
    threads = [await decoder.run(threading.get_ident, size=LARGE + 1) for _ in range(3)]
    assert len({here, *threads}) == 2
    with pytest.raises(ZeroDivisionError):
        await decoder.run(lambda: 1 / 0, size=LARGE + 1)
    decoder.close()


async def test_a_cancelled_body_is_not_decoded() -> None:
    """A client that hangs up costs the thread nothing. A decode that has begun is finished."""
    decoder, authorizer, done = BodyDecoder(), threading.Event(), list[str]()

    def decode(name: str) -> None:
        authorizer.wait(30)
        done.append(name)

    runs = [asyncio.ensure_future(decoder.run(lambda n=name: decode(n), size=LARGE + 1)) for name in "abc"]  # type: ignore[misc]
    await asyncio.sleep(0)
    runs[0].cancel()
    runs[1].cancel()
    await asyncio.sleep(0)
    authorizer.set()
    await runs[2]
    assert done == ["a", "c"]
    decoder.close()


async def test_a_closed_decoder_decodes_nothing() -> None:
    decoder, authorizer = BodyDecoder(), threading.Event()
    first = asyncio.ensure_future(decoder.run(lambda: authorizer.wait(30), size=LARGE + 1))
    second = asyncio.ensure_future(decoder.run(lambda: True, size=LARGE + 1))
    await asyncio.sleep(0)
    decoder.close()
    authorizer.set()
    assert await first
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_an_application_closes_its_own_decoder() -> None:
    runner = web.AppRunner(app := create_app())
    await runner.setup()
    assert await app[DECODER].run(threading.get_ident, size=LARGE + 1) != threading.get_ident()
    await runner.cleanup()
    with pytest.raises(RuntimeError, match="shutdown"):
        await app[DECODER].run(threading.get_ident, size=LARGE + 1)


@pytest.mark.parametrize("kind", [JSON, NDJSON])
async def test_a_large_batch_is_published(server: LiveServer, kind: str) -> None:
    reader, publisher = await server.subscriber("/events/a"), await server.connect()
    body = batch(100) if kind == JSON else b"\n".join([*(EVENT % each for each in range(100)), b" " * LARGE])
    status, answer = await publisher.ask("POST", "/send", body=body, headers=kind)
    assert (status, b'"count":100,"clients":1' in answer) == (200, True)
    assert [event.data for event in await reader.events(100)] == [str(number) for number in range(100)]
    wrong = body.replace(b'"message":"99"', b'"massage":"99"')
    place = b"item 100" if kind == JSON else b"line 100"
    status, answer = await publisher.ask("POST", "/send", body=wrong, headers=kind)
    assert (status, place + b": massage: unknown member; did you mean message?" in answer) == (422, True)
    assert server.broadcaster.counts.published == 100


async def hold_up(decoder: BodyDecoder, monkeypatch: Patch) -> tuple[threading.Event, list[int]]:
    """Block the decoder's thread.

    Return the function that releases it, and the sizes of the queued bodies.
    """
    go_on, run, waiting = threading.Event(), decoder.run, list[int]()
    asyncio.get_running_loop().create_task(run(lambda: go_on.wait(30), size=LARGE + 1))
    await asyncio.sleep(0)

    def noted(decode: Callable[[], Any], *, size: int) -> Awaitable[Any]:
        waiting.extend([size] if size > LARGE else [])
        return run(decode, size=size)

    monkeypatch.setattr(decoder, "run", noted)
    return go_on, waiting


@pytest.mark.both_loops
async def test_other_requests_are_served_while_a_large_body_waits(
    server: LiveServer, monkeypatch: Patch
) -> None:
    """A publisher that hangs up meanwhile has published nothing."""
    go_on, waiting = await hold_up(server.app[DECODER], monkeypatch)
    large, other = await server.connect(), await server.connect()
    await large.request("POST", "/send", body=batch(10), headers=JSON)
    await until(lambda: len(waiting) == 1)
    assert (await other.ask("POST", "/send", body=b"small"))[0] == 200
    large.reset()
    await until(lambda: server.connections == 1)
    go_on.set()
    assert (await other.ask("POST", "/send", body=batch(3), headers=JSON))[0] == 200
    assert server.broadcaster.counts.published == 4


async def test_permission_and_rate_are_checked_before_decoding(serve: Serve, monkeypatch: Patch) -> None:
    """A refused publisher costs the thread nothing."""
    server = await serve(
        caller=(caller("ann", publish=("a",)),), publish_rate=1, publish_burst=10, max_batch=10
    )
    client = await server.connect()
    headers = f"{JSON}Authorization: Bearer {static('ann')}\r\n"
    assert (await client.ask("POST", "/send", body=batch(10), headers=headers))[0] == 200
    go_on, waiting = await hold_up(server.app[DECODER], monkeypatch)
    status, answer = await client.ask("POST", "/send", body=batch(1), headers=headers)
    assert (status, b"publish_rate: one token may publish 1 event in a second" in answer) == (429, True)
    assert (await client.ask("POST", "/send/b", body=batch(1), headers=headers))[0] == 403
    assert waiting == []
    go_on.set()
