"""A rolling restart: a server replaced by another on the same socket, with subscribers and publishers."""

import asyncio
import json
import re
import signal
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from sse_broadcast.client import Client
from tests.support import process
from tests.support.process import Programs
from tests.support.sockets import CURSOR_TYPES, until
from tests.support.supervision import Supervisor, tcp_socket

programs = pytest.fixture(process.programs)

READERS = 40
PUBLISHERS = 4
RATE = 20
"""Events a second, of all publishers together."""

ID = re.compile(r"([0-9a-f]{8})-(\d+)")

DRAIN_DELAY = 0.6
"""Seconds in which each publisher sends three requests: a response then moves it to the other server."""


def place(id: str) -> tuple[str, int]:
    """Return the epoch of an id, which belongs to one process, and its position."""
    found = ID.fullmatch(id)
    assert found is not None, id
    return found[1], int(found[2])


class Subscriber:
    """The stream of one subscriber: where it began in each epoch, its positions there, and its resets."""

    def __init__(self) -> None:
        self.began: dict[str, int] = {}
        self.seen: defaultdict[str, list[int]] = defaultdict(list)
        self.resets_and_closes: list[tuple[str, str]] = []

    async def follow(self, client: Client) -> None:
        async for piece in client.subscribe():
            for event in piece.events:
                if event.type in CURSOR_TYPES:
                    continue  # `began` has it
                if event.type.startswith("$"):
                    self.resets_and_closes.append((event.type, json.loads(event.data)["reason"]))
                else:
                    assert event.id is not None
                    epoch, position = place(event.id)
                    self.seen[epoch].append(position)
            if piece.last_event_id:
                epoch, position = place(piece.last_event_id)
                self.began.setdefault(epoch, position if epoch not in self.seen else self.seen[epoch][0] - 1)

    def has(self, epoch: str, position: int) -> bool:
        """Return whether it has each event of an epoch from its start up to a position, once and in order."""
        return self.seen[epoch] == list(range(self.began[epoch] + 1, position + 1))


class Answers:
    """The responses to publishers: the newest position of each epoch, and their number."""

    def __init__(self) -> None:
        self.newest: dict[str, int] = {}
        self.count = 0
        self.over = False

    async def publish(self, client: Client, number: int) -> None:
        await asyncio.sleep(number / RATE)
        while not self.over:
            answer = await client.publish("x")
            epoch, position = place(answer["id"])
            self.newest[epoch] = max(position, self.newest.get(epoch, 0))
            self.count += 1
            await asyncio.sleep(PUBLISHERS / RATE)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_rolling_restart_refuses_no_client_and_reports_every_loss(
    programs: Programs, loop: str
) -> None:
    """No connection and no publish is refused. Subscribers get all acknowledged events and one `$reset`."""
    times = ("--drain-delay", str(DRAIN_DELAY), "--retry", "200")
    flags = (*times, "--event-loop", loop, "--log-level", "warning")
    subscribers, answers = [Subscriber() for _ in range(READERS)], Answers()
    async with AsyncExitStack() as stack:
        supervisor = stack.enter_context(Supervisor(programs, tcp_socket()))

        async def client() -> Client:
            return await stack.enter_async_context(Client(f"http://127.0.0.1:{supervisor.port}"))

        old = await supervisor.start(*flags)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = [tasks.create_task(subscriber.follow(await client())) for subscriber in subscribers]
        await until(lambda: all(subscriber.began for subscriber in subscribers))
        running += [
            tasks.create_task(answers.publish(await client(), number)) for number in range(PUBLISHERS)
        ]
        await until(lambda: answers.count > RATE // 2)
        old.send_signal(signal.SIGTERM)
        new = await supervisor.start(*flags)
        ended = await old.ended()
        assert (ended.code, ended.err) == (0, b"")
        await until(lambda: all(len(subscriber.began) == 2 for subscriber in subscribers))
        behind = answers.count
        await until(lambda: answers.count > behind + RATE // 2)
        answers.over = True  # Each waits for its last response, or subscribers would have more events.
        await asyncio.gather(*running[READERS:])
        first, second = answers.newest
        await settled(
            lambda: all(subscriber.has(second, answers.newest[second]) for subscriber in subscribers),
            subscribers,
        )
        for task in running:
            task.cancel()
    for subscriber in subscribers:
        assert subscriber.has(first, answers.newest[first])
        assert subscriber.resets_and_closes == [("$close", "drain"), ("$reset", "epoch")]
    assert sum(answers.newest.values()) == answers.count
    new.send_signal(signal.SIGTERM)
    ended = await new.ended()
    assert (ended.code, ended.err) == (0, b"")


async def settled(done: Callable[[], bool], subscribers: list[Subscriber]) -> None:
    """Wait until all events have arrived."""
    try:
        await until(done)
    except TimeoutError:
        raise AssertionError(
            [
                (subscriber.began, dict(subscriber.seen), subscriber.resets_and_closes)
                for subscriber in subscribers
            ]
        ) from None
