"""GET /metrics: every metric moves for its cause, and for nothing else."""

import asyncio
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import isgenerator
from typing import Any, cast

import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from sse_broadcast import Config, create_app
from sse_broadcast.backends.base import CALLS, IdempotencyKey, ResetReason, StartPoint
from sse_broadcast.backends.memory import idempotency
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.channels import Selector
from sse_broadcast.event import Event
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.metrics import Share
from sse_broadcast.server.endpoints.metrics import PREFIX, encoder
from sse_broadcast.server.services import BROADCASTER, SHARES
from sse_broadcast.server.transport.connection import Connection, ListenerInfo
from sse_broadcast.server.transport.rejection import RejectionProtocol
from sse_broadcast.server.transport.reserve import MAX_REJECTING_PER_ADDRESS
from sse_broadcast.work_queue import SlicedWork, run_to_completion
from tests.conftest import LiveServer, Patch, Program, Serve
from tests.support.internals import backend_of, hub_of, instrumented_backend_of, outboxes_of
from tests.support.memory_sinks import MemorySink, break_off
from tests.support.memory_sinks import connect as attach
from tests.support.sockets import RawClient, until

Samples = Mapping[str, float]

TIDE = re.compile(
    "loop_lag_seconds|scrape_duration_seconds|process_|python_gc_"
    r'|backend_calls_total\{call="(extent|tidy)"\}'
)
"""Series that change with time, with each scrape or with the process."""

STILL = {"build_info", "max_connections", "python_info"}
"""Series that do not change while a server runs, except by a reload."""

ANY = None
"""Expected difference of a series whose amount depends on the machine."""


async def scrape(client: RawClient, *, accept: str = "") -> bytes:
    """Return the body of a scrape."""
    headers = f"Accept: {accept}\r\n" if accept else ""
    status, body = await client.ask("GET", "/metrics", headers=headers)
    assert status == 200, body
    return body


async def samples(client: RawClient) -> Samples:
    """Return every sample by its series. Buckets are left out: count and sum are enough."""
    lines = [line for line in (await scrape(client)).decode().splitlines() if not line.startswith("#")]
    found = {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}
    return {
        series.removeprefix(PREFIX): value
        for series, value in found.items()
        if "_bucket{" not in series and not series.endswith("_seconds_sum")
    }


def moved(before: Samples, after: Samples) -> Samples:
    """Return the difference of each series, without those that change with time."""
    changes = {series: value - before.get(series, 0) for series, value in after.items()}
    changes |= {series: -value for series, value in before.items() if series not in after}
    return {series: change for series, change in changes.items() if change and not TIDE.match(series)}


BRIEF = {"drain_timeout": 0.1, "shutdown_timeout": 0.1}
"""Settings for tests without real subscribers: nobody reads a `$close`."""


@dataclass
class Scene:
    """A server, the client that scrapes it, and other clients."""

    serve: Serve
    patch: pytest.MonkeyPatch
    server: LiveServer = field(init=False)
    client: RawClient = field(init=False)

    async def open(self, **settings: Any) -> None:
        self.server = await self.serve(**{**BRIEF, **settings})
        self.client = await self.server.connect()
        await samples(self.client)

    @property
    def broadcaster(self) -> Broadcaster:
        return self.server.broadcaster

    async def ask(self, method: str, path: str, *, body: bytes = b"", headers: str = "") -> None:
        assert (await self.client.ask(method, path, body=body, headers=headers))[0] == 200

    async def publish(self, body: bytes = b"x", *, path: str = "/send", headers: str = "") -> None:
        await self.ask("POST", path, body=body, headers=headers)

    async def publish_by(self, publisher: str, *drafts: tuple[str, str]) -> None:
        """Publish texts to channels as one batch, as a caller."""
        made = [self.broadcaster.draft(Event(text), (channel,)) for text, channel in drafts]
        await self.broadcaster.publish_all(made, publisher=publisher)

    async def read(self, path: str = "/events", **options: Any) -> RawClient:
        return await self.server.subscriber(path, **options)

    async def events(self, path: str, count: int) -> None:
        await (await self.read(path)).events(count)

    async def fill(self) -> RawClient:
        """Connect a subscriber that reads nothing, and queue events for it."""
        subscriber = await self.read(receive_buffer=4096)
        while not any(group.queued for group in hub_of(self.broadcaster).groups):
            await self.publish(b"x" * 65_536)
        return subscriber

    async def fill_up(self) -> RawClient:
        """Connect a subscriber, and fill its queue."""
        client = await self.fill()
        (group,) = hub_of(self.broadcaster).groups
        (subscriber,) = group.queued
        while len(subscriber) < subscriber.options.queue_size:
            await self.publish()
        return client


Cause = Callable[[Scene], AsyncIterator[None]]
"""An async generator that prepares a scene, yields it for the first scrape, and then runs the cause."""

Act = Callable[[Scene], Awaitable[object] | None]
"""One step of a scene."""


def given(**settings: Any) -> Callable[[Cause], Cause]:
    """Return a decorator that sets the settings of a cause's server."""

    def mark(cause: Cause) -> Cause:
        cause.settings = settings  # type: ignore[attr-defined]
        return cause

    return mark


def after(before: Act, act: Act, **settings: Any) -> Cause:
    """Return a cause that runs one step uncounted, then counts another."""

    async def cause(scene: Scene) -> AsyncIterator[None]:
        for each in (before, act):
            doing = each(scene)
            if doing is not None:
                await doing
            if each is before:
                yield

    return given(**settings)(cause)


def once(act: Act, **settings: Any) -> Cause:
    """Return a cause that counts the effects of one step."""
    return after(lambda _: None, act, **settings)


Moves = dict[str, float | None]
"""Expected difference of each series."""

PUBLISHED: Moves = {
    "publishes_total": 1,
    "published_events_total": 1,
    'backend_calls_total{call="publish"}': 1,
    "history_events": 1,
    "history_bytes": ANY,
}
FIRST = PUBLISHED | {"history_channels": 1}
NAMED = {"metrics_channels": ("news",)}
LOOKED: Moves = {'backend_calls_total{call="holding"}': ANY}
WRITTEN: Moves = {
    'delivered_events_total{kind="http"}': 1,
    "written_bytes_total": ANY,
    "delivery_slices_total": ANY,
}
CAME: Moves = {
    'opened_subscriptions_total{kind="http"}': 1,
    'subscribers{kind="http"}': 1,
    "connections": 1,
    "queued_events_gcount": 1,
    "queued_bytes_gcount": 1,
}
WENT: Moves = {
    'subscribers{kind="http"}': -1,
    "connections": -1,
    "queued_events_gcount": -1,
    "queued_bytes_gcount": -1,
}


async def a_publish_to_two_readers(scene: Scene) -> AsyncIterator[None]:
    subscribers = [await scene.read() for _ in range(2)]
    yield
    await scene.publish()
    for subscriber in subscribers:
        await subscriber.events(1)


async def a_reader_that_leaves(scene: Scene) -> AsyncIterator[None]:
    subscriber = await scene.read()
    yield
    subscriber.close()


async def a_stream(scene: Scene) -> AsyncIterator[None]:
    stream = scene.broadcaster.subscribe("default")
    yield
    stream.__aiter__()
    scene.patch.setattr(scene, "stream", stream, raising=False)


async def a_stream_that_takes_an_event(scene: Scene) -> AsyncIterator[None]:
    async with scene.broadcaster.subscribe("default") as stream:
        yield
        await scene.publish()
        await anext(stream)
        yield


async def a_stream_that_is_closed(scene: Scene) -> AsyncIterator[None]:
    async with scene.broadcaster.subscribe("default"):
        yield


@given(queue_size=1)
async def a_stream_that_is_too_slow(scene: Scene) -> AsyncIterator[None]:
    async with scene.broadcaster.subscribe("default"):
        await scene.publish()
        yield
        await scene.publish()


@given(send_buffer=4096)
async def a_replay_that_waits(scene: Scene) -> AsyncIterator[None]:
    for _ in range(30):
        await scene.publish(b"x" * 65_536)
    yield
    await scene.read("/events?since=earliest", receive_buffer=4096)


@given(history_size=1)
async def an_id_that_is_too_old(scene: Scene) -> AsyncIterator[None]:
    old = scene.broadcaster.cursor
    await scene.publish()
    await scene.publish()
    yield
    await scene.events(f"/events?last_event_id={old}", 2)


def dropping(policy: str) -> Cause:
    return after(Scene.fill_up, Scene.publish, send_buffer=4096, queue_size=2, overflow=policy)


@given(send_buffer=4096, queue_size=2, overflow="drop-newest")
async def a_loss_that_is_told(scene: Scene) -> AsyncIterator[None]:
    subscriber = await scene.fill_up()
    await scene.publish()
    yield
    while (await subscriber.events(1))[0].type != "$reset":
        pass


@given(heartbeat=0.2)
async def a_reader_that_has_gone_unseen(scene: Scene) -> AsyncIterator[None]:
    outbox, sink = attach(scene.broadcaster)
    yield
    sink.gone = True
    await until(lambda: outbox.subscriber.closed is not None)


@given(heartbeat=0.1)
async def a_heartbeat(scene: Scene) -> AsyncIterator[None]:
    subscriber = await scene.read()
    yield
    await subscriber.chunk()
    await subscriber.chunk()


async def a_write_that_fails(scene: Scene) -> AsyncIterator[None]:
    await scene.read()
    (outbox,) = outboxes_of(scene.broadcaster)
    break_off(outbox)
    yield
    await scene.publish()


def ending(reason: CloseReason) -> Cause:
    async def an_end(scene: Scene) -> AsyncIterator[None]:
        subscriber = await scene.read()
        (outbox,) = outboxes_of(scene.broadcaster)
        yield
        scene.broadcaster.end(outbox, reason)
        await subscriber.rest()

    return an_end


async def a_drain_of_a_stream(scene: Scene) -> AsyncIterator[None]:
    async with scene.broadcaster.subscribe("default"):
        yield
        (subscriber,) = hub_of(scene.broadcaster)
        subscriber.close(CloseReason.DRAIN)


async def a_walk_that_takes_long(scene: Scene) -> AsyncIterator[None]:
    class Slow(MemorySink):
        def write(self, data: bytes) -> None:
            time.sleep(0.005)
            super().write(data)

    sinks = [attach(scene.broadcaster, sink=Slow())[1], *(attach(scene.broadcaster)[1] for _ in range(80))]
    yield
    await scene.publish()
    await until(lambda: all(sink.written for sink in sinks))


def refused(target: str, method: str = "GET") -> Cause:
    async def ask(scene: Scene) -> None:
        assert (await scene.client.ask(method, target))[0] >= 400

    return once(ask)


@given(subscribe_rate=1, subscribe_burst=1)
async def a_browser_that_is_turned_away(scene: Scene) -> AsyncIterator[None]:
    (await scene.read()).close()
    await until(lambda: scene.server.connections == 1)
    yield
    client = await scene.server.connect()
    assert b" 200 OK\r\n" in await client.subscribe(headers="Accept: text/event-stream\r\n")
    await client.rest()


SERVER_SHARES = (Share.CHANNELS, Share.STREAMS, Share.STREAM_RATE, Share.BODY_BYTES)


def a_share_that_is_reached(share: Share) -> Cause:
    return once(lambda scene: scene.server.app[SHARES].reached(share, "192.0.2.1"))


async def a_connection_too_many(scene: Scene) -> None:
    await (await scene.read()).rest()


def admit(scene: Scene) -> Connection | RejectionProtocol:
    place = ListenerInfo(frozenset(), loopback=False, unix=False)
    return scene.server.admission.admit(place, "192.0.2.1")


@given(max_connections_per_address=1)
async def a_connection_too_many_of_an_address(scene: Scene) -> AsyncIterator[None]:
    first = admit(scene)
    yield
    refusal = admit(scene)
    assert refusal is not first
    refusal.release()


@given(max_connections=1)
async def an_address_with_its_share_of_the_reserve(scene: Scene) -> AsyncIterator[None]:
    for _ in range(MAX_REJECTING_PER_ADDRESS):
        admit(scene)
    yield
    admit(scene)


async def a_publisher_with_most_channels(scene: Scene) -> None:
    await scene.publish_by("", ("x", "a"))
    await scene.publish_by("other", ("x", "b"))


async def a_publisher_with_most_keys(scene: Scene) -> AsyncIterator[None]:
    scene.patch.setattr(idempotency, "MAX_KEYS", 2)
    drafts = [scene.broadcaster.draft(Event("x"))]
    for key, publisher in [("1", ""), ("1", "other")]:
        await scene.broadcaster.publish_all(drafts, IdempotencyKey((key,), b""), publisher=publisher)
    yield
    await scene.broadcaster.publish_all(drafts, IdempotencyKey(("2",), b""), publisher="other")


async def a_connection_that_says_nothing(scene: Scene) -> None:
    await (await scene.server.connect()).rest()


async def a_connection_that_speaks_no_http(scene: Scene) -> AsyncIterator[None]:
    client = await scene.server.connect()
    yield
    await client.send(b"EHLO example.com\r\n\r\n")
    await client.rest()


async def a_connection_that_does_not_take_its_answers(scene: Scene) -> None:
    client = await scene.server.connect(receive_buffer=4096)
    asking = asyncio.create_task(client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000))
    await until(lambda: scene.broadcaster.counts.refused != {})
    asking.cancel()


@given(send_buffer=4096)
async def a_question_about_a_reader_that_catches_up(scene: Scene) -> AsyncIterator[None]:
    async for _ in a_replay_that_waits(scene):
        pass
    yield
    await scene.ask("GET", "/subscribers")


ARGUMENTS: Mapping[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "publish": (([],), {}),
    "find": ((None, Selector.parse("a")), {}),
    "replay": ((Selector.parse("a"),), {"after": 0, "evictions_seen": 0, "limit": 1}),
    "replayable": ((Selector.parse("a"),), {"after": 0}),
    "oldest": ((Selector.parse("a"),), {"after": 0}),
    "holding": (("a",), {}),
    "remove": ((1,), {}),
    "clear": (("a",), {}),
}


METHODS = {"tidy": "evict_expired", "relimit": "reload_limits", "holding": "channel_usage", "extent": "usage"}
"""Label of a method of the backend, where it differs from the method's name."""


async def ask(backend: Any, call: str, *arguments: Any, **words: Any) -> object:
    """Call a method of the backend, whether it is a coroutine, sliced work or a plain function."""
    answer = getattr(backend, call)(*arguments, **words)
    return run_to_completion(cast("SlicedWork[object]", answer)) if isgenerator(answer) else await answer


def failing(call: str) -> Cause:
    async def a_backend_that_fails(scene: Scene) -> AsyncIterator[None]:
        backend = instrumented_backend_of(scene.broadcaster)

        def fail(*_: Any, **__: Any) -> Any:
            raise OSError("away")

        yield
        with scene.patch.context() as patch:
            method = METHODS.get(call, call)
            patch.setattr(backend.inner, method, fail)
            arguments, words = ARGUMENTS.get(call, ((), {}))
            with pytest.raises(OSError, match="away"):
                await ask(backend, method, *arguments, **words)

    return a_backend_that_fails


async def a_backend_that_lost_something(scene: Scene) -> AsyncIterator[None]:
    def find(*_: Any) -> SlicedWork[StartPoint]:
        yield from ()
        return StartPoint(0, reset_reason=ResetReason.BACKEND)

    scene.patch.setattr(backend_of(scene.broadcaster), "find", find)
    yield
    await scene.events("/events?last_event_id=01234567-1", 1)


async def a_publish_that_fails(scene: Scene) -> AsyncIterator[None]:
    async def fail(*_: Any) -> Any:
        raise OSError("away")

    scene.patch.setattr(backend_of(scene.broadcaster), "publish", fail)
    yield
    client = await scene.server.connect()
    await client.request("POST", "/send", body=b"x")
    assert (await client.rest()).startswith(b"HTTP/1.1 500 ")


async def a_replay_that_fails(scene: Scene) -> AsyncIterator[None]:
    await scene.publish()

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("away")

    scene.patch.setattr(backend_of(scene.broadcaster), "replay", fail)
    yield
    subscriber = await scene.read("/events?since=earliest")
    with pytest.raises(ConnectionError):
        await subscriber.rest()


def count(name: str, value: float | None = 1, **labels: str) -> Moves:
    """Return the expected difference of one series."""
    said = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return {f"{name}{{{said}}}": value}


def called(call: str, value: float | None = 1) -> Moves:
    return count("backend_calls_total", value, call=call)


def failed(call: str) -> Moves:
    calls = {} if TIDE.match(f'backend_calls_total{{call="{call}"}}') else called(call)
    return calls | count("backend_errors_total", call=call)


def delivered(value: float | None, kind: str = "http") -> Moves:
    return count("delivered_events_total", value, kind=kind)


def closed(reason: str, kind: str = "http") -> Moves:
    return count("closed_subscriptions_total", kind=kind, reason=reason)


def reset(reason: str) -> Moves:
    return count("resets_total", reason=reason)


def not_served(endpoint: str, status: str) -> Moves:
    return count("refused_requests_total", endpoint=endpoint, status=status)


def turned_away(reason: str, *shares: str) -> Moves:
    return count("refused_connections_total", reason=reason) | shared(*shares)


def shared(*shares: str) -> Moves:
    return {f'share_reached_total{{share="{share}"}}': 1 for share in shares}


def of_news(*names: str) -> Moves:
    return {f'channel_{name}{{channel="news"}}': 1 for name in names}


def gone(reason: str) -> Moves:
    return WENT | closed(reason)


def without(moves: Moves, *series: str) -> Moves:
    return {name: move for name, move in moves.items() if name not in series}


STREAM_CAME: Moves = {
    'opened_subscriptions_total{kind="stream"}': 1,
    'subscribers{kind="stream"}': 1,
    "queued_events_gcount": 1,
    "queued_bytes_gcount": 1,
}
STREAM_WENT: Moves = {'subscribers{kind="stream"}': -1, "queued_events_gcount": -1, "queued_bytes_gcount": -1}
FOUND = called("find") | called("replay", ANY)
REPLAYED = FOUND | {"replay_events_count": 1, "replay_duration_seconds_count": 1}
ONE_LESS: Moves = {"queued_events_gsum": -1, "queued_bytes_gsum": ANY}
TWO_LESS: Moves = {"queued_events_gsum": -2, "queued_bytes_gsum": ANY}
FAREWELL: Moves = {"written_bytes_total": ANY, "delivery_slices_total": ANY}
ONE_PASS: Moves = {"delivery_slices_total": 1, "delivery_delay_seconds_count": 1}
LONG_PASS: Moves = {"delivery_interruptions_total": ANY, "delivery_delay_seconds_count": 1}


async def publish_with_a_key(scene: Scene) -> None:
    await scene.publish(headers="Idempotency-Key: k\r\n")


async def publish_twice(scene: Scene) -> None:
    await scene.publish()
    await scene.publish()


BATCH = b'{"message":"a"}\n{"message":"b"}\n{"message":"c"}\n'
NDJSON = "Content-Type: application/x-ndjson\r\n"
JSON = "Content-Type: application/json\r\n"

CAUSES: list[tuple[Cause, Moves]] = [
    (once(lambda _: None), {}),
    (once(Scene.publish), FIRST),
    (
        once(lambda scene: scene.publish(BATCH, headers=NDJSON)),
        FIRST | {"published_events_total": 3, "history_events": 3},
    ),
    (after(publish_with_a_key, publish_with_a_key), called("publish")),
    (
        after(lambda scene: scene.publish(b"short"), Scene.publish, history_size=1),
        without(PUBLISHED, "history_events"),
    ),
    (
        once(lambda scene: scene.publish(path="/send/news,others"), **NAMED),
        FIRST | LOOKED | {"history_channels": 2} | of_news("published_events_total", "history_events"),
    ),
    (once(lambda scene: scene.read("/events/news,others"), **NAMED), CAME | LOOKED | of_news("subscribers")),
    (a_publish_to_two_readers, FIRST | WRITTEN | delivered(2) | ONE_PASS),
    (once(Scene.read), CAME),
    (a_reader_that_leaves, gone("left")),
    (once(lambda scene: scene.server.connect()), {"connections": 1}),
    (a_stream, STREAM_CAME),
    (a_stream_that_takes_an_event, FIRST | delivered(1, "stream")),
    (a_stream_that_is_closed, STREAM_WENT | closed("left", "stream")),
    (a_stream_that_is_too_slow, PUBLISHED | STREAM_WENT | ONE_LESS | closed("slow", "stream")),
    (
        after(publish_twice, lambda scene: scene.events("/events?since=earliest", 2)),
        CAME | WRITTEN | REPLAYED | delivered(2) | {"replay_events_sum": 2},
    ),
    (
        a_replay_that_waits,
        without(CAME, "queued_events_gcount", "queued_bytes_gcount")
        | (WRITTEN | FOUND | delivered(ANY) | {"replaying_subscribers": 1}),
    ),
    (
        once(lambda scene: scene.events("/events?last_event_id=nobody-knows", 1)),
        CAME | called("find") | reset("unknown"),
    ),
    (
        once(lambda scene: scene.events("/events?last_event_id=01234567-1", 1)),
        CAME | called("find") | reset("epoch"),
    ),
    (a_backend_that_lost_something, CAME | called("find") | reset("backend")),
    (an_id_that_is_too_old, CAME | WRITTEN | REPLAYED | {"replay_events_sum": 1} | reset("evicted")),
    (dropping("drop-newest"), PUBLISHED | count("dropped_events_total", policy="drop-newest")),
    (dropping("drop-oldest"), PUBLISHED | count("dropped_events_total", policy="drop-oldest")),
    (a_loss_that_is_told, WRITTEN | delivered(ANY) | TWO_LESS | reset("slow")),
    (
        after(Scene.fill_up, Scene.publish, send_buffer=4096, queue_size=1),
        PUBLISHED | without(gone("slow"), "connections") | ONE_LESS,
    ),
    (
        after(Scene.fill, lambda _: None, send_buffer=4096, write_timeout=0.5),
        gone("stalled") | count("heartbeat_timeouts_total", cause="full") | {"aborted_connections_total": 1},
    ),
    (
        a_reader_that_has_gone_unseen,
        {
            **without(gone("left"), "connections"),
            "unreported_disconnects_total": 1,
            "delivery_slices_total": ANY,
        },
    ),
    (a_heartbeat, FAREWELL | {"heartbeats_total": ANY}),
    (a_write_that_fails, FIRST | gone("error") | ONE_PASS),
    *(
        (ending(reason), {**gone(reason), **FAREWELL})
        for reason in CloseReason
        if reason in {"drain", "expired", "lifetime", "disconnected", "revoked"}
    ),
    (a_drain_of_a_stream, STREAM_WENT | closed("drain", "stream")),
    (a_walk_that_takes_long, FIRST | WRITTEN | delivered(81) | LONG_PASS),
    (refused("/nowhere"), not_served("other", "404")),
    (refused("/send/a!b", method="POST"), not_served("publish", "400")),
    (refused("/channels/a!b"), not_served("inspect", "400")),
    (a_browser_that_is_turned_away, not_served("subscribe", "429")),
    (once(lambda scene: scene.ask("POST", "/revoke", body=b'{"id":"x"}', headers=JSON)), {"revocations": 1}),
    *((a_share_that_is_reached(share), shared(share)) for share in SERVER_SHARES),
    (once(a_connection_too_many, max_connections=1), turned_away("full", "connections")),
    (a_connection_too_many_of_an_address, turned_away("address", "connections")),
    (an_address_with_its_share_of_the_reserve, turned_away("full", "connections", "reserve")),
    (
        after(
            a_publisher_with_most_channels,
            lambda scene: scene.publish_by("other", ("x", "c")),
            history_channels=2,
        ),
        without(PUBLISHED, "history_events", "history_bytes") | shared("history_channels"),
    ),
    (a_publisher_with_most_keys, PUBLISHED | shared("idempotency_keys")),
    (
        after(
            lambda scene: scene.publish_by("other", ("x", "a")),
            lambda scene: scene.publish_by("", ("x" * 10_000, "default")),
            history_total=20_000,
        ),
        without(PUBLISHED, "history_events") | shared("history_total"),
    ),
    (once(lambda scene: scene.server.admission.count_failure()), turned_away("handshake")),
    (once(a_connection_that_says_nothing, head_timeout=0.2), turned_away("silent")),
    (a_connection_that_speaks_no_http, {"connections": -1} | turned_away("malformed")),
    (
        once(a_connection_that_does_not_take_its_answers, write_timeout=0.2, send_buffer=4096),
        turned_away("stalled"),
    ),
    (once(lambda scene: scene.broadcaster.metrics.log_lines_lost(2)), {"lost_log_lines_total": 2}),
    (once(lambda scene: scene.ask("GET", "/channels")), called("channels")),
    (once(lambda scene: scene.ask("GET", "/channels/a")), called("holding")),
    (once(lambda scene: scene.broadcaster.reload(scene.server.config)), called("relimit")),
    (a_question_about_a_reader_that_catches_up, called("oldest", ANY)),
    *((failing(call), failed(call)) for call in CALLS),
    (a_publish_that_fails, failed("publish") | not_served("publish", "500")),
    (
        a_replay_that_fails,
        count("opened_subscriptions_total", kind="http")
        | (closed("error") | called("find") | failed("replay") | called("oldest"))
        | {"delivery_slices_total": 1},
    ),
]


def agree(found: Samples, expected: Moves) -> bool:
    """Return whether exactly the expected series have changed, by the expected amounts."""
    return found.keys() == expected.keys() and all(
        amount in {ANY, found[series]} for series, amount in expected.items()
    )


@pytest.mark.parametrize(
    ("cause", "expected"),
    CAUSES,
    ids=[
        f"{number}-{next(iter(moves), 'nothing').partition('{')[0]}"
        for number, (_, moves) in enumerate(CAUSES)
    ],
)
async def test_each_cause_changes_exactly_its_metrics(
    cause: Cause, expected: Moves, serve: Serve, monkeypatch: Patch
) -> None:
    """All series are compared before and after, except those that change with time."""
    scene = Scene(serve, monkeypatch)
    await scene.open(**getattr(cause, "settings", {}))
    steps = cause(scene)
    await anext(steps)
    before = await samples(scene.client)
    await anext(steps, None)
    found = await settled(scene, before, expected)
    assert dict(found) == {
        series: found.get(series) if move is ANY else move for series, move in expected.items()
    }
    await anext(steps, None)


async def settled(scene: Scene, before: Samples, expected: Moves) -> Samples:
    """Return the differences once they are the expected ones, or when nothing more changes."""
    found: Samples = {}
    for _ in range(40):
        found = moved(before, await samples(scene.client))
        if agree(found, expected):
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.02)  # what comes late is one too many
    return moved(before, await samples(scene.client))


async def test_every_series_has_a_cause_in_the_table(serve: Serve) -> None:
    """Excepted are series that change with time and series that never change."""
    server = await serve(**NAMED)
    found = await samples(await server.connect())
    known = {series for _, expected in CAUSES for series in expected}
    without_cause = {
        series
        for series in found.keys() - known
        if not TIDE.match(series) and series.partition("{")[0] not in STILL
    }
    assert without_cause == set()
    words = {series.partition("{")[0] for series in known}
    assert words - {series.partition("{")[0] for series in found} == {"refused_requests_total"}


async def test_queue_histograms_count_subscribers_by_backlog(serve: Serve) -> None:
    """One subscriber has an empty backlog, another three events."""
    server, client = await serve.connected(**BRIEF)
    attach(server.broadcaster)
    outbox, sink = attach(server.broadcaster)
    sink.takes_more = False
    for _ in range(4):
        await server.broadcaster.broadcast("x" * 1000)
        await until(lambda: not outbox.group.log)
    text = (await scrape(client)).decode()
    assert [line for line in text.splitlines() if line.startswith("sse_broadcast_queued_")] == [
        'sse_broadcast_queued_events_bucket{le="0.0"} 1.0',
        'sse_broadcast_queued_events_bucket{le="1.0"} 1.0',
        'sse_broadcast_queued_events_bucket{le="10.0"} 2.0',
        'sse_broadcast_queued_events_bucket{le="100.0"} 2.0',
        'sse_broadcast_queued_events_bucket{le="1000.0"} 2.0',
        'sse_broadcast_queued_events_bucket{le="10000.0"} 2.0',
        'sse_broadcast_queued_events_bucket{le="100000.0"} 2.0',
        'sse_broadcast_queued_events_bucket{le="+Inf"} 2.0',
        "sse_broadcast_queued_events_gcount 2.0",
        "sse_broadcast_queued_events_gsum 3.0",
        'sse_broadcast_queued_bytes_bucket{le="0.0"} 1.0',
        'sse_broadcast_queued_bytes_bucket{le="1024.0"} 1.0',
        'sse_broadcast_queued_bytes_bucket{le="16384.0"} 2.0',
        'sse_broadcast_queued_bytes_bucket{le="65536.0"} 2.0',
        'sse_broadcast_queued_bytes_bucket{le="262144.0"} 2.0',
        'sse_broadcast_queued_bytes_bucket{le="1048576.0"} 2.0',
        'sse_broadcast_queued_bytes_bucket{le="4194304.0"} 2.0',
        'sse_broadcast_queued_bytes_bucket{le="16777216.0"} 2.0',
        'sse_broadcast_queued_bytes_bucket{le="+Inf"} 2.0',
        "sse_broadcast_queued_bytes_gcount 2.0",
        f"sse_broadcast_queued_bytes_gsum {float(outbox.waiting_bytes)}",
    ]


async def test_promtool_finds_no_problem(serve: Serve, program: Program) -> None:
    """It checks names, units and the format, on an idle server and after much has happened."""
    server, client = await serve.connected(**NAMED)
    for _ in range(2):
        done = subprocess.run(
            [program("promtool"), "check", "metrics"],
            input=await scrape(client),
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        subscriber = await server.subscriber("/events?since=earliest")
        await client.ask("POST", "/send/a!b", body=b"x")
        await client.ask("POST", "/send", body=b"x")
        await subscriber.events(1)


ACCEPTS = {
    "": "text/plain; version=0.0.4; charset=utf-8",
    "*/*": "text/plain; version=0.0.4; charset=utf-8",
    "text/html": "text/plain; version=0.0.4; charset=utf-8",
    "text/plain;version=0.0.4": "text/plain; version=0.0.4; charset=utf-8",
    "text/plain;version=nonsense": "text/plain; version=0.0.4; charset=utf-8",
    "application/openmetrics-text;version=nonsense": "text/plain; version=0.0.4; charset=utf-8",
    "application/openmetrics-text;version=1.5.0": "text/plain; version=0.0.4; charset=utf-8",
    "application/openmetrics-text;version=0.0.1": "text/plain; version=0.0.4; charset=utf-8",
    "text/plain;version=7.0.0": "text/plain; version=0.0.4; charset=utf-8",
    "application/openmetrics-text;version=9.9.9,application/openmetrics-text; version=1.0.0;q=0.5": (
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
    ),
    "text/plain;version=1.0.0": "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
    "application/openmetrics-text": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5": (
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
    ),
}


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_accept_selects_the_format(client: RawClient, accept: str) -> None:
    """It is Prometheus text or OpenMetrics. The parser of each accepts it."""
    headers = f"Accept: {accept}\r\n" if accept else ""
    await client.request("GET", "/metrics", headers=headers)
    head = (await client.head()).decode()
    assert f"\r\nContent-Type: {ACCEPTS[accept]}\r\n" in head
    assert "\r\nCache-Control: no-store\r\n" in head
    length = re.search(r"Content-Length: (\d+)", head)
    assert length is not None
    text = (await client.take(int(length[1]))).decode()
    read = read_openmetrics if "openmetrics" in ACCEPTS[accept] else read_text
    names = {family.name for family in read(text)}
    assert {"sse_broadcast_subscribers", "sse_broadcast_queued_events"} <= names


def test_the_content_type_repeats_nothing_of_accept() -> None:
    """A line end in Accept could otherwise add a header. Only the version number is taken from it."""
    assert encoder("application/openmetrics-text;version=x\r\nX: y")[1] == ACCEPTS[""]


async def test_metrics_have_head_and_options(client: RawClient) -> None:
    await client.request("HEAD", "/metrics")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    await client.request("OPTIONS", "/metrics")
    assert b"\r\nAllow: GET, HEAD, OPTIONS\r\n" in await client.head()


async def test_metrics_can_be_switched_off(serve: Serve) -> None:
    """The path is a 404 then. The counters are still in the status."""
    client = await (await serve(metrics=False)).connect()
    for method in ("GET", "HEAD"):
        await client.request(method, "/metrics")
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 404 ")
        if method == "GET":
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            detail = b"nothing is at /metrics: the setting metrics is off"
            reported = b'{"title":"Not Found","status":404,"detail":"%s"}\n' % detail
            assert await client.take(int(length[1])) == reported
    assert b'"refused":{"404":2}' in (await client.ask("GET", "/status"))[1]


async def test_two_servers_in_one_process_have_separate_metrics(serve: Serve) -> None:
    """Neither is in prometheus_client's registry of the process."""
    one, other = await serve(), await serve()
    await one.broadcaster.broadcast("x")
    found = [await samples(await server.connect()) for server in (one, other)]
    assert [each["publishes_total"] for each in found] == [1, 0]


async def test_a_mounted_application_has_all_metrics_but_connections() -> None:
    """The connections belong to its runner. The lag of the loop is measured while it runs."""
    app = create_app(Config())
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    client = await RawClient.open(port)
    try:
        found = await samples(client)
        assert "subscribers" not in found
        assert found['subscribers{kind="http"}'] == 0
        assert "connections" not in found
        metrics = app[BROADCASTER].metrics
        await until(lambda: metrics.loop_lag.count > 1)
    finally:
        client.close()
        await runner.cleanup()
    looks = metrics.loop_lag.count
    await asyncio.sleep(0.25)
    assert metrics.loop_lag.count == looks


async def test_a_reload_changes_the_channels_with_metrics(serve: Serve) -> None:
    """Counters of channels that stay go on. The series of other channels end."""
    server, client = await serve.connected(metrics_channels=("a", "b"))
    await server.broadcaster.broadcast("x", channels=("a", "b"))
    server.broadcaster.reload(Config(metrics_channels=("b", "c")))
    found = await samples(client)
    assert {series: value for series, value in found.items() if series.startswith("channel_published")} == {
        'channel_published_events_total{channel="b"}': 1,
        'channel_published_events_total{channel="c"}': 0,
    }
