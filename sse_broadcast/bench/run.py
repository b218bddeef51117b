"""Run a benchmark: connect, publish by the clock, wait for what is under way, count."""

import asyncio
import contextlib
import resource
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sse_broadcast.bench.connections import connections_to
from sse_broadcast.bench.histogram import LatencyHistogram
from sse_broadcast.bench.http_connection import PeerAddress, resolve
from sse_broadcast.bench.local_server import ServerProcess, Usage, find_listener
from sse_broadcast.bench.payload import Markers
from sse_broadcast.bench.plan import Plan
from sse_broadcast.bench.publishers import LoadPublisher, PublishTally
from sse_broadcast.bench.subscribers import Subscription, Tally
from sse_broadcast.bench.target import Target
from sse_broadcast.errors import ClientError

CONNECTING = 128
"""Connections that are opened at one time, without a ramp: what the listen queues of most servers hold."""

OPEN_TIMEOUT = 30.0
"""Seconds that a response may take to begin."""

THAW = 1.0
"""Seconds in which a frozen subscriber that reads on comes to its end, if the server has ended it."""

OTHER_FILES = 64
"""Descriptors that are not connections."""

TICK = 0.02
"""Seconds between two looks at how late this process's own loop is."""

Progress = Callable[[str, int, int], object]
"""Told of a phase, how far it is, and how far it goes."""


@dataclass(slots=True)
class Measured:
    """All that was measured in a run."""

    plan: Plan
    url: str
    tally: Tally
    sent: PublishTally
    lag: LatencyHistogram
    """How late the loop of the load generator was."""
    connected: int = 0
    evicted: int = 0
    lost: int = 0
    lost_by_disconnected: int = 0
    expected: int = 0
    connect_seconds: float = 0.0
    load_seconds: float = 0.0
    began: float = 0.0
    own_cpu: float = 0.0
    """Seconds of CPU that the load generator used while it published."""
    server_cpu: float | None = None
    server_memory: int | None = None


async def run_bench(
    plan: Plan,
    target: Target,
    *,
    tls: ssl.SSLContext | None = None,
    server: ServerProcess | None = None,
    progress: Progress = lambda *_: None,
) -> Measured:
    """Run the plan against a target, and return what was measured. Raises `ClientError`, `ExtraError`.

    `server` is the process to be measured; without it, that of a local server is looked for.
    """
    markers = Markers(target.run)
    measured = Measured(plan, target.url, Tally(markers), PublishTally(), LatencyHistogram())
    _raise_descriptor_limit(plan.subscribers + plan.publishers + OTHER_FILES)
    address = await resolve(target.url, tls)
    publish_address = address
    if target.publish_url:
        publish_address = await resolve(target.publish_address, tls)
    if server is None and address.is_local and address.port is not None:
        server = find_listener(address.port)
    benchmark = _Run(measured, target, address, publish_address, server, progress)
    async with contextlib.aclosing(benchmark):
        await benchmark.run()
    return measured


def _raise_descriptor_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < needed:
            raise ClientError(
                f"{needed} descriptors are needed, and the limit is {hard}: ulimit -Hn {needed}"
            )


class _Run:
    """One run, in its phases."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a run is made of
        self,
        measured: Measured,
        target: Target,
        address: PeerAddress,
        publish_address: PeerAddress,
        server: ServerProcess | None,
        progress: Progress,
    ) -> None:
        plan = measured.plan
        self._measured = measured
        self._plan = plan
        self._target = target
        self._address = address
        self._server = server
        self._progress = progress
        self._subscriptions: list[Subscription] = []
        self._connections = connections_to(address)
        self._requests = [target.subscribe_request(number, address) for number in range(plan.channels)]
        markers, sent = measured.tally.markers, measured.sent
        self._publishers = [
            LoadPublisher(number, plan, target, publish_address, markers, sent)
            for number in range(plan.publishers)
        ]

    async def run(self) -> None:
        """Run all phases. Raises `ClientError` where there is nothing to measure."""
        before = self._usage()
        await self._connect_all()
        await self._connect_publishers()
        connected = self._usage()
        if before is not None and connected is not None and self._measured.connected:
            self._measured.server_memory = max(connected.memory - before.memory, 0)
        async with self._watched_loop():
            await self._publish(connected)
        await self._drain()
        self._count()
        await self._thaw()

    def _usage(self) -> Usage | None:
        return None if self._server is None else self._server.usage()

    async def _connect_all(self) -> None:
        plan, begun = self._plan, time.monotonic()
        places = asyncio.Semaphore(CONNECTING)

        async def connect(number: int) -> None:
            if plan.ramp:
                await asyncio.sleep(begun + plan.ramp * number / plan.subscribers - time.monotonic())
            async with places:
                await self._connect(number)
            self._progress("connecting", len(self._subscriptions), plan.subscribers)

        async with asyncio.TaskGroup() as group:
            for number in range(plan.subscribers):
                group.create_task(connect(number))
        measured = self._measured
        measured.connect_seconds = time.monotonic() - begun
        measured.connected = sum(each.is_open for each in self._subscriptions)
        if not measured.connected:
            reasons = ", ".join(measured.tally.refusals) or "no reason"
            raise ClientError(f"cannot subscribe at {self._target.url}: {reasons}")

    async def _connect(self, number: int) -> None:
        plan, tally = self._plan, self._measured.tally
        channel, frozen = number % plan.channels, number < plan.frozen
        subscription = Subscription(tally, channel=channel, publishers=plan.publishers, frozen=frozen)
        self._subscriptions.append(subscription)
        try:
            await self._connections.open(subscription, self._requests[channel])
        except (OSError, TimeoutError) as error:
            tally.refusals[_reason(error)] += 1
            return
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await subscription.opened
        except TimeoutError:
            tally.refusals["no response"] += 1
            subscription.close()

    async def _connect_publishers(self) -> None:
        try:
            await asyncio.gather(*(each.connect() for each in self._publishers))
        except (OSError, TimeoutError) as error:
            raise ClientError(f"cannot publish at {self._target.publish_address}: {_reason(error)}") from None

    async def _publish(self, before: Usage | None) -> None:
        measured = self._measured
        cpu, start = time.process_time(), time.monotonic()
        measured.began = start
        await asyncio.gather(*(each.publish(start) for each in self._publishers))
        self._progress("publishing", *[round(self._plan.duration * 1000)] * 2)
        measured.load_seconds = time.monotonic() - start
        measured.own_cpu = time.process_time() - cpu
        after = self._usage()
        if before is not None and after is not None:
            measured.server_cpu = after.cpu - before.cpu
        sent = measured.sent
        if not sent.published:
            reasons = ", ".join(sent.failures) or "no event was due"
            raise ClientError(f"cannot publish at {self._target.publish_address}: {reasons}")

    @contextlib.asynccontextmanager
    async def _watched_loop(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch_loop())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _watch_loop(self) -> None:
        measured, begun = self._measured, time.monotonic()
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            now = time.monotonic()
            measured.lag.record(max(now - due, 0.0))
            measured.tally.latency.flush()
            done = min(now - begun, self._plan.duration)
            self._progress("publishing", round(done * 1000), round(self._plan.duration * 1000))

    async def _drain(self) -> None:
        """Wait until all has arrived, or nothing has for a while."""
        tally, begun = self._measured.tally, time.monotonic()
        while self._lost_of(still_open=True):
            quiet = time.monotonic() - max(tally.last_delivery, begun)
            if quiet >= self._plan.drain:
                return
            await asyncio.sleep(min(TICK, self._plan.drain))
        # A repeat may come behind the last event.
        await asyncio.sleep(min(10 * TICK, self._plan.drain))

    def _lost_of(self, *, still_open: bool) -> int:
        """Return the events that have not come to the subscribers that read, and are connected or are not."""
        return sum(
            self._lost(each)
            for each in self._subscriptions
            if not each.is_frozen
            and each.opened.done()
            and each.opened.result()
            and each.is_open == still_open
        )

    def _lost(self, subscription: Subscription) -> int:
        sent, channel = self._measured.sent, subscription.channel
        return sum(
            subscription.check.lost(
                publisher,
                sent=sent.last.get((publisher, channel), 0),
                not_published=sent.failed.get((publisher, channel), ()),
            )
            for publisher in range(self._plan.publishers)
        )

    def _count(self) -> None:
        measured = self._measured
        measured.tally.counts = False
        measured.lost = self._lost_of(still_open=True)
        measured.lost_by_disconnected = self._lost_of(still_open=False)
        published = measured.sent.published_on
        measured.expected = sum(
            published[each.channel]
            for each in self._subscriptions
            if not each.is_frozen and each.opened.done() and each.opened.result()
        )

    async def _thaw(self) -> None:
        """Count the frozen subscribers that the server has ended."""
        frozen = [each for each in self._subscriptions if each.is_frozen and each.opened.done()]
        frozen = [each for each in frozen if each.opened.result()]
        for each in frozen:
            if each.is_open:
                each.thaw()
        begun = time.monotonic()
        while any(each.is_open for each in frozen) and time.monotonic() < begun + THAW:  # noqa: ASYNC110
            await asyncio.sleep(TICK)
        self._measured.evicted = sum(not each.is_open for each in frozen)

    async def aclose(self) -> None:
        """Leave, and let the transports close."""
        self._measured.tally.counts = False
        for subscription in self._subscriptions:
            subscription.close()
        for publisher in self._publishers:
            publisher.close()
        self._connections.close()
        await asyncio.sleep(0.01)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
