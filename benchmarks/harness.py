"""What the benchmarks share: servers to measure, load to put on them, and how to look at both.

Linux only, since a process's time, memory and sockets are read from /proc. Everything listens on
loopback. What is started here is stopped by its context manager, whatever happens in between.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, Self, TypeAlias

HOST = "127.0.0.1"
PROGRAMS = Path(__file__).resolve().parent / "load"
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

PATIENCE = 30.0
"""Seconds beyond its own time after which a program that still runs has failed."""

Row: TypeAlias = dict[str, float]
"""Measures by name."""


def fail(message: str) -> NoReturn:
    """End the benchmark, saying why it cannot go on."""
    sys.exit(message)


def stop_on_sigterm() -> None:
    """Make SIGTERM end the benchmark as Ctrl-C does, through every context manager."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m benchmarks.<name>`."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_python(parser: argparse.ArgumentParser) -> None:
    """Add `--python`, for a benchmark that starts our server."""
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs our server")


def add_check(parser: argparse.ArgumentParser, unless: str = "the bounds hold") -> None:
    """Add `--check`, for a benchmark whose results may fail."""
    parser.add_argument("--check", action="store_true", help=f"exit with 1 unless {unless}")


def positive(text: str) -> int:
    """Return a count of at least one. Raises `argparse.ArgumentTypeError`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, not {text!r}")
    return int(text)


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return what reads a comma list of these names. It raises `argparse.ArgumentTypeError` for any other."""

    def read(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return text.split(",")

    return read


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """Yield a temporary folder in which the C programs are built."""
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        compiler = shutil.which("cc") or fail("cc is not installed: apt-get install gcc libc6-dev")
        for source in PROGRAMS.glob("*.c"):
            program = folder / source.stem
            subprocess.run([compiler, "-O2", "-w", "-o", program, source], check=True, timeout=60)
        yield folder


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


# Servers.


@dataclass(frozen=True, slots=True)
class Plan:
    """How to start a server. It takes `GET /events` and `POST /send`, the body as `json` or `text`.

    `headers` are those that every request must have, each a line.
    """

    name: str
    command: list[str]
    port: int
    body: str
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """One server that runs, seen from outside."""

    name: str
    port: int
    body: str
    pid: int
    headers: tuple[str, ...] = ()

    def cpu(self) -> float:
        """Return the seconds of user and system time its processes have used."""
        return sum(map(_cpu, family(self.pid)))

    def resident(self) -> int:
        """Return the resident bytes of its processes."""
        return sum(map(_resident, family(self.pid)))

    def descriptors(self) -> int:
        """Return how many descriptors its first process has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def sockets(self) -> int:
        """Return how many connections its side still has, those that are being closed included."""
        return sum(1 for port, state in _connections() if port == self.port and state not in {"0A", "06"})


def ours(*flags: str, python: str = sys.executable) -> Plan:
    """Plan our own server, as the interpreter has it installed."""
    port = free_port()
    return Plan("ours", [python, "-m", "sse_broadcast", "serve", "--port", str(port), *flags], port, "json")


def floor(folder: Path) -> Plan:
    """Plan the yardstick: one `send()` a subscriber and nothing else."""
    port = free_port()
    return Plan("floor", [str(folder / "ssefloor"), str(port)], port, "text")


def nchan(folder: Path, *, held: int = 1000, ping: int = 0) -> Plan:
    """Plan nginx with the nchan module, one worker, its channel holding so many events.

    `ping` is the seconds between two pings of a stream, 0 for none.
    """
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None or not NCHAN.exists():
        fail("nginx with its nchan module is not installed: apt-get install nginx-light libnginx-mod-nchan")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_nginx_config(folder, port, held, ping))
    return Plan("nchan", [nginx, "-c", str(config)], port, "text")


def _nginx_config(folder: Path, port: int, held: int, ping: int) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    return f"""
        load_module {NCHAN}; user root; worker_processes 1; daemon off; pid {folder}/nginx.pid;
        error_log {folder}/nginx.log warn; worker_rlimit_nofile 60000;
        events {{ worker_connections 50000; }}
        http {{
            access_log off; {temp} keepalive_requests 100000000; nchan_shared_memory_size 256M;
            server {{
                listen {HOST}:{port} backlog=4096;
                location = /events {{
                    nchan_subscriber eventsource; nchan_channel_id c; nchan_subscriber_first_message newest;
                    nchan_eventsource_ping_interval {ping}; nchan_eventsource_ping_comment "";
                }}
                location = /send {{
                    nchan_publisher; nchan_channel_id c; nchan_message_buffer_length {held};
                }}
            }}
        }}
    """


@contextlib.contextmanager
def running(plan: Plan) -> Iterator[Server]:
    """Run a server, from when it accepts connections until it has stopped."""
    # The settings to measure are those of the plan, not of whoever's environment this is. Away
    # from a checkout, since `-m` would import from there and not what is installed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SSE_BROADCAST_")}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(plan.command, stdout=log, stderr=log, cwd="/", env=environment)
        try:
            _wait_until_it_accepts(plan, process, log)
            yield Server(plan.name, plan.port, plan.body, process.pid, plan.headers)
            if process.poll() is not None:
                fail(f"{plan.name} ended with {process.returncode} while it was measured:\n{_tail(log)}")
        finally:
            _stop(process)


def _wait_until_it_accepts(plan: Plan, process: subprocess.Popen[bytes], log: IO[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, plan.port), 1):
            time.sleep(0.3)  # for what a server does once it listens
            return
        time.sleep(0.05)
    fail(f"{plan.name} did not start: {' '.join(plan.command)}\n{_tail(log)}")


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-2000:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    everyone = family(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
        return
    for pid in everyone:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


# Looking at processes, and at the kernel.


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    pids = [pid]
    for parent in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


def _cpu(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK
    return 0


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return 0


def _connections() -> Iterator[tuple[int, str]]:
    """Yield the local port and the state of each IPv4 socket: 0A listens, 06 is TIME_WAIT."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        yield int(local.rpartition(":")[2], 16), state


def kernel_memory() -> int:
    """Return the bytes all TCP sockets of this machine hold in the kernel."""
    found = re.search(r"^TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * PAGE


class Status:
    """`GET /status` of our server, over one connection that stays open until `close`."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self) -> dict[str, Any]:
        """Return the answer."""
        self._connection.request("GET", "/status")
        with self._connection.getresponse() as response:
            content: dict[str, Any] = json.load(response)
        return content


# Load.


class Load:
    """Subscribers in the background: sseload, from when all of them are connected.

    The first `frozen` of them never read. They stay for `seconds`; `result` waits for that. In
    `path`, `{n}` is the number of the reader.
    """

    def __init__(  # noqa: PLR0913 - what sseload can be told
        self,
        folder: Path,
        server: Server,
        *,
        readers: int,
        seconds: float,
        frozen: int = 0,
        path: str = "/events",
    ) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            [
                *(folder / "sseload", HOST),
                *map(str, (server.port, path, readers, seconds, frozen)),
                *server.headers,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.took = self._ready(server)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def result(self) -> Row:
        """Return what arrived, as sseload tells it."""
        out, _ = self._process.communicate(timeout=self._seconds + PATIENCE)
        row: Row = json.loads(out)
        return row

    def _ready(self, server: Server) -> float:
        """Return the seconds until the last subscriber had its response head."""
        out = self._process.stdout
        assert out is not None
        told, _, _ = select.select([out], [], [], 2 * PATIENCE)
        head = out.readline().split() if told else []
        if not head:
            fail(f"{server.name}: the subscribers could not connect")
        return float(head[1])


@dataclass(frozen=True, slots=True)
class Publishers:
    """How ssepub publishes: `rate` requests a second over all connections, 0 as fast as they are answered.

    Each request is one event of `size` bytes, or with `batch` so many of them as NDJSON.
    """

    connections: int
    seconds: float
    rate: float
    size: int = 100
    path: str = "/send"
    batch: int = 0


def publish(folder: Path, server: Server, publishers: Publishers) -> Row:
    """Publish for as long as they say, and give what ssepub tells."""
    how = (publishers.connections, publishers.seconds, publishers.rate, publishers.size)
    body = f"ndjson:{publishers.batch}" if publishers.batch else server.body
    done = subprocess.run(
        [
            *(folder / "ssepub", HOST, str(server.port), publishers.path, body),
            *map(str, how),
            *server.headers,
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=publishers.seconds + PATIENCE,
    )
    if done.returncode:
        fail(f"{server.name}: publishing failed: {done.stderr[-500:]}")
    row: Row = json.loads(done.stdout)
    if row["refused"]:
        fail(f"{server.name}: {row['refused']:.0f} publishes refused: {done.stderr[-500:]}")
    return row


def missing(got: Row, sent: Row, *, readers: int) -> float:
    """Return how many events readers did not get, by their numbers or in all; 0 if each got each."""
    return got["gaps"] + sent["published"] * readers - got["events"]


# Verdicts.


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold: what was measured, and what was asked for, in words."""

    name: str
    measured: str
    asked: str
    met: bool


def at_most(name: str, measured: float, most: float, unit: str = "") -> Check:
    """Check that a measure stays within a bound."""
    return Check(name, f"{measured:,.4g}{unit}", f"at most {most:,.4g}{unit}", measured <= most)


def at_least(name: str, measured: float, least: float, unit: str = "") -> Check:
    """Check that a measure reaches a bound."""
    return Check(name, f"{measured:,.4g}{unit}", f"at least {least:,.4g}{unit}", measured >= least)


def exactly(name: str, measured: int, asked: int) -> Check:
    """Check a count."""
    return Check(name, f"{measured:,}", f"{asked:,}", measured == asked)


def told(row: Row) -> str:
    """Return measures as one line."""
    return "  ".join(f"{name}={value:,.2f}" for name, value in row.items())


def print_checks(checks: Iterable[Check]) -> None:
    """Print what was checked, one line each."""
    for check in checks:
        print(f"  {'ok    ' if check.met else 'MISSED'}  {check.name}: {check.measured} ({check.asked})")


def exit_status(checks: Iterable[Check]) -> int:
    """Return 1 if anything was missed, after naming it on standard error."""
    missed = [check for check in checks if not check.met]
    for check in missed:
        print(f"missed: {check.name}: {check.measured} ({check.asked})", file=sys.stderr)
    return 1 if missed else 0
