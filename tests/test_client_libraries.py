"""Real client libraries, and browsers' EventSource, when their streams are cut, refused and closed.

Each client is the unmodified package at a pinned version (see `tests/clients`). No client may lose an event
silently, show one twice or change the order. `Fault` lists what some clients do wrong with any server; the
tests pin that as well.

All clients run a scenario at the same time, because they spend most of it waiting. The first test of a
scenario runs it for every selected client, and the other tests read the results.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sse_broadcast.config.schema import Config
from sse_broadcast.server.http import refused_stream
from sse_broadcast.server.runner import Server
from tests.conftest import Program, missing
from tests.support.client_cases import (
    CLIENTS,
    CUT,
    FIRST,
    MISSED,
    Client,
    CutResult,
    Fault,
    Kind,
    Publish,
    Site,
    Stream,
    Verdict,
    compare,
    in_time,
    run_cut,
    site_of,
)
from tests.support.client_drivers import Driver, Runtime, Seen, What, driver_of, has_packages
from tests.support.process import Programs
from tests.support.sockets import RawClient, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RETRY = 100
"""Milliseconds before a client reconnects, plus or minus half. Firefox waits 500, a polyfill 1000."""

HISTORY = 3

TOGETHER = 16
"""Streams that one client has open at one time."""

THREE_DIGITS = 100
"""Events published first, so that later positions have three digits and half of one is an older position."""

EACH = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)

Drivers = Mapping[Runtime, Driver]
Outcomes = Mapping[Client, Any]
Scenario = Callable[[Drivers, Sequence[Client]], Coroutine[Any, Any, Outcomes]]


# Running scenarios.


@dataclass(slots=True)
class Scenarios:
    """The results of each scenario for each selected client."""

    drivers: Drivers
    clients: Sequence[Client]
    program: Program
    tasks: dict[Scenario, asyncio.Task[Outcomes]] = field(default_factory=dict)

    async def outcome(self, scenario: Scenario, client: Client) -> Any:
        """Return the result of a scenario for one client. The first call runs the scenario for all."""
        require(self.program, client.runtime)
        if scenario not in self.tasks:
            self.tasks[scenario] = asyncio.create_task(scenario(self.drivers, self.clients))
        outcome = (await asyncio.shield(self.tasks[scenario]))[client]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def cancel(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


def require(program: Program, runtime: Runtime) -> None:
    """Skip the test of a client that cannot be run here; in CI, fail it."""
    if runtime is not Runtime.PYTHON:
        program(runtime)
    if runtime is Runtime.NODE and not has_packages():
        missing("the packages of npm are not installed: npm ci --prefix tests/clients")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scenarios(request: pytest.FixtureRequest, program: Program) -> AsyncIterator[Scenarios]:
    """Start the drivers of the clients that the selected tests need."""
    items = [item for item in request.session.items if item.path == request.path]
    asked = [item.callspec.params.get("client") for item in items if hasattr(item, "callspec")]
    clients = [client for client in CLIENTS if client in asked and client.runtime.is_installed]
    async with AsyncExitStack() as stack:
        drivers = {
            runtime: await stack.enter_async_context(
                driver_of(runtime, program, lambda: request.getfixturevalue("firefox_browser"))
            )
            for runtime in {client.runtime for client in clients}
        }
        running = Scenarios(drivers, clients, program)
        stack.push_async_callback(running.cancel)
        yield running


async def for_each(clients: Sequence[Client], run: Callable[[Client], Awaitable[Any]]) -> Outcomes:
    """Call `run` for all clients at the same time, and return results and exceptions."""
    outcomes = await asyncio.gather(*(run(client) for client in clients), return_exceptions=True)
    return dict(zip(clients, outcomes, strict=True))


class StreamGroup:
    """One stream of each client. All of them take a step before any takes the next."""

    def __init__(self, streams: Mapping[Client, Stream]) -> None:
        self._streams = streams
        self._failed: dict[Client, BaseException] = {}

    def __iter__(self) -> Iterator[Stream]:
        return (stream for client, stream in self._streams.items() if client not in self._failed)

    def note_opened(self) -> None:
        for stream in self:
            stream.note_opened()

    async def all(self, step: Callable[[Stream], Coroutine[Any, Any, object]]) -> None:
        """Run a step for every stream. A stream whose step fails is left out of later steps."""
        streams = list(self)
        done = await asyncio.gather(*(in_time(each, step(each)) for each in streams), return_exceptions=True)
        self._failed |= {
            stream.client: error
            for stream, error in zip(streams, done, strict=True)
            if isinstance(error, BaseException)
        }

    @property
    def outcomes(self) -> Outcomes:
        """The verdict for each client, or the exception that ended its steps."""
        return {client: stream.verdict for client, stream in self._streams.items()} | self._failed


# Servers.


@asynccontextmanager
async def own_server(drivers: Drivers, **settings: Any) -> AsyncIterator[tuple[Server, Site]]:
    own = {"retry": RETRY, "history_size": HISTORY, "heartbeat": 2.0, "shutdown_timeout": 4.0}
    server = Server(Config(port=0, **(own | settings)))
    await server.start()
    for _ in range(THREE_DIGITS):
        await server.broadcaster.broadcast("", channels=["filler"])
    async with aiohttp.ClientSession(server.url) as session:
        try:
            yield server, site_of(server.port, session, drivers, history_size=HISTORY)
        finally:
            await server.stop()


@asynccontextmanager
async def group_at(
    site: Site,
    clients: Sequence[Client],
    *,
    query: str = "",
    step: Callable[[Stream], Coroutine[Any, Any, None]] = Stream.begin,
) -> AsyncIterator[StreamGroup]:
    """Start a stream of each client, and run a first step for all of them."""
    async with AsyncExitStack() as stack:
        group = StreamGroup(
            {client: await stack.enter_async_context(site.stream(client, query=query)) for client in clients}
        )
        await group.all(step)
        yield group


# Cuts.


def line_end(block: bytes, start: bytes) -> int:
    """Return the offset of the line feed that ends the last line with this start."""
    return block.index(b"\n", block.rindex(start))


PLACES: Mapping[str, Callable[[bytes], int]] = {
    "before the block": lambda block: 0,
    "inside the first line": lambda block: 4,
    "before the first line feed": lambda block: block.index(b"\n"),
    "behind the first line": lambda block: block.index(b"\n") + 1,
    "behind the name of the data": lambda block: block.index(b"data: ") + len(b"data"),
    "inside the data": lambda block: block.index(b"data: ") + len(b"data: c"),
    "behind the first line of the data": lambda block: block.index(b"\n", block.index(b"data: ")) + 1,
    "before the last line feed of the data": lambda block: line_end(block, b"data: "),
    "behind the data": lambda block: line_end(block, b"data: ") + 1,
    "inside the name of the id": lambda block: block.rindex(b"id: ") + 1,
    "behind the name of the id": lambda block: block.rindex(b"id: ") + len(b"id"),
    "before the value of the id": lambda block: block.rindex(b"id: ") + len(b"id: "),
    "inside the id": lambda block: block.rindex(b"id: ") + len(b"id: abc"),
    "inside the counter of the id": lambda block: line_end(block, b"id: ") - 1,
    "before the line feed of the id": lambda block: line_end(block, b"id: "),
    "behind the id": lambda block: line_end(block, b"id: ") + 1,
    "behind the block": len,
}
"""Offsets in a block: both sides of every line end and of each part of the id line."""

FEWER_PLACES = (
    "behind the first line",
    "behind the data",
    "before the value of the id",
    "inside the counter of the id",
    "before the line feed of the id",
    "behind the id",
    "behind the block",
)
FEWEST_PLACES = ("behind the data", "behind the id", "behind the block")


def places_in(kind: Kind) -> list[tuple[str, bool]]:
    """Return the places to cut, each with whether the body has a clean end.

    Clients differ most in events and at clean ends. `benchmarks/clients.py` cuts at every byte.
    """
    clean, cut_off = (PLACES, FEWER_PLACES) if kind is Kind.EVENT else (FEWER_PLACES, FEWEST_PLACES)
    return [(place, True) for place in clean] + [(place, False) for place in cut_off]


def cuts_in(kind: Kind) -> Scenario:
    """Return a scenario that cuts streams of each client in every place, with and without a clean end."""

    async def scenario(drivers: Drivers, clients: Sequence[Client]) -> Outcomes:
        heartbeat = 0.2 if kind is Kind.HEARTBEAT else 2.0
        places = places_in(kind)
        async with own_server(drivers, heartbeat=heartbeat) as (_, site):

            async def run(client: Client) -> Cuts:
                turns = asyncio.Semaphore(TOGETHER)

                async def cut(name: str, *, clean: bool) -> CutResult:
                    async with turns:
                        return await run_cut(site, client, kind, PLACES[name], clean=clean)

                results = await asyncio.gather(*(cut(name, clean=clean) for name, clean in places))
                return dict(zip(places, results, strict=True))

            return await for_each(clients, run)

    return scenario


CUTS = {kind: cuts_in(kind) for kind in Kind}
Cuts = Mapping[tuple[str, bool], CutResult]
"""Results by place, and by whether the body had a clean end."""


@EACH
@pytest.mark.parametrize("kind", Kind)
async def test_a_client_that_was_cut_off_misses_and_repeats_nothing(
    scenarios: Scenarios, client: Client, kind: Kind
) -> None:
    """Wherever its stream is cut, a client shows every event once, in order, and a loss is reported once."""
    results: Cuts = await scenarios.outcome(CUTS[kind], client)
    wrong = [f"{place}: {result.transcript}" for place, result in results.items() if result.is_unexplained]
    assert not wrong, "\n".join(wrong)


@EACH
async def test_a_client_that_was_cut_off_before_its_first_event_misses_nothing(
    scenarios: Scenarios, client: Client
) -> None:
    """The opening gives it an id, so it gets the events that were published while it was away."""
    results: Cuts = await scenarios.outcome(CUTS[Kind.OPENING], client)
    cut_off, ended = (results["behind the block", clean] for clean in (False, True))
    assert cut_off.verdict == Verdict(ended=client.ends_when_cut_off)
    assert ended.verdict == Verdict()


# Servers that are killed, restarted or full, and gateways.


async def killed(drivers: Drivers, clients: Sequence[Client]) -> Outcomes:
    """Kill the server with SIGKILL, start it again on the same port, and publish."""
    programs = Programs()
    try:
        settings = ("--retry", str(RETRY), "--heartbeat", "2")
        first = await programs.serve(*settings)
        async with (
            aiohttp.ClientSession(first.url) as session,
            group_at(site_of(first.port, session, drivers, history_size=HISTORY), clients) as group,
        ):
            group.note_opened()
            await first.process.kill()
            await programs.serve(*settings, "--port", str(first.port))
            await group.all(Stream.finish)
            return group.outcomes
    finally:
        await programs.end()


@EACH
async def test_a_client_gets_a_reset_for_the_lost_history_of_a_killed_server(
    scenarios: Scenarios, client: Client
) -> None:
    """It gets one `$reset` and then new events, or it gives up with an error."""
    verdict: Verdict = await scenarios.outcome(killed, client)
    ended = client.ends_when_cut_off
    assert verdict == Verdict(resets=0 if ended else 1, ended=ended)


def answered_502_after(step: Callable[[Stream], Coroutine[Any, Any, None]]) -> Scenario:
    """Return a scenario in which a gateway answers 502 for a while, after a first step of the client."""

    async def scenario(drivers: Drivers, clients: Sequence[Client]) -> Outcomes:
        async with own_server(drivers) as (_, site), group_at(site, clients, step=step) as group:
            await group.all(be_answered_502)
            await group.all(Stream.finish)
            return group.outcomes

    return scenario


async def be_answered_502(stream: Stream) -> None:
    """Cut a stream and answer 502 at least once. Publish during that time and after it."""
    await stream.cut_off()
    stream.proxy.refusing = True
    await stream.publish(CUT)
    await stream.refused()
    stream.proxy.hold()
    stream.proxy.refusing = False
    await stream.publish(MISSED)


ANSWERED_502 = answered_502_after(Stream.begin)
ANSWERED_502_AT_FIRST = answered_502_after(Stream.opened)


@EACH
async def test_a_client_that_was_answered_502_misses_nothing_or_gives_up(
    scenarios: Scenarios, client: Client
) -> None:
    """EventSource gives up by the standard, and reports it."""
    assert await scenarios.outcome(ANSWERED_502, client) == Verdict(ended=client.ends_at_502)


@EACH
async def test_a_client_that_was_answered_502_before_its_first_event_misses_nothing_or_gives_up(
    scenarios: Scenarios, client: Client
) -> None:
    """It resumes after the opening's id, unless it knows only the ids of types with a listener."""
    missed = (CUT, MISSED) if Fault.UNHEARD_ID in client.faults else ()
    verdict: Verdict = await scenarios.outcome(ANSWERED_502_AT_FIRST, client)
    assert verdict == Verdict(lost=missed, ended=client.ends_at_502)


async def disconnected(drivers: Drivers, clients: Sequence[Client]) -> Outcomes:
    """End every stream with DELETE, and publish before the clients reconnect."""
    async with own_server(drivers) as (_, site), group_at(site, clients) as group:

        async def be_disconnected(stream: Stream) -> None:
            stream.proxy.hold()
            stream.note_opened()
            await site.disconnect(stream.channel)
            await stream.publish(MISSED)

        await group.all(be_disconnected)
        await group.all(Stream.finish)
        return group.outcomes


@EACH
async def test_a_client_whose_stream_was_closed_comes_back_and_misses_nothing(
    scenarios: Scenarios, client: Client
) -> None:
    assert await scenarios.outcome(disconnected, client) == Verdict()


async def restarted(drivers: Drivers, clients: Sequence[Client]) -> Outcomes:
    """Stop the server gracefully, and start another on the same port."""
    async with own_server(drivers) as (first, site), group_at(site, clients) as group:
        group.note_opened()
        # A client that has counted its attempts out would give up, however late the second server comes.
        for stream in group:
            stream.proxy.hold()
        await first.stop()
        second = Server(Config(port=site.port, retry=RETRY, shutdown_timeout=4.0))
        await second.start()
        try:
            await group.all(Stream.finish)
            return group.outcomes
        finally:
            await second.stop()


@EACH
async def test_a_client_reconnects_after_a_restart_and_gets_one_reset(
    scenarios: Scenarios, client: Client
) -> None:
    """The new server cannot know what the old one published, so it sends `$reset`."""
    assert await scenarios.outcome(restarted, client) == Verdict(resets=1)


async def refused(drivers: Drivers, clients: Sequence[Client]) -> Outcomes:
    """Fill the server while the clients are away, let it refuse each of them, publish, and make room."""
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(refused_stream, "COME_BACK", RETRY)
        limits = {"max_connections": len(clients), "max_connections_per_address": 0}
        server, site = await stack.enter_async_context(own_server(drivers, **limits))
        site = replace(site, send=publisher_without_connection(server))
        group = await stack.enter_async_context(group_at(site, clients))
        await group.all(Stream.cut_off)
        await until(lambda: server.connections == 0)
        others = [await RawClient.open(server.port) for _ in clients]
        await until(lambda: server.connections == len(clients))
        await group.all(Stream.refused)
        for stream in group:
            stream.proxy.hold()
            await stream.publish(MISSED)
        for other in others:
            other.close()
        await until(lambda: server.connections == 0)
        await group.all(Stream.finish)
        return group.outcomes


def publisher_without_connection(server: Server) -> Publish:
    """Return a function that publishes without a connection, because the connections are limited."""

    async def publish(channel: str, data: str, kind: str) -> None:
        await server.broadcaster.broadcast(data, event=kind, channels=[channel])

    return publish


@EACH
async def test_a_client_that_was_refused_comes_back_and_misses_nothing(
    scenarios: Scenarios, client: Client
) -> None:
    """The refusal is a stream that ends. Every client tries again, with the id that it had."""
    assert await scenarios.outcome(refused, client) == Verdict()


async def quiet(drivers: Drivers, clients: Sequence[Client]) -> Outcomes:
    """Publish events that the filter drops until the last id is evicted; cut streams after a heartbeat."""
    async with (
        own_server(drivers, heartbeat=0.2) as (_, site),
        group_at(site, clients, query="?event=price") as group,
    ):

        async def be_cut_after_a_heartbeat(stream: Stream) -> None:
            for _ in range(HISTORY + 1):
                await site.send(stream.channel, "not wanted", "other")
            await stream.proxy.until(lambda: b"event: $heartbeat\n" in stream.proxy.exchanges[-1].sent)
            if stream.client.shows_everything:
                await stream.watch.shown("{}", "$heartbeat")
            await stream.cut_off()
            await stream.publish(MISSED)

        await group.all(be_cut_after_a_heartbeat)
        await group.all(Stream.finish)
        return group.outcomes


@EACH
async def test_a_filtered_client_gets_no_false_reset(scenarios: Scenarios, client: Client) -> None:
    """`$heartbeat` moves its cursor, so it resumes although the id of its last event is evicted."""
    assert await scenarios.outcome(quiet, client) == Verdict()


# Faults of clients, with any server.


def with_fault(fault: Fault) -> pytest.MarkDecorator:
    """Parametrize a test with the clients that have a fault."""
    clients = [client for client in CLIENTS if fault in client.faults]
    assert clients
    return pytest.mark.parametrize("client", clients, ids=lambda client: client.name)


async def event_cuts(scenarios: Scenarios, client: Client, *, clean: bool) -> Mapping[str, Verdict]:
    """Return the verdicts on cuts inside an event, by place."""
    results: Cuts = await scenarios.outcome(CUTS[Kind.EVENT], client)
    return {place: result.verdict for (place, end), result in results.items() if end is clean}


LOST = Verdict(lost=(CUT,))
REPEATED = Verdict(repeated=(CUT,))
NEW_SUBSCRIBER = Verdict(lost=(CUT, MISSED))
TOLD = Verdict(resets=1)


@with_fault(Fault.EARLY_ID)
async def test_a_client_that_takes_ids_early_loses_the_event_that_was_cut_before_its_blank_line(
    scenarios: Scenarios, client: Client
) -> None:
    """It asks for the events after that id. The id is the last line, so this happens in one place only."""
    assert (await event_cuts(scenarios, client, clean=True))["behind the id"] == LOST
    # Without a clean end, a client may drop the last bytes unparsed.
    assert (await event_cuts(scenarios, client, clean=False))["behind the id"] in {LOST, Verdict()}


@with_fault(Fault.HALF_ID)
async def test_half_an_id_repeats_events_or_gets_a_reset_and_an_empty_id_loses_events(
    scenarios: Scenarios, client: Client
) -> None:
    """Half of an id is an older id or unknown. An empty id makes the client a new subscriber."""
    found = await event_cuts(scenarios, client, clean=True)
    assert {place: found[place] for place in PLACES if place in found and "the id" in place} == {
        "inside the name of the id": Verdict(),
        "behind the name of the id": NEW_SUBSCRIBER,
        "before the value of the id": NEW_SUBSCRIBER,
        "inside the id": TOLD,
        "inside the counter of the id": Verdict(repeated=(FIRST,)),
        "before the line feed of the id": LOST,
        "behind the id": LOST,
    }


@with_fault(Fault.HALF_BLOCK)
async def test_a_client_that_shows_half_a_block_loses_nothing_silently(
    scenarios: Scenarios, client: Client
) -> None:
    """It shows half an event and then the whole, repeats events after half an id, or gets a `$reset`."""
    found = await event_cuts(scenarios, client, clean=True)
    assert {place: verdict for place, verdict in found.items() if verdict != Verdict()} == {
        "behind the name of the data": Verdict(invented=("",)),
        "inside the data": Verdict(invented=("c",)),
        "behind the first line of the data": Verdict(invented=("cut",)),
        "before the last line feed of the data": REPEATED,
        "behind the data": REPEATED,
        "inside the name of the id": REPEATED,
        "behind the name of the id": REPEATED,
        "before the value of the id": REPEATED,
        "inside the id": TOLD,
        "inside the counter of the id": Verdict(repeated=(FIRST, CUT)),
    }


# The comparison.


def shown(*data: str, kind: str = "price") -> list[Seen]:
    return [Seen(What.EVENT, kind, each) for each in data]


RESET = shown("{}", kind="$reset")
END = [Seen(What.END)]
VERDICTS: Mapping[str, tuple[list[Seen], Verdict]] = {
    "all": (shown("a", "b", "c"), Verdict()),
    "a gap": (shown("a", "c"), Verdict(lost=("b",))),
    "a gap that was told": ([*shown("a"), *RESET, *shown("c")], Verdict(resets=1)),
    "a gap that was told too late": ([*shown("a", "c"), *RESET], Verdict(lost=("b",), resets=1)),
    "a gap after one that was told": ([*RESET, *shown("b")], Verdict(lost=("c",), resets=1)),
    "nothing more": (shown("a"), Verdict(lost=("b", "c"))),
    "an end": ([*shown("a"), *END], Verdict(ended=True)),
    "a repeat": (shown("a", "b", "b", "c"), Verdict(repeated=("b",))),
    "another order": (shown("a", "c", "b"), Verdict(lost=("b",), disordered=("b",))),
    "half an event": (shown("a", "b", "", "c"), Verdict(invented=("",))),
}


@pytest.mark.parametrize("what", VERDICTS)
async def test_the_verdict_names_what_went_wrong(what: str) -> None:
    """The tests above rely on it: it must find each kind of error."""
    seen, verdict = VERDICTS[what]
    assert compare(seen, ["a", "b", "c"]) == verdict
