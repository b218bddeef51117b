"""Stream probes: the answer, its headers, buffering, compression, silence, clocks, subscribers that leave."""

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator, Mapping

from sse_broadcast.doctor.connection import Answer, ProbeConnection, ProbeStream
from sse_broadcast.doctor.findings import Fault, Finding, Level, note, ok, skipped
from sse_broadcast.wire import CONTENT_TYPE_HEADER, REQUEST_VERSION_HEADER

PROBES = 5
"""Timed events that are published one after the other."""

MAX_SKEW = 10.0
"""Seconds by which two clocks may differ."""

SPARSE_HEARTBEAT = 60
"""Seconds of silence that a subscriber may ask for: the most that this server grants."""

UNREAD_SIZE = 70_000
MOST_UNREAD = 350
"""Bytes of an event, and how many of them are published to a subscriber that does not read.

Of one above 64 KiB the answer does not repeat the message.
"""

ENDED = b"event: $close"


def fault(kind: Fault, probe: str, seen: str, meaning: str) -> Finding:
    """Return a fault; its cure is added when all proxies are known."""
    return Finding(probe, Level.FAULT, seen, meaning, fault=kind)


def examine_answer(stream: ProbeStream | None, body: str) -> Finding:
    """Return what the answer to a subscriber means. `body` is the beginning of one that is no stream."""
    probe = "answer"
    if stream is None:
        meaning = "a proxy holds the answer until it has more, or the server is away"
        return fault(Fault.BUFFERING, probe, "no answer to a subscriber", meaning)
    status = stream.status
    if stream.is_stream:
        return ok(probe, "200, text/event-stream")
    if status in {401, 403}:
        return fault(
            Fault.REFUSED, probe, f"status {status}", "the probes need a token, and nothing was examined"
        )
    if status >= 500:
        meaning = "the server is away, and an EventSource that is told so gives up for good"
        return fault(Fault.AWAY, probe, f"status {status} instead of a stream", meaning)
    kind = stream.headers.get("content-type", "none")
    seen = f"status {status}, content type {kind[:80]!a}"
    return fault(
        Fault.NOT_A_STREAM, probe, seen, f"no stream is served here: {' '.join(body.split())[:80]!a}"
    )


def examine_headers(headers: Mapping[str, str]) -> Finding:
    """Return which headers of a stream were stripped, changed or added on the way."""
    wrong = []
    kind = headers.get("content-type", "")
    if kind.replace(" ", "").lower() != CONTENT_TYPE_HEADER.replace(" ", ""):
        wrong.append(f"Content-Type is {kind!a}, not {CONTENT_TYPE_HEADER!a}")
    control = headers.get("cache-control", "")
    wrong += [f"Cache-Control has no {word}" for word in ("no-store", "no-transform") if word not in control]
    wrong += [f"{name} was added" for name in ("content-length", "etag", "expires") if name in headers]
    if not wrong:
        return ok("headers", "as the server sends them")
    meaning = "something on the way changes the headers that keep others from caching or changing a stream"
    return fault(Fault.HEADERS, "headers", "; ".join(wrong), meaning)


def examine_upstream_version(headers: Mapping[str, str]) -> Finding:
    """Return whether the server was asked in HTTP/1.0."""
    probe = "upstream version"
    if headers.get(REQUEST_VERSION_HEADER.lower()) != "HTTP/1.0":
        return ok(probe, "HTTP/1.1")
    meaning = "a stream that breaks looks as if it had ended, and each publish takes a new connection"
    return fault(Fault.HTTP_1_0, probe, "the server was asked in HTTP/1.0", meaning)


def examine_clock(answer: Mapping[str, str], *, seconds: float, now: float) -> Finding:
    """Return how far the clocks differ. `seconds` is how long the answer took, `now` the time of its end."""
    date = answer.get("date")
    try:
        there = email.utils.parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError):
        return skipped("clock", "the answer has no Date")
    # A Date has whole seconds, and was written at some time while the answer was under way.
    skew = now - seconds / 2 - there - 0.5
    off = max(abs(skew) - seconds / 2 - 0.5, 0.0)
    if off > MAX_SKEW:
        which = "behind" if skew > 0 else "ahead of"
        seen = f"the server's clock is {abs(skew):.0f} s {which} this one"
        return fault(
            Fault.CLOCK, "clock", seen, "tokens expire at the wrong time, and `since=10m` is not ten"
        )
    return ok("clock", f"within {max(off, 1.0):.0f} s of this one")


async def probe_buffering(connection: ProbeConnection, channel: str) -> AsyncIterator[Finding]:
    """Publish timed events, and see whether each comes at once. Yields several findings."""
    async with connection.stream(f"/events/{channel}") as stream:
        if stream is None:
            yield fault(Fault.BUFFERING, "buffering", "no answer to a second subscriber", "a proxy holds it")
            return
        yield examine_headers(stream.headers)
        yield examine_upstream_version(stream.headers)
        now, seconds = time.time(), time.monotonic() - stream.opened_at
        yield examine_clock(stream.headers, seconds=seconds, now=now)
        if await stream.event("$open", connection.patience) is None:
            yield _unopened(stream, connection.patience)
            return
        slowest = 0.0
        for number in range(PROBES):
            begun = time.monotonic()
            answer = await connection.publish(channel, f"probe {number}")
            if answer is None or answer.status != 200:
                yield _unpublished(answer)
                return
            found = await stream.event(None, connection.patience)
            if found is None:
                yield _held(number, connection.patience)
                return
            slowest = max(slowest, time.monotonic() - begun)
        yield ok("buffering", f"none: {PROBES} events came at once, the slowest in {slowest * 1e3:.0f} ms")


def _unopened(stream: ProbeStream, patience: float) -> Finding:
    if ENDED in stream.raw:
        meaning = "the server is away; clients come back by themselves"
        return fault(Fault.AWAY, "buffering", "the proxy answers for a server that is away", meaning)
    if stream.raw:
        seen = f"{len(stream.raw)} bytes that are no opening of this server"
        return fault(Fault.NOT_A_STREAM, "buffering", seen, "another program answers, or an old cache does")
    seen = f"a stream without a byte for {patience:g} s; the server writes some at once"
    return fault(Fault.BUFFERING, "buffering", seen, "a proxy collects what it should send on")


def _held(number: int, patience: float) -> Finding:
    seen = f"event {number + 1} of {PROBES} did not come within {patience:g} s of its publish"
    return fault(Fault.BUFFERING, "buffering", seen, "a proxy collects events until its buffer is full")


def _unpublished(answer: Answer | None) -> Finding:
    seen = "no answer to a publish" if answer is None else f"a publish was answered with {answer.status}"
    if answer is not None and answer.status in {401, 403}:
        return fault(Fault.REFUSED, "publish", seen, "the probes need to publish on a channel of their own")
    return fault(Fault.NOT_A_STREAM, "publish", seen, "a proxy does not pass /send")


async def probe_compression(connection: ProbeConnection, channel: str) -> Finding:
    """Ask as a browser does, which takes gzip, and see whether the stream stays as it is."""
    async with connection.stream(f"/events/{channel}", Accept_Encoding="gzip, deflate, br, zstd") as stream:
        if stream is None or not stream.is_stream:
            return skipped("compression", "no stream")
        coding = stream.headers.get("content-encoding")
        if coding is None:
            return ok("compression", "none")
        await stream.more_than(0, connection.patience)
        before = len(stream.raw)
        await connection.publish(channel, "compressed?")
        held = not await stream.more_than(before, connection.patience)
        seen = f"Content-Encoding: {coding}" + (", and events are held back" if held else "")
        meaning = "a compressor collects what it gets, costs memory for each stream, and may hold events back"
        return fault(Fault.COMPRESSION, "compression", seen, meaning)


async def probe_silence(connection: ProbeConnection, channel: str, seconds: float) -> list[Finding]:
    """Let a stream be silent, and see whether it is cut; if it is, see what a reconnection is told."""
    path = f"/events/{channel}?heartbeat={SPARSE_HEARTBEAT}"
    async with connection.stream(path) as stream:
        if stream is None or not stream.is_stream:
            return [skipped("idle timeout", "no stream")]
        if not await stream.until_ended(seconds):
            return [ok("idle timeout", f"none within {seconds:g} s of silence")]
        silent, closed = stream.ended or 0.0, ENDED in stream.raw
    findings = []
    if not closed:
        seen = f"a silent stream was cut after {silent:.1f} s"
        meaning = (
            f"a subscriber may ask for heartbeats {SPARSE_HEARTBEAT} s apart, and is cut again and again"
        )
        findings.append(fault(Fault.IDLE, "idle timeout", seen, meaning))
    return findings + await _probe_reconnection(connection, path)


async def _probe_reconnection(connection: ProbeConnection, path: str) -> list[Finding]:
    """Come back as an EventSource does, until there is a stream again or an answer that ends it for good."""
    probe, end = "reconnection", time.monotonic() + 2 * connection.patience
    while time.monotonic() < end:
        async with connection.stream(path) as again:
            if again is not None and again.status >= 500:
                seen = f"a reconnection was answered with {again.status}"
                meaning = "an EventSource that is told so gives up for good"
                return [fault(Fault.AWAY, probe, seen, meaning)]
            if again is not None and await again.event("$open", 1.0) is not None:
                return [ok(probe, "a stream that was cut is opened again")]
        await asyncio.sleep(0.2)
    meaning = "each is told to come again, as it should be"
    return [note(probe, "the server stayed away after it had ended a stream", meaning)]


async def probe_leaving(connection: ProbeConnection, channel: str) -> Finding:
    """Leave a stream, and see whether the server notices."""
    probe = "leaving"
    async with connection.stream(f"/events/{channel}") as stream:
        if stream is None or await stream.event("$open", connection.patience) is None:
            return skipped(probe, "no stream")
    begun, patience = time.monotonic(), 2 * connection.patience
    while True:
        answer = await connection.publish(channel, "still there?")
        clients = None if answer is None else answer.json.get("clients")
        if not isinstance(clients, int):
            return skipped(probe, "the answer to a publish has no number of clients")
        took = time.monotonic() - begun
        if not clients:
            return ok(probe, f"a subscriber that leaves is noticed within {took:.1f} s")
        if took > patience:
            seen = f"a subscriber that left {took:.0f} s ago is still served"
            return fault(Fault.LEAVING, probe, seen, "a proxy reads on for nobody, and connections pile up")
        await asyncio.sleep(0.1)


async def probe_held_body(connection: ProbeConnection, channel: str) -> Finding:
    """Publish a line in a request that goes on, and see whether it is passed on."""
    probe = "publishing line by line"
    async with connection.stream(f"/events/{channel}") as stream:
        if stream is None or await stream.event("$open", connection.patience) is None:
            return skipped(probe, "no stream")
        done = asyncio.Event()

        async def lines() -> AsyncIterator[bytes]:
            yield b"a line\n"
            await done.wait()

        path = f"/send/{channel}?stream=1"
        publishing = asyncio.ensure_future(
            connection.ask("POST", path, body=lines(), Content_Type="text/plain")
        )
        try:
            found = await stream.event(None, connection.patience)
        finally:
            done.set()
            await asyncio.gather(publishing, return_exceptions=True)
    if found is not None:
        return ok(probe, "a line is published while its request goes on")
    seen = f"a line was not published within {connection.patience:g} s, while its request went on"
    return fault(
        Fault.HELD_BODY, probe, seen, "a proxy collects a request's body: `tail -F | curl -T -` is held"
    )


async def probe_eviction(connection: ProbeConnection, channel: str) -> Finding:
    """Do not read a stream, publish a lot, and see whether the server ends it."""
    probe, size, most = "eviction", UNREAD_SIZE, MOST_UNREAD
    async with connection.stream(f"/events/{channel}") as stream:
        if stream is None or await stream.event("$open", connection.patience) is None:
            return skipped(probe, "no stream")
        assert stream.reading is not None
        stream.reading.cancel()
        for number in range(most):
            answer = await connection.publish(channel, "x" * size)
            if answer is None or answer.status != 200:
                status = "nothing" if answer is None else answer.status
                return skipped(probe, f"a publish was answered with {status}")
            if answer.json.get("clients") == 0:
                megabytes = (number + 1) * size / 1e6
                return ok(probe, f"a subscriber that does not read is ended after {megabytes:.1f} MB")
    seen = f"a subscriber that does not read is still served after {most * size / 1e6:.1f} MB"
    return note(probe, seen, "proxy and kernel hold that much for each slow subscriber, or it is never full")
