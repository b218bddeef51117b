"""What a caller can have kept in memory, beside the bound that is stated for it.

    python -m benchmarks.memory [--total 8388608] [--only history,queues,patterns,keys] [--check]

In this process, and measured with tracemalloc: no server is started, and what an allocator holds in reserve
is not in it (`benchmarks.history` measures that). Each part is filled in the ways that take the most memory
for what is sent, several times beyond its bound, and looked at on the way.

  history   events of one shape each, read in six encodings: all that is kept for them, ids, channels,
            publishers and frames among it, beside `history_total`
  queues    a queue that conflates: what it takes itself, beside what it counts for that
  patterns  patterns that all match, times channels: which match which, beside MAX_ROUTE_BYTES
  keys      idempotency keys of the longest path and name: each, beside what docs/SECURITY.md says

Printed is the most that was kept, and how that compares with the bound. With --check the exit status is 1
unless the history keeps at most 1.5 times `history_total`, and everything else at most its bound.
"""

import argparse
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Self, cast

from benchmarks.harness import (
    Check,
    add_check,
    at_most,
    command_line,
    exit_status,
    positive,
    print_checks,
    some_of,
)
from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.memory.idempotency import IdempotencyKeys
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.config.schema import Overflow
from sse_broadcast.encoding import (
    CHUNKED_JSON,
    CHUNKED_NDJSON,
    CHUNKED_TEXT,
    JSON,
    NDJSON,
    TEXT,
    Encoding,
)
from sse_broadcast.event import Event
from sse_broadcast.fanout.conflation import Conflated
from sse_broadcast.fanout.group import GroupScheduler, SubscriberGroup
from sse_broadcast.fanout.hub import MAX_ROUTE_BYTES, Hub
from sse_broadcast.fanout.outbox import Outbox, OutboxGroup
from sse_broadcast.fanout.subscriber import Heartbeat, Subscriber, SubscriberOptions
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Publication, place

MIB = 1024 * 1024

HISTORY = 1.5
"""How many times `history_total` the history may keep."""

KEY = 500, 1500
"""Bytes that an idempotency key may take: one of many of its publisher, and its only one."""

FAR = 3
"""How many times what there is room for is published."""

ENDLESS = 1 << 40

ENCODINGS = (TEXT, CHUNKED_TEXT, JSON, CHUNKED_JSON, NDJSON, CHUNKED_NDJSON)

HUNDRED = tuple(f"channel.{number:03}" for number in range(100))

Shape = Callable[[int], tuple[Sequence[str], Event]]

SHAPES: dict[str, Shape] = {
    "empty": lambda _: (["a"], Event("")),
    "50 bytes": lambda n: (["a"], Event(f"{n}".ljust(50, "x"))),
    "500 bytes": lambda n: (["a"], Event(f"{n}".ljust(500, "x"))),
    "50,000 bytes": lambda n: (["a"], Event(f"{n}".ljust(50_000, "x"))),
    "one wide character": lambda n: (["a"], Event(f"{n}".ljust(2000, "x") + "\U0001f600")),
    "a wide type": lambda n: (["a"], Event(f"{n}", "x" * 2000 + "\U0001f600")),
    "escaped in JSON": lambda n: (["a"], Event(f"{n}" + "\x01" * 2000)),
    "lines": lambda n: (["a"], Event(f"{n}" + "\n" * 500)),
    "keys": lambda n: (["a"], Event("x", key=f"{n}".ljust(128, "\u0100"))),
    "own ids": lambda n: (["a"], Event("x", id=f"id{n}")),
    "the same id": lambda _: (["a"], Event("x", id="id")),
    "100 channels": lambda n: (HUNDRED, Event(f"{n}".ljust(50, "x"))),
    "own ids, 100 channels": lambda n: (HUNDRED, Event("x", id=f"id{n}")),
    "new channels": lambda n: ([f"channel.{n}"], Event("x")),
    "new channels, own ids": lambda n: ([f"channel.{n}"], Event("x", id=f"id{n}")),
    "new channels, long names": lambda n: ([f"{n}".ljust(128, "x")], Event("x")),
    "99 new channels each": lambda n: (
        [*(f"{n}.{part}".ljust(128, "x") for part in range(99)), "a"],
        Event("x"),
    ),
}


def main() -> int:
    """Fill each part, print what that took, and say whether it is within its bound."""
    chosen = arguments()
    checks: list[Check] = []
    for part in chosen.only:
        print(f"\n{part}")
        for check in PARTS[part](chosen.total):
            checks.append(check)
            sys.stdout.flush()
    print()
    print_checks(checks)
    return exit_status(checks) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("memory", __doc__)
    parser.add_argument("--total", type=positive, default=8 * MIB, help="history_total, in bytes")
    parser.add_argument("--only", type=some_of(PARTS), default=list(PARTS), help="parts: a comma list")
    add_check(parser)
    return parser.parse_args()


class Traced:
    """The bytes allocated since the start that are still held."""

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()

    @property
    def kept(self) -> int:
        """Bytes that are kept now."""
        return tracemalloc.get_traced_memory()[0]


def told(name: str, kept: float, bound: float) -> None:
    """Print what was kept of something, and its bound."""
    print(f"{name:>34}  kept {kept / MIB:>7.2f} MiB  bound {bound / MIB:>7.2f} MiB  ratio {kept / bound:.2f}")


def history(total: int) -> Iterator[Check]:
    """Publish each shape, by one publisher and by as many as there are events, read in every encoding."""
    for name, shape in SHAPES.items():
        for several in (False, True):
            most = filled(total, shape, several=several)
            label = f"{name}{', of many' if several else ''}"
            told(label, most, total)
            yield at_most(f"history: {label}", most / total, HISTORY, " x history_total")


def filled(total: int, shape: Shape, *, several: bool) -> int:
    """Return the most bytes that a history keeps while more is published than it has room for."""
    held = History(lambda _: HistoryLimits(ENDLESS, ENDLESS, 1e12), total=total, max_channels=ENDLESS)
    most = came = number = 0
    with Traced() as traced:
        while came < FAR * total:
            number += 1
            one = publication(number, *shape(number))
            held.extend([one], f"address {number}" if several else "")
            read(one)
            came += one.weight
            most = max(most, traced.kept)
    return most


def publication(position: int, channels: Sequence[str], event: Event) -> Publication:
    """Return a publication that shares no text with others, as if it had come with a request."""
    names = tuple("".join([*name]) for name in channels)
    return place(names, event, epoch="0123abcd", position=position, time=float(position))


def read(one: Publication) -> None:
    """Make every frame that a publication can be asked for."""
    for encoding in ENCODINGS:
        for channel in one.channels if encoding.format.names_channel else (None,):
            one.frame(encoding, channel)


def queues(_: int) -> Iterator[Check]:
    """Queue a thousand small events for a reader of as many channels as each is published in."""
    for channels in (1, 10, 100):
        names = tuple(f"channel.{number}" for number in range(channels))
        came = [publication(number, names, Event("x", key=f"{number}")) for number in range(1, 1001)]
        worst = 0.0
        with Traced() as traced:
            queue = Conflated(Selector.parse(*names))
            for one in came:
                queue.append(one)
                if len(queue) >= 100:  # before that what an empty one takes is most of it
                    worst = max(worst, traced.kept / queue.bytes)
            told(f"of {channels} channels", traced.kept, queue.bytes)
        yield at_most(f"a queue that conflates, of {channels} channels", worst, 1.0, " x counted")


def patterns(_: int) -> Iterator[Check]:
    """Subscribe a hundred times to ten patterns that all match, and publish in new channels."""
    readers = Hub(group, most=131_072)
    for begin in range(0, 1000, 10):
        selector = Selector.parse(*map(starred, range(begin, begin + 10)))
        readers.join(Subscriber(selector, TERMS), TEXT)
    channels = 2000
    with Traced() as traced:
        began = time.thread_time()
        for number in range(channels):
            readers.subscribers(f"{WORD}{number}")
        took = (time.thread_time() - began) / channels
        kept = traced.kept
    told(f"1,000 patterns, {channels:,} channels", kept, MAX_ROUTE_BYTES)
    print(f"{'each new channel (while traced)':>34}  {took * 1000:.2f} ms")
    yield at_most("1,000 patterns times 2,000 channels", kept / MAX_ROUTE_BYTES, 1.0, " x MAX_ROUTE_BYTES")


WORD = "public.room"

TERMS = SubscriberOptions(
    queue_size=1000,
    queue_bytes=4 * MIB,
    overflow=Overflow.DISCONNECT,
    metrics=Metrics(),
    on_close=lambda _: None,
    epoch="",
    heartbeat=Heartbeat(4.0),
)


def group(selector: Selector, encoding: Encoding) -> OutboxGroup:
    """Return a group of subscribers that nothing is published to."""
    return SubscriberGroup(
        selector, encoding, cast("GroupScheduler[Outbox]", None), queue_size=1000, queue_bytes=4 * MIB
    )


def starred(number: int) -> str:
    """Return a pattern that matches all names with a prefix; each number makes another one."""
    return "".join(letter + "*" * (number >> place & 1) for place, letter in enumerate(WORD)) + "*"


def keys(_: int) -> Iterator[Check]:
    """Use keys by one publisher, and by as many as there are keys."""
    count = 20_000
    for publishers in (1, count):
        held = IdempotencyKeys()
        with Traced() as traced:
            for number in range(count):
                token = IdempotencyKey(("subject", None, "/send/" + "x" * 8000, f"{number:0255}"), bytes(32))
                name = f"address 2001:db8:{number % publishers:x}::/64"
                held.remember(token, name, position=number, count=1, clients=0, expires=float(number))
            kept = traced.kept
        told(f"of {publishers:,} publishers", kept, KEY[publishers > 1] * count)
        yield at_most(f"a key, of {publishers:,} publishers", kept / count, KEY[publishers > 1], " bytes")


PARTS: dict[str, Callable[[int], Iterator[Check]]] = {
    "history": history,
    "queues": queues,
    "patterns": patterns,
    "keys": keys,
}


if __name__ == "__main__":
    sys.exit(main())
