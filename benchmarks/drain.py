"""A server that is told to stop while ten thousand readers read: what each of them is given.

    python -m benchmarks.drain [--readers 10000] [--frozen 100] [--check]

One server with its default times. Readers connect, some of whom never read; events are published
throughout. Then it gets a SIGTERM. Checked:

- it exits with 0 within drain_delay + drain_timeout + shutdown_timeout, and a second for the process to end;
- every reader that reads has all that was answered, in whole frames, the reason, and a clean end;
- the frozen ones are cut;
- readers come back spread out: by the time each was let go and the `retry:` it was told.
"""

import argparse
import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.crowd import (
    Answers,
    Publisher,
    Stream,
    exit_of,
    open_streams,
    process,
    raise_descriptor_limit,
    until_it_accepts,
)
from benchmarks.harness import (
    HOST,
    Check,
    add_check,
    at_least,
    at_most,
    command_line,
    exactly,
    exit_status,
    ours,
    positive,
    print_checks,
    stop_on_sigterm,
)

RATE = 5
"""Events a second: with 10,000 readers 50,000 deliveries, half of what a core can do."""

BEFORE = 3.0
"""Seconds of publishing before the signal."""

TIMES = 5.0 + 3.0
"""Seconds of drain_timeout and shutdown_timeout, by default."""

EXIT = 1.0
"""Seconds that the process may take beside them: to be scheduled, and to let go of its memory."""

SEND_BUFFER = 16_384

LARGE = b"x" * 4096

RETURNS = 2000
"""Readers that the server has come back in a second."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Observations from the signal on."""

    code: int
    took: float
    signalled: float
    streams: list[Stream]
    cut: int
    answers: Answers


def main() -> int:
    """Drain once, print what was checked, and with --check say whether it holds."""
    parser = command_line("drain", __doc__)
    parser.add_argument("--readers", type=positive, default=10_000, help="all, the frozen ones included")
    parser.add_argument("--frozen", type=positive, default=100, help="how many of them never read")
    add_check(parser, "everything holds")
    chosen = parser.parse_args()
    if chosen.frozen >= chosen.readers:
        parser.error("--frozen: some of the readers, and not all")
    stop_on_sigterm()
    raise_descriptor_limit()
    outcome = asyncio.run(drain(chosen))
    checks = list(checked(outcome, chosen))
    print_checks(checks)
    return exit_status(checks) if chosen.check else 0


async def drain(chosen: argparse.Namespace) -> Outcome:
    """Let all clients subscribe and publish, and stop the server."""
    plan = ours("--send-buffer", str(SEND_BUFFER), "--write-timeout", "600", "--log-level", "warning")
    answers = Answers()
    with process(plan.command) as server:
        await until_it_accepts(plan.port, server)
        frozen = await freeze(plan.port, chosen.frozen)
        streams = await open_streams(plan.port, chosen.readers - chosen.frozen)
        publishing = asyncio.ensure_future(Publisher(plan.port, answers).run(every=1 / RATE, after=0.0))
        await asyncio.sleep(BEFORE)
        signalled, began = asyncio.get_running_loop().time(), time.monotonic()
        server.terminate()
        code = await exit_of(server)
        took = time.monotonic() - began
        answers.enough = True
        await publishing
        await asyncio.gather(*(stream.ended for stream in streams))
    return Outcome(code, took, signalled, streams, sum(map(is_cut, frozen)), answers)


async def freeze(port: int, count: int) -> list[socket.socket]:
    """Connect readers that take nothing, and fill them."""
    loop = asyncio.get_running_loop()
    frozen = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, (HOST, port))
        await loop.sock_sendall(sock, b"GET /events/default,large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        frozen.append(sock)
    reader, writer = await asyncio.open_connection(HOST, port)
    head = b"POST /send/large HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(LARGE)
    for _ in range(4 * SEND_BUFFER // len(LARGE)):
        writer.write(head + LARGE)
        await reader.readuntil(b"}")
    writer.close()
    return frozen


def is_cut(sock: socket.socket) -> bool:
    """Take what a frozen reader has got, and say whether its stream had no end."""
    data = b""
    try:
        while more := sock.recv(65_536):
            data += more
    except ConnectionResetError:
        return True
    finally:
        sock.close()
    return not data.endswith(b"0\r\n\r\n")


def checked(outcome: Outcome, chosen: argparse.Namespace) -> Iterator[Check]:
    """Check what was promised."""
    streams, honest = outcome.streams, chosen.readers - chosen.frozen
    (position,) = outcome.answers.newest.values()
    yield exactly("exit code", outcome.code, 0)
    yield at_most("seconds to the exit", outcome.took, TIMES + EXIT)
    yield at_least("publishes answered", outcome.answers.statuses[200], RATE * BEFORE / 4)
    yield exactly("readers told of the drain", sum(each.news == ["close drain"] for each in streams), honest)
    yield exactly("readers with a whole end", sum(each.whole for each in streams), honest)
    yield exactly("readers with gaps", sum(each.gaps > 0 for each in streams), 0)
    yield exactly(
        "readers with all that was answered", sum(each.position == position for each in streams), honest
    )
    yield exactly("frozen readers cut", outcome.cut, chosen.frozen)
    last = max(each.ended.result() for each in streams) - outcome.signalled
    yield at_most("seconds to the last goodbye", last, TIMES)
    returns = Counter(int(each.ended.result() + each.retry / 1000) for each in streams)
    yield at_most("readers that come back in the busiest second", max(returns.values()), 1.5 * RETURNS)
    print(f"  goodbyes over {last:.1f} s, returns by second: {[returns[each] for each in sorted(returns)]}")


if __name__ == "__main__":
    sys.exit(main())
