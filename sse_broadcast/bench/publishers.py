"""Publishers of a run: each sends its events when they are due, whether or not the server keeps up."""

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import cast

from sse_broadcast.bench.histogram import LatencyHistogram
from sse_broadcast.bench.http_connection import PeerAddress, new_parser, parse_failure
from sse_broadcast.bench.payload import Marker, Markers
from sse_broadcast.bench.plan import Plan, Shot
from sse_broadcast.bench.target import Target

ANSWER_TIMEOUT = 30.0
"""Seconds in which a publish is answered, or has failed."""

TIMER_ERROR = 0.0015
"""Seconds by which a timer of the loop may be late: epoll and libuv count milliseconds."""

MAX_SPUN_RATE = 200.0
"""Events a second up to which the last `TIMER_ERROR` before each is waited out exactly, turn by turn."""


@dataclass(slots=True)
class PublishTally:
    """What the publishers of a run have sent. `last` and `failed` are by publisher and channel."""

    answer: LatencyHistogram = field(default_factory=LatencyHistogram)
    lateness: LatencyHistogram = field(default_factory=LatencyHistogram)
    """Seconds an event left after it was due *and* its publisher was free: the load generator's own doing."""
    published: int = 0
    last: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    failed: defaultdict[tuple[int, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    failures: Counter[str] = field(default_factory=Counter)
    published_on: Counter[int] = field(default_factory=Counter)


class PublishConnection(asyncio.Protocol):
    """One kept connection, with one request at a time."""

    def __init__(self) -> None:
        self._parser = new_parser(self)
        self._failure = parse_failure()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self.answered = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> "asyncio.Future[int]":
        """Send a request; the future has the status, or a `ConnectionError`."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer."""
        try:
            self._parser.feed_data(data)
        except self._failure:
            self._fail("no HTTP")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Ignore a header."""

    def on_headers_complete(self) -> None:
        """Do nothing: the answer counts when it is complete."""

    def on_body(self, body: bytes) -> None:
        """Ignore what the answer says."""

    def on_message_complete(self) -> None:
        """Set the status of the answer, for which the publisher waits."""
        self.answered = time.monotonic()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(self._parser.get_status_code())
        keeps = self._parser.should_keep_alive()
        self._parser = new_parser(self)
        if not keeps:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio has it
        """Fail what was not answered."""
        self._fail("the connection was closed")

    def _fail(self, reason: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(ConnectionError(reason))
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()


class LoadPublisher:
    """One publisher. It sends its events in order, and none before the one before it was answered.

    So the server alone can put its events out of order. What waits for an answer is late, and its latency
    counts from when it was due.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a publisher is made of
        self,
        number: int,
        plan: Plan,
        target: Target,
        address: PeerAddress,
        markers: Markers,
        sent: PublishTally,
    ) -> None:
        self._number = number
        self._plan = plan
        self._target = target
        self._address = address
        self._markers = markers
        self._sent = sent
        self._connection: PublishConnection | None = None

    async def connect(self) -> None:
        """Open the connection before the load begins. Raises `OSError`, `TimeoutError`."""
        self._connection = await self._address.connect(PublishConnection)

    async def publish(self, start: float) -> None:
        """Send what is due, until the load is over. `start` is in seconds of CLOCK_MONOTONIC."""
        end = start + self._plan.duration
        for shot in self._plan.shots(self._number):
            due = start + shot.due
            await self._wait_until(due)
            if time.monotonic() >= end:
                return
            await self._send(shot, due)

    async def _wait_until(self, due: float) -> None:
        left = due - time.monotonic()
        spins = self._plan.rate <= MAX_SPUN_RATE
        early = TIMER_ERROR if spins else 0.0
        if left > early:
            await asyncio.sleep(left - early)
        while spins and time.monotonic() < due:  # noqa: ASYNC110 - a clock sets no event
            await asyncio.sleep(0)

    async def _send(self, shot: Shot, due: float) -> None:
        key = (shot.publisher, shot.channel)
        marker = Marker(due, shot.publisher, shot.sequence, shot.channel)
        message = self._markers.encode(marker, size=self._plan.size)
        request = self._target.publish_request(shot.channel, message, self._address)
        self._sent.last[key] = shot.sequence
        begun = time.monotonic()
        try:
            free = await self._free()
            begun = time.monotonic()
            self._sent.lateness.record(max(begun - max(due, free.answered), 0.0))
            async with asyncio.timeout(ANSWER_TIMEOUT):
                status = await free.send(request)
        except (OSError, TimeoutError) as error:
            self._fail(key, shot.sequence, str(error) or "no answer")
            return
        self._sent.answer.record(time.monotonic() - begun)
        if not 200 <= status < 300:
            self._fail(key, shot.sequence, f"status {status}")
            return
        self._sent.published += 1
        self._sent.published_on[shot.channel] += 1

    def _fail(self, key: tuple[int, int], sequence: int, reason: str) -> None:
        self._sent.failed[key].add(sequence)
        self._sent.failures[reason] += 1
        if reason == "no answer" and self._connection is not None:
            self._connection.close()

    async def _free(self) -> PublishConnection:
        if self._connection is None or not self._connection.is_usable:
            before = self._connection.answered if self._connection is not None else 0.0
            self._connection = await self._address.connect(PublishConnection)
            self._connection.answered = max(before, time.monotonic())
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
