"""A server that is replaced by another one on the same socket: what readers and publishers notice.

    python -m benchmarks.rolling [--readers 2000] [--rate 200] [--check]

This program opens the socket, as systemd would, and hands it down to a server, which 2,000 readers follow
while 200 events a second are published over kept connections. Then that one gets a SIGTERM, and another is
started with the same socket at the same moment. Readers come back when they were told to, with the id
they had. Checked:

- no connection is refused or broken, and no publish refused;
- every reader has all that the process answered which it was with, in order, whole, and was told of its end;
- every reader that moved was told by exactly one `$reset`, of the epoch, and has what came from there on.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.crowd import (
    AT_ONCE,
    Answers,
    Publisher,
    Stream,
    exit_of,
    open_stream,
    process,
    raise_descriptor_limit,
)
from benchmarks.harness import (
    HOST,
    PATIENCE,
    Check,
    add_check,
    at_least,
    command_line,
    exactly,
    exit_status,
    positive,
    print_checks,
    stop_on_sigterm,
)

PUBLISHERS = 20
"""Kept connections, each of which publishes ten times a second: five times within `drain_delay`."""

DRAIN_DELAY = 0.5

LOOK = 0.05
"""Seconds between two looks at everyone."""

SPELL = 3.0
"""Seconds of publishing before the signal, and again when everyone has moved."""

HAND_DOWN = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "sse_broadcast", "serve", *sys.argv[2:]])
"""
"""What becomes the server: the process that LISTEN_PID names must be that one (sd_listen_fds(3))."""


@dataclass
class Follower:
    """A reader: one stream after the other, and what went wrong when it connected."""

    port: int
    doors: asyncio.Semaphore
    streams: list[Stream] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Follow for ever: reconnect when told to, with the last id."""
        last_event_id = ""
        while True:
            try:
                async with self.doors:
                    stream = await open_stream(self.port, last_event_id)
            except (OSError, TimeoutError) as error:
                self.failures[repr(error)] += 1
                await asyncio.sleep(1.0)
                continue
            self.streams.append(stream)
            await stream.ended
            last_event_id = stream.last_event_id
            await asyncio.sleep(stream.retry / 1000)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The observations of a run."""

    codes: tuple[int, int]
    followers: list[Follower]
    answers: Answers
    seconds: float
    moving: float


def main() -> int:
    """Roll once, print what was checked, and with --check say whether it holds."""
    parser = command_line("rolling", __doc__)
    parser.add_argument("--readers", type=positive, default=2000, help="how many follow")
    parser.add_argument("--rate", type=positive, default=200, help="events a second")
    add_check(parser, "everything holds")
    chosen = parser.parse_args()
    stop_on_sigterm()
    raise_descriptor_limit()
    outcome = asyncio.run(roll(chosen))
    checks = list(checked(outcome, chosen))
    print_checks(checks)
    return exit_status(checks) if chosen.check else 0


async def roll(chosen: argparse.Namespace) -> Outcome:
    """Let all clients subscribe and publish, and replace the server."""
    loop = asyncio.get_running_loop()
    answers = Answers()
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((HOST, 0), backlog=4096))
        port, descriptor = listening.getsockname()[1], listening.fileno()
        command = served_by(descriptor)
        old = stack.enter_context(process(command, descriptors=[descriptor]))
        doors = asyncio.Semaphore(AT_ONCE)
        followers = [Follower(port, doors) for _ in range(chosen.readers)]
        following = [asyncio.ensure_future(each.run()) for each in followers]
        await until_all(followers, 1)
        began = loop.time()
        publishing = publish(port, answers, chosen.rate)
        await asyncio.sleep(SPELL)
        old.terminate()
        new = stack.enter_context(process(command, descriptors=[descriptor]))
        signalled = loop.time()
        code = await exit_of(old)
        await until_all(followers, 2)
        moving = loop.time() - signalled
        await asyncio.sleep(SPELL)
        answers.enough = True
        seconds = loop.time() - began
        await asyncio.gather(*publishing)
        await until_read(followers, answers)
        for task in following:
            task.cancel()
        for each in followers:
            each.streams[-1].transport.abort()
        new.terminate()
        return Outcome((code, await exit_of(new)), followers, answers, seconds, moving)


def served_by(descriptor: int) -> list[str]:
    """Return the command of a server that gets a listening socket."""
    flags = ("--drain-delay", str(DRAIN_DELAY), "--log-level", "warning", "--publish-rate", "0")
    return [sys.executable, "-c", HAND_DOWN, str(descriptor), *flags]


def publish(port: int, answers: Answers, rate: int) -> Sequence[asyncio.Task[None]]:
    """Publish over several connections, by turns."""
    return [
        asyncio.ensure_future(Publisher(port, answers).run(every=PUBLISHERS / rate, after=number / rate))
        for number in range(PUBLISHERS)
    ]


async def until_all(followers: list[Follower], streams: int) -> None:
    """Wait until each has had so many streams, or for too long."""
    await until(lambda: all(len(each.streams) >= streams for each in followers))


async def until_read(followers: list[Follower], answers: Answers) -> None:
    """Wait until each has what was answered last, or for too long."""
    last = list(answers.newest.values())[-1]
    await until(lambda: all(each.streams[-1].position == last for each in followers))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another part of this loop is about to see, or for too long."""
    for _ in range(int(PATIENCE / LOOK)):
        if condition():
            return
        await asyncio.sleep(LOOK)


def checked(outcome: Outcome, chosen: argparse.Namespace) -> Iterator[Check]:
    """Check what was promised."""
    followers, answers = outcome.followers, outcome.answers
    failures = sum((each.failures for each in followers), Counter[str]())
    for failure, count in (failures + answers.failures).most_common():
        print(f"  went wrong: {failure}, {count} times")
    count = sum(answers.newest.values())
    yield exactly("exit code of the first server", outcome.codes[0], 0)
    yield exactly("exit code of the second", outcome.codes[1], 0)
    yield exactly("readers' connections that failed", failures.total(), 0)
    yield exactly("publishes that failed", answers.failures.total(), 0)
    yield exactly("publishes that were refused", answers.statuses.total() - answers.statuses[200], 0)
    yield exactly("events published, and answered", answers.statuses[200], count)
    yield at_least("publishes a second", count / outcome.seconds, 0.9 * chosen.rate)
    first, second = answers.newest.values()
    for name, right in (
        ("with two streams", lambda each: len(each.streams) == 2),
        ("told of the drain, and whole", lambda each: told_of_the_drain(each.streams[0])),
        ("with all that the first server answered", lambda each: each.streams[0].position == first),
        ("told of the epoch, once", lambda each: each.streams[1].news == ["reset epoch"]),
        ("with all that the second answered since", lambda each: each.streams[1].position == second),
        ("with gaps", lambda each: not any(stream.gaps for stream in each.streams)),
    ):
        wrong = sum(not (len(each.streams) > 1 and right(each)) for each in followers)
        yield exactly(f"readers not {name}" if name != "with gaps" else "readers with gaps", wrong, 0)
    print(f"  {count} events over {outcome.seconds:.1f} s, everyone had moved after {outcome.moving:.1f} s")


def told_of_the_drain(stream: Stream) -> bool:
    """Whether a stream ended as it should."""
    return stream.whole and stream.news == ["close drain"]


if __name__ == "__main__":
    sys.exit(main())
