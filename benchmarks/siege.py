"""Our server under requests as nobody should send them, and 200 readers that must not notice.

    python -m benchmarks.siege [--requests 1000000] [--seed 1] [--crowd 100] [--python PATH] [--check]

The requests are those of tests/support/inventor.py: grammar-based, bent and broken, sent in pieces, stalled,
half-closed, reset. The same seed makes the same ones. The server has credentials, of which the attacker knows
some, and its default limits. Phases:

  calm    nobody attacks: the readers' latency
  paced   500 requests a second, in turns with the calm: the 99th percentile may be twice as much
  flood   all the requests, as fast as they can be sent: latency is told, and nothing is asked of it
  full    strangers hold all connections, and come back when they are cut; as many requests as a tenth

Every third connection sends what tests/support/costly_requests.py makes up: well-formed requests of
strangers, subscribers and publishers of a few channels that cost much for what they send, refused as well
as taken.

An operator publishes all the while, in each phase: on a private listener, and on the public one with `admin`,
each time on a new connection. None of these may fail. It also makes tokens and revokes them while a publish
with one is on its way, which must not be published.

Checked in all of them: every answer is well-formed, and one that the contract has (no 500; a 503 says when to
come back); the readers lose nothing, and nobody ends their streams; nothing in the log is a fault. Checked
at the end: memory is what it was after the first half of the flood, and no socket is left.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import (
    HOST,
    Check,
    Load,
    Plan,
    Publishers,
    Row,
    Server,
    add_check,
    add_python,
    at_most,
    command_line,
    exactly,
    exit_status,
    family,
    free_port,
    missing,
    ours,
    positive,
    print_checks,
    publish,
    running,
    stop_on_sigterm,
    told,
    workshop,
)
from tests.support.costly_requests import CHANNELS, inventing
from tests.support.hostile import besiege
from tests.support.inventor import Inventor

READERS = 200
ROUND = 10.0
"""Seconds of one look at the readers."""

PACE = 500.0
"""Requests a second, when latency is what is looked at."""

TURNS = 3
GROWTH = 16 << 20
"""Bytes of memory, at most, between the first half of the flood and its end."""

ROOM = 800
"""Connections that the server takes: strangers can fill it."""

GOOD, NARROW, HONEST = "a-token-that-may-do-everything", "a-token-that-may-do-little", "a-token-of-the-honest"
SPENDER, OPERATOR = "a-token-of-the-spender", "a-token-of-the-operator"
CONFIG = f"""
    max_connections = {ROOM}
    token_secret = "a secret that is known to nobody else"
    token = "{GOOD}"
    anonymous_subscribe = ["a"]
    cookie = "session"
    cors_origins = ["https://a.example"]
    history_bytes = 100_000
    history_total = 20_000_000
    history_channels = 5_000

    [[caller]]
    name = "narrow"
    token = "{NARROW}"
    subscribe = ["a", "b"]
    publish = ["a"]

    [[caller]]
    name = "honest"
    token = "{HONEST}"
    subscribe = ["honest"]
    publish = ["honest"]

    [[caller]]
    name = "spender"
    token = "{SPENDER}"
    subscribe = ["{CHANNELS}.*"]
    publish = ["{CHANNELS}.*"]

    [[caller]]
    name = "operator"
    token = "{OPERATOR}"
    publish = ["operator"]
    subscribe = ["operator"]
    inspect = ["*"]
    admin = ["*"]

    [[listener]]
    host = "{HOST}"
    port = {{public}}

    [[listener]]
    host = "{HOST}"
    port = {{private}}
    endpoints = ["publish", "inspect", "admin"]
"""


def main() -> int:
    """Run the phases, print what was found, and give the exit status."""
    stop_on_sigterm()
    options = arguments()
    with workshop() as folder, tempfile.TemporaryDirectory() as temp:
        private = free_port()
        plan = guarded(Path(temp), options.python, private)
        with running(plan) as server:
            separate(server)
            operator = Operator(server.port, private)
            try:
                checks = list(run(folder, server, private, options))
            finally:
                operator.end()
        checks += operator.checks()
        found = faults(Path(temp, "log"))
        print("".join(found[:100]), end="")
        checks.append(exactly("lines of the log that tell of faults", len(found), 0))
    print_checks(checks)
    return exit_status(checks) if options.check else 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line("siege", __doc__)
    parser.add_argument("--requests", type=positive, default=1_000_000, metavar="N", help="as many of them")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what they are made up from")
    parser.add_argument("--crowd", type=positive, default=100, metavar="N", help="connections at one time")
    add_python(parser)
    add_check(parser, "everything holds")
    return parser.parse_args()


def guarded(folder: Path, python: str, private: int) -> Plan:
    """Plan a server with credentials and a private listener at that port, whose log is kept in the folder."""
    plan = ours("--config", str(folder / "config.toml"), "--log-format", "text", python=python)
    (folder / "config.toml").write_text(CONFIG.format(public=plan.port, private=private))
    command = [each for each in plan.command if each not in {"--port", str(plan.port)}]
    command = ["sh", "-c", 'exec "$@" 2>"$0"', str(folder / "log"), *command]
    return dataclasses.replace(plan, command=command, headers=(f"Authorization: Bearer {HONEST}",))


def faults(log: Path) -> list[str]:
    """Return the lines of a log that do not tell what anyone may cause; those of a traceback are such."""
    with log.open(errors="replace") as lines:
        return [line for line in lines if " INFO " not in line and " WARNING " not in line]


def separate(server: Server) -> None:
    """Pin the server to a core of its own, if there is another: attackers have machines of their own."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        for process in family(server.pid):
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores[:1])
        os.sched_setaffinity(0, cores[1:])


class Operator:
    """Publishes and asks in a thread of its own, until `end`, each time on a new connection."""

    def __init__(self, public: int, private: int) -> None:
        self._public, self._private = public, private
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._slowest: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self._thread.start()

    def end(self) -> None:
        """Do no more."""
        self._over.set()
        self._thread.join()

    def checks(self) -> Iterator[Check]:
        """Return the checks of what it has found."""
        for name in ("private publish", "private status", "admin publish", "publish after its revocation"):
            slowest = self._slowest[name]
            done, failed = self._done[name], self._failed[name]
            print(f"operator: {name}: {done} done, {failed} failed, {slowest} ms at most")
            yield exactly(f"{name}, failed", self._failed[name], 0)

    def _go_on(self) -> None:
        while not self._over.wait(0.1):
            self._try("private publish", lambda: self._ask(self._private, "POST", "/send/operator") == 200)
            self._try("private status", lambda: self._ask(self._private, "GET", "/status") == 200)
            self._try("admin publish", lambda: self._ask(self._public, "POST", "/send/operator") == 200)
            self._try("publish after its revocation", self._revoke_in_flight)

    def _try(self, name: str, act: Callable[[], bool]) -> None:
        begun = time.monotonic()
        try:
            succeeded = act()
        except (OSError, http.client.HTTPException, ValueError):
            succeeded = False
        took = int((time.monotonic() - begun) * 1000)
        self._slowest[name] = max(self._slowest[name], took)
        self._done[name] += 1
        self._failed[name] += not succeeded

    def _ask(self, port: int, method: str, path: str, body: object = None) -> int:
        return self._answer(port, method, path, body)[0]

    def _answer(self, port: int, method: str, path: str, body: object) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, port, timeout=10)
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        data = b"x" if method == "POST" else None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _revoke_in_flight(self) -> bool:
        """Return whether a publish is refused whose token is revoked between its head and its body."""
        subject = f"s{time.monotonic_ns()}"
        wanted = {"grants": {"publish": ["operator"]}, "subject": subject, "lifetime": 60}
        root = self._mint(wanted)
        with socket.create_connection((HOST, self._private), timeout=10) as sock:
            sock.sendall(
                b"POST /send/operator HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
                b"Authorization: Bearer %b\r\n\r\nx" % root.encode()
            )
            time.sleep(0.02)
            if self._ask(self._private, "POST", "/revoke", {"subject": subject}) != 200:
                return False
            sock.sendall(b"x")
            return b" 401 " in sock.recv(4096).partition(b"\r\n")[0]

    def _mint(self, wanted: object) -> str:
        status, body = self._answer(self._private, "POST", "/tokens", wanted)
        if status != 200:
            raise ValueError(body)
        return str(json.loads(body)["token"])


class Watch:
    """Looks at the honest readers, round after round, in a thread of its own, until `end`."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.rows: list[Row] = []
        self._folder, self._server = folder, server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_again)
        self._thread.start()

    def end(self) -> list[Row]:
        """Return what every round found, when the last is over."""
        self._over.set()
        self._thread.join()
        return self.rows

    def _look_again(self) -> None:
        while not self._over.is_set():
            self.rows.append(look(self._folder, self._server))


def look(folder: Path, server: Server) -> Row:
    """Publish to the honest readers for one round, and see what arrived, and when."""
    publishers = Publishers(connections=1, seconds=ROUND - 2, rate=50, path="/send/honest")
    with Load(folder, server, readers=READERS, seconds=ROUND, path="/events/honest") as load:
        time.sleep(0.5)
        sent = publish(folder, server, publishers)
        got = load.result()
    return _row(got, sent)


def _row(got: Row, sent: Row) -> Row:
    return {
        "p99_ms": got["p99_us"] / 1000,
        "lost": missing(got, sent, readers=READERS),
        "repeats": got["repeats"],
        "closed": got["closed"],
    }


@contextlib.contextmanager
def filled(port: int) -> Iterator[None]:
    """Hold every connection that is left, and reconnect whenever one is cut."""
    over = threading.Event()
    thread = threading.Thread(target=_fill, args=(port, over))
    thread.start()
    try:
        time.sleep(2)
        yield
    finally:
        over.set()
        thread.join()


def _fill(port: int, over: threading.Event) -> None:
    held: list[socket.socket] = []
    while not over.wait(0.01):
        while len(held) < ROOM and not over.is_set():
            with contextlib.suppress(OSError):
                held.append(socket.create_connection((HOST, port), timeout=1))
        for sock in tuple(held):
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                try:
                    ended = not sock.recv(4096)
                except ConnectionError:
                    ended = True
                if ended:
                    sock.close()
                    held.remove(sock)
    for sock in held:
        sock.close()


def look_when_full(folder: Path, server: Server, private: int, attack: Callable[[], object]) -> Row:
    """Publish to honest readers by the private listener, while strangers fill the server and attack it."""
    publishers = Publishers(connections=1, seconds=ROUND - 2, rate=50, path="/send/honest")
    by_private = dataclasses.replace(server, port=private)
    with (
        Load(folder, server, readers=READERS, seconds=ROUND + 5, path="/events/honest") as load,
        filled(server.port),
    ):
        attacking = threading.Thread(target=attack)
        attacking.start()
        sent = publish(folder, by_private, publishers)
        attacking.join()
        got = load.result()
    return _row(got, sent)


def run(folder: Path, server: Server, private: int, options: argparse.Namespace) -> Iterator[Check]:
    """Do all phases with a server, and check what they found."""
    inventor = Inventor(options.seed, tokens=(GOOD, NARROW), costly=inventing(SPENDER))
    calm, paced = list[Row](), list[Row]()
    for _ in range(TURNS):
        calm.append(look(folder, server))
        paced += attack(folder, server, inventor, requests=int(PACE * ROUND), crowd=options.crowd, rate=PACE)[
            :1
        ]
    descriptors = server.descriptors()
    first = attack(folder, server, inventor, requests=options.requests // 2, crowd=options.crowd)
    resident = server.resident()
    rest = attack(folder, server, inventor, requests=options.requests // 2, crowd=options.crowd)
    grown = server.resident() - resident
    full = look_when_full(
        folder,
        server,
        private,
        lambda: send(server.port, inventor, requests=options.requests // 10, crowd=options.crowd),
    )
    print(f"full: {told(full)}", flush=True)
    time.sleep(15)  # what lingers does so for ten seconds
    yield at_most("p99 when paced, against calm", p99(paced) / p99(calm), 2, " x")
    print(f"p99: calm {p99(calm):.2f} ms, paced {p99(paced):.2f} ms, flood {p99(first + rest):.2f} ms")
    for name in ("lost", "repeats", "closed"):
        yield exactly(name, int(sum(row[name] for row in [*calm, *paced, *first, *rest, full])), 0)
    yield at_most("memory grown", grown / 1e6, GROWTH / 1e6, " MB")
    yield exactly("sockets left", server.sockets(), 0)
    yield at_most("descriptors left", server.descriptors() - descriptors, 0)


@contextlib.contextmanager
def yielding() -> Iterator[None]:
    """Lower this thread's priority: attackers have machines of their own."""
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, 19)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # only root may
            os.setpriority(os.PRIO_PROCESS, thread, before)


def p99(rows: list[Row]) -> float:
    """Return the median of the rounds' 99th percentiles, in milliseconds."""
    return statistics.median(row["p99_ms"] for row in rows)


def send(port: int, inventor: Inventor, *, requests: int, crowd: int, rate: float = 0) -> None:
    """Send so many requests, and print what was answered."""
    begun = time.monotonic()
    with yielding():
        tally = asyncio.run(besiege(port, inventor, requests=requests, crowd=crowd, rate=rate))
    took = time.monotonic() - begun
    statuses = {str(status): count for status, count in sorted(tally.statuses.items())}
    print(f"{tally.requests:,} requests, {tally.tricks:,} connections, {took:.0f} s, {statuses}", flush=True)


def attack(  # noqa: PLR0913 - what an attack has
    folder: Path, server: Server, inventor: Inventor, *, requests: int, crowd: int, rate: float = 0
) -> list[Row]:
    """Send so many requests, and give what became of the readers meanwhile."""
    watch = Watch(folder, server)
    try:
        send(server.port, inventor, requests=requests, crowd=crowd, rate=rate)
    finally:
        rows = watch.end()
    for row in rows:
        print(f"  {told(row)}")
    print(f"  resident {server.resident() / 1e6:.1f} MB", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
