"""Probes of a stream; each fault that a real proxy makes is in test_examination.py."""

from collections.abc import Mapping

import pytest

from sse_broadcast.doctor import stream_probes
from sse_broadcast.doctor.connection import ProbeConnection
from sse_broadcast.doctor.findings import Fault, Level
from sse_broadcast.doctor.stream_probes import (
    examine_answer,
    examine_clock,
    examine_headers,
    examine_upstream_version,
    probe_buffering,
    probe_compression,
    probe_eviction,
    probe_held_body,
    probe_leaving,
    probe_silence,
)
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import scripted
from tests.support.scripted import END, OPENED, STREAM, Held, Speak, chunk, plain

speak = pytest.fixture(scripted.speak)

GOOD = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store, no-transform"}

CLOSE = b'event: $close\nretry: 2000\ndata: {"reason": "backend"}\n\n'

PUBLISHED = plain("200 OK", "application/json", '{"status": "sent", "clients": 1, "id": "a-1"}')


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({"content-type": "text/event-stream"}, "Content-Type is 'text/event-stream', not "),
        ({"cache-control": "no-store"}, "Cache-Control has no no-transform"),
        ({"cache-control": "public"}, "Cache-Control has no no-store; Cache-Control has no no-transform"),
        ({"etag": "x", "content-length": "3"}, "content-length was added; etag was added"),
    ],
)
def test_a_header_that_was_changed_is_named(headers: Mapping[str, str], seen: str) -> None:
    finding = examine_headers({**GOOD, **headers})
    assert finding.fault is Fault.HEADERS
    assert finding.seen.startswith(seen)


def test_the_server_s_own_headers_are_right() -> None:
    assert examine_headers(GOOD).level is Level.OK
    assert examine_headers({**GOOD, "content-type": "text/event-stream;charset=UTF-8"}).level is Level.OK


def test_the_version_behind_a_proxy_is_told_by_the_server() -> None:
    assert examine_upstream_version(GOOD).level is Level.OK
    told = examine_upstream_version({**GOOD, "sse-broadcast-request": "HTTP/1.0"})
    assert told.fault is Fault.HTTP_1_0


@pytest.mark.parametrize(
    ("now", "seconds", "fault"),
    [
        (1_000_000_000.9, 0.1, False),
        (1_000_000_009, 0.1, False),
        (1_000_000_060, 0.1, True),
        (999_999_940, 0, True),
    ],
)
def test_clocks_are_compared(now: float, seconds: float, fault: bool) -> None:  # noqa: FBT001
    answer = {"date": "Sun, 09 Sep 2001 01:46:40 GMT"}
    assert (examine_clock(answer, seconds=seconds, now=now).fault is Fault.CLOCK) is fault


def test_a_slow_answer_is_no_wrong_clock() -> None:
    """It may have been written at any time since it was asked for."""
    answer = {"date": "Sun, 09 Sep 2001 01:46:40 GMT"}
    assert examine_clock(answer, seconds=30, now=1_000_000_030).level is Level.OK
    assert examine_clock({}, seconds=0, now=0).level is Level.SKIPPED


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (plain("502 Bad Gateway", "text/html", "x"), Fault.AWAY),
        (plain("401 Unauthorized", "application/problem+json", "{}"), Fault.REFUSED),
        (plain("404 Not Found", "text/plain", "x"), Fault.NOT_A_STREAM),
        (plain("200 OK", "text/html", "<p>welcome"), Fault.NOT_A_STREAM),
    ],
)
async def test_an_answer_that_is_no_stream_has_its_meaning(speak: Speak, answer: bytes, fault: Fault) -> None:
    script = await speak(answer, b"")
    async with ProbeConnection(script.url) as connection, connection.stream("/events/x") as stream:
        assert examine_answer(stream, "welcome").fault is fault
    assert examine_answer(None, "").fault is Fault.BUFFERING


async def test_an_opening_that_does_not_come_is_buffering(speak: Speak) -> None:
    script = await speak(Held(STREAM))
    async with ProbeConnection(script.url, patience=0.1) as connection:
        *_, last = [each async for each in probe_buffering(connection, "x")]
    assert (last.fault, last.seen) == (
        Fault.BUFFERING,
        "a stream without a byte for 0.1 s; the server writes some at once",
    )


async def test_an_event_that_does_not_come_is_buffering(speak: Speak) -> None:
    script = await speak(Held(OPENED), PUBLISHED, b"")
    async with ProbeConnection(script.url, patience=0.2) as connection:
        *_, last = [each async for each in probe_buffering(connection, "x")]
    assert (last.fault, last.seen) == (
        Fault.BUFFERING,
        "event 1 of 5 did not come within 0.2 s of its publish",
    )


async def test_a_proxy_that_answers_for_the_server_is_told(speak: Speak) -> None:
    script = await speak(Held(STREAM + chunk(CLOSE)))
    async with ProbeConnection(script.url, patience=0.2) as connection:
        *_, last = [each async for each in probe_buffering(connection, "x")]
    assert last.fault is Fault.AWAY


async def test_a_stream_that_the_server_ends_is_no_timeout(speak: Speak) -> None:
    """A restart: what counts is how the reconnection goes."""
    script = await speak(OPENED + chunk(CLOSE) + END, Held(OPENED))
    async with ProbeConnection(script.url) as connection:
        (found,) = await probe_silence(connection, "x", 30)
    assert (found.probe, found.level) == ("reconnection", Level.OK)


async def test_a_stream_that_is_cut_is(speak: Speak) -> None:
    script = await speak(OPENED, Held(OPENED))
    async with ProbeConnection(script.url) as connection:
        found = await probe_silence(connection, "x", 30)
    assert [each.fault for each in found] == [Fault.IDLE, None]
    assert "GET /events/x?heartbeat=60 HTTP/1.1" in script.heads[0]


async def test_a_reconnection_that_gets_an_error_is_told(speak: Speak) -> None:
    script = await speak(OPENED, plain("502 Bad Gateway", "text/html", ""), b"")
    async with ProbeConnection(script.url) as connection:
        found = await probe_silence(connection, "x", 30)
    assert [each.fault for each in found] == [Fault.IDLE, Fault.AWAY]


async def test_a_server_that_stays_away_as_it_should_is_noted(speak: Speak) -> None:
    away = STREAM + chunk(CLOSE) + END
    script = await speak(OPENED + chunk(CLOSE) + END, *[away] * 20, b"")
    async with ProbeConnection(script.url, patience=0.2) as connection:
        (found,) = await probe_silence(connection, "x", 30)
    assert (found.probe, found.level) == ("reconnection", Level.NOTE)


async def test_a_subscriber_that_left_and_is_still_served_is_a_fault(speak: Speak) -> None:
    script = await speak(OPENED, *[PUBLISHED] * 100, b"")
    async with ProbeConnection(script.url, patience=0.1) as connection:
        assert (await probe_leaving(connection, "x")).fault is Fault.LEAVING


async def test_the_server_itself_passes_each_probe(server: Server) -> None:
    async with ProbeConnection(server.url) as connection:
        found = [
            await probe_compression(connection, "x"),
            *await probe_silence(connection, "x", 0.1),
            await probe_leaving(connection, "x"),
            await probe_held_body(connection, "x"),
        ]
    assert [each.level for each in found] == [Level.OK] * 4


async def test_who_is_never_full_is_worth_knowing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve(queue_size=100_000, queue_bytes=2**30, history_size=1)
    monkeypatch.setattr(stream_probes, "MOST_UNREAD", 3)
    async with ProbeConnection(server.url) as connection:
        found = await probe_eviction(connection, "x")
    assert (found.level, found.seen) == (
        Level.NOTE,
        "a subscriber that does not read is still served after 0.2 MB",
    )
