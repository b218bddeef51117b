"""The longest callback of the event loop that each kind of request causes, and its CPU per byte sent.

    python -m benchmarks.callbacks [--channels 100000] [--kinds earliest,listing] [--times 3] [--check]

One server of ours, on asyncio, in a thread of this process. Its history is full: `history_total` bytes in
so many channels, of which some hold many events, and one own id is held in many of them. Subscribers follow
channels by name and by pattern. Then each kind of request is sent, `--times` times, by the caller that would
send it: a stranger, a subscriber, a publisher of one channel, an operator.

Printed is for each kind

  longest    the longest callback in milliseconds of the thread's CPU, the collector's time taken off: the
             least of the `--times` runs, since what the machine does besides only ever adds
  CPU        all callbacks until the loop was idle again
  per byte   CPU for each byte that the caller sent
  plain      how many times that of a plain stream this is, GET /events of one channel

With --check the exit status is 1 if the longest callback of any kind is above 5 ms, or if a kind that is
refused, or that costs no more than what it sends, takes more than 4 times a plain stream's CPU per byte.
For kinds that walk what the server holds the factor is printed and not checked: their walks are bounded in
number and by turns (docs/SECURITY.md), not in bytes.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import socket
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from benchmarks.harness import (
    HOST,
    PATIENCE,
    Check,
    add_check,
    at_most,
    command_line,
    exit_status,
    fail,
    positive,
    print_checks,
    some_of,
    stop_on_sigterm,
)
from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.event import Event
from sse_broadcast.server.runner import Server

T = TypeVar("T")

PLAIN = "plain"
"""The kind that the others are compared with."""

LONGEST = 0.005
"""Seconds of CPU that one callback may take."""

FACTOR = 4.0
"""Times a plain stream's CPU for each byte sent."""

QUIET = 0.15
"""Seconds in which the loop has done next to nothing, after which a request is over."""

IDLE = 0.002
"""Seconds of CPU in that time that are next to nothing: timers, and the look for what is too old."""

ROOT, SUBSCRIBER, PUBLISHER = "root-root-root-root", "subscriber-subscriber", "publisher-publisher"
INSPECTOR = "inspector-inspector"
ALL = ("*",)


class Meter:
    """CPU time of the callbacks of a loop's thread, without the collector's."""

    def __init__(self) -> None:
        self.total = self.longest = 0.0
        self.longest_callback = ""
        self._thread = 0
        self._collecting = 0.0
        self._collected = 0.0

    def install(self) -> None:
        """Measure every callback of this thread's loop from now on."""
        self._thread = threading.get_ident()
        run = asyncio.Handle._run  # noqa: SLF001

        def measured(handle: asyncio.Handle) -> None:
            if threading.get_ident() != self._thread:
                run(handle)
                return
            collected, began = self._collected, time.thread_time()
            try:
                run(handle)
            finally:
                self._note(handle, time.thread_time() - began - (self._collected - collected))

        setattr(asyncio.Handle, "_run", measured)  # noqa: B010 - a method, to mypy
        gc.callbacks.append(self._collect)

    def reset(self) -> None:
        """Begin anew."""
        self.total = self.longest = 0.0
        self.longest_callback = ""

    def _note(self, handle: asyncio.Handle, took: float) -> None:
        self.total += took
        if took > self.longest:
            self.longest, self.longest_callback = took, _callback_of(handle)

    def _collect(self, phase: str, _: object) -> None:
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._collected += time.thread_time() - self._collecting


def _callback_of(handle: asyncio.Handle) -> str:
    callback = handle._callback  # type: ignore[attr-defined]  # noqa: SLF001
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return getattr(task.get_coro(), "__qualname__", "a task")
    return getattr(callback, "__qualname__", repr(callback))


class Running:
    """A server in a thread, and what it is asked to do from here."""

    def __init__(self, config: Config) -> None:
        self.meter = Meter()
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.server: Server

    def __enter__(self) -> Self:
        self._thread.start()
        self.do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's loop, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10 * PATIENCE)

    def wait_until_idle(self) -> None:
        """Return when the loop has next to nothing to do."""
        deadline = time.monotonic() + 4 * PATIENCE
        while time.monotonic() < deadline:
            before = self.meter.total
            time.sleep(QUIET)
            if self.meter.total - before < IDLE:
                return
        fail("the loop was never idle")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _start(self) -> None:
        self.server = Server(self._config)
        await self.server.start()
        self.meter.install()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: what is sent, and the status that it must have.

    `walks` is whether it asks for something that the server has to look for among what it holds.
    """

    name: str
    caller: str
    data: bytes
    status: int = 200
    walks: bool = False


def request(
    method: str, target: str, *, token: str | None = None, body: bytes = b"", lines: tuple[str, ...] = ()
) -> bytes:
    """Write a request, with as few headers as there may be."""
    head = [f"{method} {target} HTTP/1.1", "Host: x", *lines]
    if token is not None:
        head.append(f"Authorization: Bearer {token}")
    if body or method == "POST":
        head += [f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


JSON = "Content-Type: application/json"


def few(turn: int) -> str:
    """Return ten patterns that match hardly anything; each turn has others, of which nothing is known yet."""
    return ",".join(f"*{digit}*z{turn}*" for digit in range(10))


def many(turn: int) -> str:
    """Return ten patterns that match nearly everything."""
    return ",".join(f"*.{'*' * turn}{digit}*" for digit in range(10))


def starry(turn: int) -> str:
    """Return ten patterns of many stars, which names of digits go a long way into."""
    return ",".join(f"p*u*b*l*i*c*.*{'*'.join('123456789' * 3)}*{turn}*{digit}" for digit in range(10))


def kinds(turn: int) -> Iterator[Kind]:
    """Return every kind of request, as it is sent in one turn."""
    yield Kind(PLAIN, "stranger", request("GET", "/events/public.a"))
    yield from _replays(turn)
    yield Kind("starry", "subscriber", request("GET", f"/events/{starry(turn + 20)}", token=SUBSCRIBER))
    yield Kind("refused-starry", "stranger", request("GET", f"/events/{starry(turn + 40)}"), 401)
    yield from _publishes(turn)
    yield from _questions()


def _replays(turn: int) -> Iterator[Kind]:
    for since in ("earliest", "last", "30m", "mine"):
        # As `since` an id is refused that is not known any more.
        cursor = "last_event_id" if since == "mine" else "since"
        for name, asked, more in (
            ("few", few(turn), ""),
            ("many", many(turn), ""),
            ("starry", starry(turn), ""),
            ("all", f"*,none{turn}", ""),
            ("typed", f"*,none{turn}", "&event=none"),
        ):
            target = f"/events/{asked}?{cursor}={since}{more}"
            if since == "mine" and name in {"few", "starry"}:
                continue  # refused: no channel of theirs has it
            yield Kind(f"{since}-{name}", "subscriber", request("GET", target, token=SUBSCRIBER), walks=True)
        names = [f"public.{n}" for n in range(90, 190)]
        for name, body in (
            ("names", {"channels": names, cursor: since}),
            ("names-typed", {"channels": names, cursor: since, "event": "none"}),
        ):
            yield Kind(
                f"{since}-{name}",
                "subscriber",
                request("POST", "/events", token=SUBSCRIBER, body=json.dumps(body).encode(), lines=(JSON,)),
                walks=True,
            )


def _publishes(turn: int) -> Iterator[Kind]:
    for name, channels, body, status in (
        ("publish", "x.1", b"x", 200),
        ("publish-new", f"x.new{turn}", b"x", 200),
        ("publish-100", ",".join(f"x.{turn}.{n}" for n in range(100)), b"x", 200),
        ("publish-200-KB", "x.1", b"x" * 200_000, 200),
        ("refused-publish", ",".join(f"q{n}" for n in range(100)), b"x", 403),
    ):
        yield Kind(
            name, "publisher", request("POST", f"/send/{channels}", token=PUBLISHER, body=body), status
        )


def _questions() -> Iterator[Kind]:
    for name, target in (
        ("channels", "/channels"),
        ("channels-1000", "/channels?limit=1000"),
        ("channels-after", "/channels?limit=1000&after=public.5"),
        ("channels-prefix", "/channels?prefix=public.99"),
        ("channel", "/channels/public.1"),
        ("subscribers-1000", "/subscribers?limit=1000"),
        ("subscribers-lag", "/subscribers?limit=1000&sort=lag"),
        ("subscribers-channel", "/subscribers?limit=1000&channel=public.1"),
        ("metrics", "/metrics"),
        ("status", "/status"),
        ("healthz", "/healthz"),
        ("openapi", "/openapi.json"),
    ):
        yield Kind(name, "operator", request("GET", target, token=ROOT), walks=True)
    yield Kind("channels-granted", "inspector", request("GET", "/channels", token=INSPECTOR), walks=True)
    yield Kind("reload", "operator", request("POST", "/reload", token=ROOT), walks=True)
    for name in ("nobody", "reader"):
        body = json.dumps({"subject": name}).encode()
        revoking = request("POST", "/revoke", token=ROOT, body=body, lines=(JSON,))
        yield Kind(f"revoke-{name}", "operator", revoking, walks=True)


def configuration(chosen: argparse.Namespace) -> Config:
    """Return the server's configuration: callers have tokens, and strangers may follow one channel."""
    return Config(
        host=HOST,
        port=0,
        heartbeat=25.0,
        history_channels=max(131_072, chosen.channels + 1000),
        # Channels and own ids count in it: 100,000 of both take most of the default.
        history_total=max(1 << 28, 2600 * chosen.channels),
        history_age=7 * 86_400.0,
        anonymous_subscribe=("public.a",),
        publish_rate=0,
        subscribe_rate=0,
        max_connections_per_address=0,
        shutdown_timeout=1.0,
        caller=(
            CallerRule(name="root", token=ROOT, publish=ALL, subscribe=ALL, inspect=ALL, admin=ALL),
            CallerRule(name="subscriber", token=SUBSCRIBER, subscribe=("*",)),
            CallerRule(name="publisher", token=PUBLISHER, publish=("x.*",)),
            CallerRule(name="inspector", token=INSPECTOR, inspect=("public.9*", "b", "c.*")),
        ),
    )


async def fill(server: Server, channels: int) -> None:
    """Publish in so many channels, and then until the history holds all that it may."""
    broadcaster = server.broadcaster
    for begin in range(0, channels, 1000):
        await broadcaster.publish_all(
            [
                broadcaster.draft(Event("x" * 20, id="mine" if n < channels // 2 else None), (f"public.{n}",))
                for n in range(begin, min(begin + 1000, channels))
            ]
        )
        await asyncio.sleep(0)
    events = -1
    while broadcaster.history_usage.events > events:
        events = broadcaster.history_usage.events
        for _ in range(10):
            await broadcaster.publish_all(
                [broadcaster.draft(Event("x" * 100), (f"public.{n % 100}",)) for n in range(1000)]
            )
            await asyncio.sleep(0)


@contextlib.contextmanager
def subscribers(running: Running, count: int) -> Iterator[None]:
    """Follow 100 channels by each of so many streams, and some patterns."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            names = [f"public.{100 * number + n}" for n in range(99)] + [f"public.{number}*"]
            body = json.dumps({"channels": names}).encode()
            stream = stack.enter_context(socket.create_connection((HOST, running.server.port), PATIENCE))
            stream.sendall(request("POST", "/events", token=SUBSCRIBER, body=body, lines=(JSON,)))
            _status(stream, "a subscriber")
        yield


def _status(connection: socket.socket, name: str) -> int:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536) or fail(f"{name}: the connection was closed: {data[:300]!r}")
    return int(data.split(b" ", 2)[1])


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request took: seconds of CPU of its longest callback, and of all."""

    longest: float
    callback: str
    total: float
    sent: int

    @property
    def each(self) -> float:
        """Seconds for each byte that was sent."""
        return self.total / self.sent


def measure(running: Running, kind: Kind) -> Cost:
    """Send a request, read all of the answer, and wait until nothing is left to do."""
    running.wait_until_idle()
    meter = running.meter
    meter.reset()
    with socket.create_connection((HOST, running.server.port), PATIENCE) as connection:
        connection.sendall(kind.data)
        status = _status(connection, kind.name)
        if status != kind.status:
            fail(f"{kind.name}: answered with {status}, not with {kind.status}")
        reading = threading.Thread(target=_drain, args=(connection,), daemon=True)
        reading.start()
        running.wait_until_idle()
        cost = Cost(meter.longest, meter.longest_callback, meter.total, len(kind.data))
        connection.shutdown(socket.SHUT_RDWR)
    reading.join(PATIENCE)
    return cost


def _drain(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 20):
            pass


def main() -> int:
    """Measure every kind, print the table, and say whether the bounds hold."""
    chosen = arguments()
    stop_on_sigterm()
    with Running(configuration(chosen)) as running:
        running.do(fill(running.server, chosen.channels))
        print(f"history: {running.server.broadcaster.history_usage}", file=sys.stderr)
        with subscribers(running, chosen.streams):
            found = run(running, chosen)
    print(table(found))
    checks = list(check(found))
    print_checks(checks)
    return exit_status(checks) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("callbacks", __doc__)
    known = [kind.name for kind in kinds(1)]
    parser.add_argument("--channels", type=positive, default=100_000, help="channels that are held")
    parser.add_argument("--streams", type=positive, default=500, help="streams of 100 channels each")
    parser.add_argument("--times", type=positive, default=3, help="how often each kind is sent")
    parser.add_argument(
        "--kinds", type=some_of(known), default=known, help="a comma list: " + ",".join(known)
    )
    add_check(parser)
    return parser.parse_args()


def run(running: Running, chosen: argparse.Namespace) -> dict[str, tuple[Kind, Cost]]:
    """Measure every kind that was chosen, and a plain stream; of each the run with the least longest."""
    found: dict[str, tuple[Kind, Cost]] = {}
    for turn in range(1, chosen.times + 1):
        for kind in kinds(turn):
            if kind.name not in {PLAIN, *chosen.kinds}:
                continue
            cost = measure(running, kind)
            print(f"{turn}: {kind.name}: {cost}", file=sys.stderr)
            if kind.name not in found or cost.longest < found[kind.name][1].longest:
                found[kind.name] = kind, cost
    return found


def table(found: Mapping[str, tuple[Kind, Cost]]) -> str:
    """Return the costs as Markdown."""
    plain = found[PLAIN][1]
    lines = [
        "| request | by | bytes | longest, ms | in | CPU, ms | per byte, us | plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, cost in found.values():
        lines.append(
            f"| {kind.name} | {kind.caller} | {cost.sent} | {cost.longest * 1e3:.2f} | `{cost.callback}`"
            f" | {cost.total * 1e3:.2f} | {cost.each * 1e6:.2f} | {cost.each / plain.each:.1f} |"
        )
    return "\n".join(lines)


def check(found: Mapping[str, tuple[Kind, Cost]]) -> Iterator[Check]:
    """Check the bounds."""
    plain = found[PLAIN][1]
    for kind, cost in found.values():
        yield at_most(f"{kind.name}: longest callback", cost.longest * 1e3, LONGEST * 1e3, " ms")
        if not kind.walks:
            yield at_most(f"{kind.name}: CPU per byte", cost.each / plain.each, FACTOR, " x a plain stream's")


if __name__ == "__main__":
    sys.exit(main())
