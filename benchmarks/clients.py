"""Real clients whose streams are cut at every byte: nothing may be lost untold, nothing shown twice.

    python -m benchmarks.clients [--clients 'eventsource 5,chromium'] [--kinds event,reset] [--python PATH]

Every client of `tests/support/client_cases.py` that is installed: those of npm (`npm ci --prefix
tests/clients`), those of PyPI, Chromium and Firefox. For each of them a stream is cut at every byte of

  event      an event of two lines, with a type
  opening    what a stream begins with, for a client that has no id yet
  return     the same, for a client that comes back with an id
  reset      the block that tells of a loss
  heartbeat  the block that moves the cursor
  close      the block that ends a stream

once with a clean end of the body, as a gateway may send it, and once with none, as of a lost network. Events
are published while the client is away, and when it is back.

What a client does wrong with any server's bytes (`Fault`) is counted apart. The exit status is 1 if anything
else was lost untold, shown twice, out of order or never published; some of those cuts are printed in full.
"""

import argparse
import asyncio
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.harness import (
    Check,
    add_python,
    at_least,
    command_line,
    exactly,
    exit_status,
    fail,
    ours,
    print_checks,
    running,
    some_of,
    stop_on_sigterm,
)
from tests.support.browser import Firefox, firefox
from tests.support.client_cases import (
    CLIENTS,
    Client,
    CutResult,
    Fault,
    Kind,
    Site,
    run_cut,
    site_of,
)
from tests.support.client_drivers import driver_of

KINDS = {
    "event": Kind.EVENT,
    "opening": Kind.OPENING,
    "return": Kind.RETURN,
    "reset": Kind.RESET,
    "heartbeat": Kind.HEARTBEAT,
    "close": Kind.CLOSE,
}

HISTORY = 3
SETTINGS = ("--retry", "100", "--history-size", str(HISTORY), "--heartbeat", "1")

TOGETHER = 24
"""Streams that one client has open at one time. More slow down the browsers and the Python threads."""

SPARE = 2
"""Offsets beyond the measured length of a block, because the numbers in it grow. They mean its end."""

SHOWN = 10
"""Transcripts that are printed. A client of which so many streams hang is not cut any more."""


def main() -> int:
    """Cut the streams, print the results, and return the exit status."""
    stop_on_sigterm()
    options = arguments()
    clients = [client for client in CLIENTS if client.name in options.clients]
    missing = [client.name for client in clients if not client.runtime.is_installed]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", flush=True)
    clients = [client for client in clients if client.name not in missing]
    if not clients:
        fail("no client is installed")
    with running(ours(*SETTINGS, python=options.python)) as server:
        tallies = asyncio.run(cut_all(server.port, clients, [KINDS[name] for name in options.kinds]))
    print_table(tallies)
    print_transcripts(tallies)
    checks = list(verdicts(tallies))
    print_checks(checks)
    return exit_status(checks)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line("clients", __doc__)
    names = [client.name for client in CLIENTS]
    parser.add_argument("--clients", type=some_of(names), default=names, help=",".join(names))
    parser.add_argument("--kinds", type=some_of(KINDS), default=list(KINDS), help=",".join(KINDS))
    add_python(parser)
    return parser.parse_args()


# The cuts.


@dataclass(slots=True)
class Tally:
    """The results of one client."""

    client: Client
    results: list[CutResult] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    """Transcripts of the streams that made no progress after the cut."""

    @property
    def right(self) -> int:
        """How many cuts led to no error."""
        return sum(result.verdict == result.expected for result in self.results)

    def explained(self, fault: Fault) -> int:
        """Return how many cuts led to an error that this fault explains."""
        return sum(
            result.fault is fault and result.verdict != result.expected and not result.is_unexplained
            for result in self.results
        )

    @property
    def wrong(self) -> list[str]:
        """The transcripts of all other cuts."""
        return [result.transcript for result in self.results if result.is_unexplained] + self.hung


async def cut_all(port: int, clients: Sequence[Client], kinds: Sequence[Kind]) -> list[Tally]:
    """Cut streams of all clients at the same time."""
    async with AsyncExitStack() as stack:
        browser = LazyFirefox(stack)
        drivers = {
            runtime: await stack.enter_async_context(driver_of(runtime, installed, browser))
            for runtime in {client.runtime for client in clients}
        }
        session = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}"))
        site = site_of(port, session, drivers, history_size=HISTORY)
        return await asyncio.gather(*(cut_client(site, client, kinds) for client in clients))


class LazyFirefox:
    """Starts Firefox on the first call; the stack ends it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._browser: Firefox | None = None

    def __call__(self) -> Firefox:
        """Return the browser."""
        if self._browser is None:
            self._browser = self._stack.enter_context(firefox(installed))
        return self._browser


def installed(name: str) -> Path:
    """Return the path of a program."""
    return Path(shutil.which(name) or fail(f"{name} is not installed"))


async def cut_client(site: Site, client: Client, kinds: Sequence[Kind]) -> Tally:
    """Cut streams of one client at every byte, `TOGETHER` at a time."""
    tally = Tally(client)
    places = asyncio.Semaphore(TOGETHER)

    async def cut(kind: Kind, offset: int, *, clean: bool) -> None:
        async with places:
            if len(tally.hung) >= SHOWN:
                return
            try:
                tally.results.append(await run_cut(site, client, kind, at(offset), clean=clean))
            except AssertionError as error:
                tally.hung.append(str(error))

    for kind in kinds:
        whole = await run_cut(site, client, kind, len, clean=True)
        offsets = range(len(whole.block) + SPARE)
        cuts = itertools.product(offsets, (False, True))
        await asyncio.gather(*(cut(kind, offset, clean=clean) for offset, clean in cuts))
    print(f"{client.name}: {len(tally.results)} cuts, {len(tally.wrong)} wrong", flush=True)
    return tally


def at(offset: int) -> Callable[[bytes], int]:
    """Return a function that limits an offset to the length of a block."""
    return lambda block: min(offset, len(block))


# What is printed.

FAULTS = (Fault.EARLY_ID, Fault.HALF_ID, Fault.HALF_BLOCK)


def print_table(tallies: Sequence[Tally]) -> None:
    """Print a line for each client, as a Markdown table."""
    print("\n| client | cuts | right | id too early | half an id | half a block | wrong |")
    print("|---|---|---|---|---|---|---|")
    for tally in tallies:
        faults = " | ".join(str(tally.explained(fault)) for fault in FAULTS)
        count = len(tally.results) + len(tally.hung)
        print(f"| {tally.client.name} | {count} | {tally.right} | {faults} | {len(tally.wrong)} |")
    print()


def print_transcripts(tallies: Sequence[Tally]) -> None:
    """Print the transcripts of the first cuts that went wrong."""
    wrong = itertools.chain.from_iterable(tally.wrong for tally in tallies)
    for transcript in itertools.islice(wrong, SHOWN):
        print(transcript, end="\n\n")


def verdicts(tallies: Sequence[Tally]) -> Iterator[Check]:
    """Check each client."""
    for tally in tallies:
        yield at_least(f"{tally.client.name}: cuts", len(tally.results), 1)
        yield exactly(f"{tally.client.name}: cuts that went wrong", len(tally.wrong), 0)


if __name__ == "__main__":
    sys.exit(main())
