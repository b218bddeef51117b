"""Our server when something goes wrong around it: what was promised must hold.

    python -m benchmarks.faults [--parts stopped,clock,reload,disk,second] [--seconds 300] [--python PATH]

Parts, each with a server of its own, 200 readers and 50 events a second:

  stopped  the process is stopped for 20 s (SIGSTOP) and goes on: longer than a heartbeat
  clock    the clock of the day jumps once a second, by up to 30 days either way, for `--seconds`; twenty
           readers more are cut again and again, and come back with the id they have
  reload   SIGHUP ten times a second, while the configuration file is broken in one way after the other
  disk     the log goes to a full disk, and says all it can
  second   10,000 readers; SIGTERM, and another while they are let go

Checked in each: every publish is answered, no reader loses an event, has one twice or is ended. For `clock`
also: whoever comes back misses nothing and is told of no loss, a publish with a key that was used is made
once, and silent streams have their heartbeats. For `second`: exit code 5, and how soon.

`clock` needs libfaketime (apt-get install faketime), and `disk` needs /dev/full. The exit status is 1 unless
everything holds.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import (
    HOST,
    Check,
    Load,
    Plan,
    Publishers,
    Row,
    Server,
    add_python,
    at_least,
    at_most,
    command_line,
    exactly,
    exit_status,
    fail,
    missing,
    ours,
    positive,
    print_checks,
    publish,
    running,
    some_of,
    stop_on_sigterm,
    workshop,
)
from sse_broadcast.event import Event
from sse_broadcast.wire import Decoder

READERS = 200
RATE = 50.0

STOPPED = 20.0
"""Seconds for which the process is stopped."""

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

JUMPS = (-30 * 86_400, -86_400, -3600, -1, 0, 1, 3600, 86_400, 30 * 86_400)
"""Seconds by which the clock of the day is wrong, one after the other."""

RETURNERS = 20
STAY = 3.0
"""Seconds, or up to twice as many, that one of them stays."""

CLOCKED = ("--heartbeat", "1", "--idempotency-window", "86400")
"""A key is used again at the end, which may be minutes later."""

CROWD = 10_000

NUMBER = re.compile(r" S(\d+) ")
"""What ssepub numbers its events by."""

BROKEN = (
    b"log_level = ",
    b"no_such_setting = 1\n",
    b"publish_rate = 'many'\n",
    b'cors_origins = ["nonsense"]\n',
    b"\xff\xfe\n",
    b"[[caller]]\nname = 'a'\n",
)
"""Files that cannot be used, each for a reason of its own."""


def main() -> int:
    """Do the parts, print what was found, and give the exit status."""
    stop_on_sigterm()
    options = arguments()
    checks: list[Check] = []
    with workshop() as folder:
        for part in options.parts:
            print(part, flush=True)
            found = list(PARTS[part](folder, options))
            print_checks(found)
            checks += found
    return exit_status(checks)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line("faults", __doc__)
    parser.add_argument("--parts", type=some_of(PARTS), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--seconds", type=positive, default=300, metavar="N", help="how long the clock jumps")
    add_python(parser)
    return parser.parse_args()


# What is put on every server.


@contextlib.contextmanager
def meanwhile(act: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do something in a thread of its own; it is told when to end."""
    over = threading.Event()
    thread = threading.Thread(target=act, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def broadcast(folder: Path, server: Server, *, seconds: float) -> Row:
    """Publish to the readers for so long, and see what arrived."""
    publishers = Publishers(connections=1, seconds=seconds, rate=RATE)
    with Load(folder, server, readers=READERS, seconds=seconds + 3) as load:
        sent = publish(folder, server, publishers)
        got = load.result()
    return {**got, "lost": missing(got, sent, readers=READERS), **sent}


def unharmed(part: str, row: Row) -> Iterator[Check]:
    """Check that publishers and readers noticed nothing."""
    yield at_least(f"{part}: published", row["published"], 1)
    for name in ("lost", "repeats", "closed", "refused"):
        yield exactly(f"{part}: {name}", int(row[name]), 0)


# The parts.


def stopped(folder: Path, options: argparse.Namespace) -> Iterator[Check]:
    """Stop the process, and let it go on."""
    with running(ours(python=options.python)) as server:

        def stop(over: threading.Event) -> None:
            over.wait(3)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                over.wait(STOPPED)
            finally:
                os.kill(server.pid, signal.SIGCONT)

        with meanwhile(stop):
            row = broadcast(folder, server, seconds=STOPPED + 10)
    yield from unharmed("stopped", row)


def clock(folder: Path, options: argparse.Namespace) -> Iterator[Check]:
    """Make the wall clock jump."""
    if FAKETIME is None:
        fail("libfaketime is not installed: apt-get install faketime")
    with tempfile.TemporaryDirectory() as temp:
        setting = Path(temp, "clock")
        setting.write_text("+0")
        with running(with_clock(ours(*CLOCKED, python=options.python), setting)) as server:
            returners = Returners(server.port)
            with meanwhile(jump(setting)), meanwhile(returners.run):
                before = post(server.port, key="once")
                row = broadcast(folder, server, seconds=options.seconds)
                after = post(server.port, key="once")
    yield from unharmed("clock", row)
    yield at_least("clock: readers that came back", returners.returns, options.seconds * RETURNERS / 10)
    yield at_least("clock: events they had", returners.events, 1)
    yield exactly("clock: events they missed or had twice", returners.wrong, 0)
    yield exactly("clock: losses they were told of", returners.resets, 0)
    yield exactly("clock: publishes made twice with one key", int(before != after), 0)
    yield at_least("clock: heartbeats of a silent stream", returners.heartbeats, options.seconds * 0.7)


def with_clock(plan: Plan, setting: Path) -> Plan:
    """Let a file set the wall clock of a server, and no other clock."""
    faked = [f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={setting}"]
    faked += ["FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_NO_CACHE=1"]
    return dataclasses.replace(plan, command=["env", *faked, *plan.command])


def jump(setting: Path) -> Callable[[threading.Event], None]:
    """Return what sets the clock again and again."""
    chosen = random.Random(1)

    def set_clock(over: threading.Event) -> None:
        while not over.wait(1):
            new = setting.with_suffix(".new")
            new.write_text(f"{chosen.choice(JUMPS):+d}")
            new.replace(setting)  # whole or not at all: the server reads it at any moment

    return set_clock


def post(port: int, *, key: str) -> str:
    """Publish to a channel of its own with an idempotency key, and give the id."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.request("POST", "/send/once", "hello", {"Content-Type": "text/plain", "Idempotency-Key": key})
    with contextlib.closing(connection), connection.getresponse() as response:
        return str(json.load(response)["id"])


@dataclass
class Returners:
    """Readers that are cut and come back with their last id, and what they saw; one that hears nothing."""

    port: int
    returns: int = 0
    events: int = 0
    wrong: int = 0
    resets: int = 0
    heartbeats: int = 0
    _chosen: random.Random = field(default_factory=lambda: random.Random(2))

    def run(self, over: threading.Event) -> None:
        """Read until it is over."""
        asyncio.run(self._run(over))

    async def _run(self, over: threading.Event) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._return()) for _ in range(RETURNERS)]
            tasks.append(group.create_task(self._listen()))
            await asyncio.to_thread(over.wait)
            for task in tasks:
                task.cancel()

    async def _return(self) -> None:
        id, number = "", 0
        while True:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            asked = f"Last-Event-ID: {id}\r\n" if id else ""
            writer.write(f"GET /events HTTP/1.0\r\nHost: {HOST}\r\n{asked}\r\n".encode())
            decoder = Decoder()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._chosen.uniform(STAY, 2 * STAY)):
                    await reader.readuntil(b"\r\n\r\n")
                    while data := await reader.read(65_536):
                        for event in decoder.feed(data):
                            number = self._see(event, number)
                        id = decoder.last_event_id or id
            writer.transport.abort()
            self.returns += 1

    def _see(self, event: Event, number: int) -> int:
        """Note an event, and give its number: each publisher counts from one to the next."""
        if event.type == "$reset":
            self.resets += 1
            return number
        found = NUMBER.search(event.data)
        assert found is not None
        self.events += 1
        self.wrong += number != 0 and int(found[1]) != number + 1
        return int(found[1])

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            writer.write(f"GET /events/silent HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            while await reader.read(65_536):
                self.heartbeats += 1
        finally:
            writer.transport.abort()


def reload(folder: Path, options: argparse.Namespace) -> Iterator[Check]:
    """Ask for files that cannot be used."""
    with tempfile.TemporaryDirectory() as temp:
        file = Path(temp, "config.toml")
        file.write_bytes(b"")
        with running(ours("--config", str(file), python=options.python)) as server:

            def hang_up(over: threading.Event) -> None:
                for turn in range(1_000_000):
                    if over.wait(0.1):
                        return
                    file.write_bytes(BROKEN[turn % len(BROKEN)])
                    os.kill(server.pid, signal.SIGHUP)

            with meanwhile(hang_up):
                row = broadcast(folder, server, seconds=15)
    yield from unharmed("reload", row)


def disk(folder: Path, options: argparse.Namespace) -> Iterator[Check]:
    """Write the log to a full disk."""
    plan = ours("--log-level", "debug", "--log-format", "json", python=options.python)
    plan = dataclasses.replace(plan, command=["sh", "-c", 'exec "$@" 2>/dev/full', "sh", *plan.command])
    with running(plan) as server:
        row = broadcast(folder, server, seconds=10)
    yield from unharmed("disk", row)


def second(folder: Path, options: argparse.Namespace) -> Iterator[Check]:
    """Stop a full server twice."""
    plan = ours(python=options.python)
    process = subprocess.Popen(plan.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")
    try:
        assert process.stdout is not None
        process.stdout.readline()
        server = Server(plan.name, plan.port, plan.body, process.pid)
        with Load(folder, server, readers=CROWD, seconds=60):
            process.terminate()
            until_refused(plan.port)
            begun = time.monotonic()
            process.terminate()
            process.wait(30)
            took = time.monotonic() - begun
    finally:
        process.kill()
        process.communicate()
    yield exactly("second: exit code", process.returncode, 5)
    yield at_most("second: time until the exit", took, 2, " s")


def until_refused(port: int) -> None:
    """Wait until nothing listens any more."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            return
        time.sleep(0.02)
    fail("the server still accepts connections after SIGTERM")


PARTS: dict[str, Callable[[Path, argparse.Namespace], Iterator[Check]]] = {
    "stopped": stopped,
    "clock": clock,
    "reload": reload,
    "disk": disk,
    "second": second,
}


if __name__ == "__main__":
    sys.exit(main())
