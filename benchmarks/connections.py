"""What 1,000 connections of one address take of memory: idle, dripping and refused ones, on both loops.

    python -m benchmarks.connections [--connections 1000] [--loops asyncio,uvloop] [--python PATH] [--check]

For each event loop, without TLS and with it, the server has so many connections of one kind at one time, and
its resident memory is looked at before and while they are there. Kinds:

  silent    connected, and no byte was sent (with TLS: before the handshake)
  idle      agreed upon TLS, and asked nothing; without TLS it is the same as silent
  answered  has been answered once, and may ask again
  head      sends a head byte by byte, and not to its end
  long      has sent 60 KB of a head in 100 lines, and not to its end
  body      sends a body byte by byte, and not to its end
  refused   comes when the server is full, and says nothing

`--check` holds each against the table in docs/SECURITY.md: so much for one connection, in KiB.
"""

import argparse
import contextlib
import dataclasses
import re
import resource
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import trustme

from benchmarks.harness import (
    HOST,
    Check,
    Plan,
    Server,
    add_check,
    add_python,
    at_least,
    at_most,
    command_line,
    exit_status,
    ours,
    positive,
    print_checks,
    running,
    some_of,
    stop_on_sigterm,
)

SECURITY = Path(__file__).resolve().parent.parent / "docs" / "SECURITY.md"

LOOPS = ("asyncio", "uvloop")

WARM = 100
"""Connections that come and go before: what the first of them need is kept for those that come."""

PLACES = 50
"""Connections that the full server takes."""

HEAD = b"GET /events HTTP/1.1\r\nHost: localhost\r\nX-Drip: " + b"x" * 50
LONG = b"GET /events HTTP/1.1\r\nHost: localhost\r\n" + b"".join(
    b"X-%d: %b\r\n" % (number, b"x" * 590) for number in range(100)
)
BODY = b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

Connected = list[socket.socket]


def _nothing(_: socket.socket) -> None:
    """Send nothing on the connections."""


def _drip(sock: socket.socket, data: bytes) -> None:
    for each in data:
        sock.send(bytes([each]))


def _head(sock: socket.socket) -> None:
    _drip(sock, HEAD)


def _long(sock: socket.socket) -> None:
    for begin in range(0, len(LONG), 4096):
        sock.sendall(LONG[begin : begin + 4096])


def _body(sock: socket.socket) -> None:
    sock.sendall(BODY)
    _drip(sock, b"x" * 50)


def _answered(sock: socket.socket) -> None:
    sock.sendall(ASK)
    answer = b""
    while not answer.endswith(b"}\n"):
        answer += sock.recv(4096)


KINDS: Mapping[str, Callable[[socket.socket], None]] = {
    "silent": _nothing,
    "idle": _nothing,
    "answered": _answered,
    "head": _head,
    "long": _long,
    "body": _body,
    "refused": _nothing,
}
SECURE = "with TLS"
PLAIN = "without"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One kind of connection, on one event loop, with TLS or without."""

    loop: str
    kind: str
    secure: bool

    @property
    def handshakes(self) -> bool:
        """Whether its connections agree upon TLS."""
        return self.secure and self.kind not in {"silent", "refused"}

    @property
    def name(self) -> str:
        """What the report calls it."""
        return f"{self.loop:8} {SECURE if self.secure else PLAIN:9} {self.kind}"


def main() -> int:
    """Measure every kind, print what was found, and give the exit status."""
    stop_on_sigterm()
    options = arguments()
    _raise_descriptor_limit()
    stated = stated_sizes(SECURITY.read_text()) if options.check else {}
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as temp:
        files = write_certificate(Path(temp))
        for case in cases(options.loops):
            checks += measured(case, files, options, stated)
    print_checks(checks)
    return exit_status(checks) if options.check else 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line("connections", __doc__)
    parser.add_argument("--connections", type=positive, default=1000, metavar="N", help="at one time")
    parser.add_argument(
        "--loops", type=some_of(LOOPS), default=list(LOOPS), metavar="LOOP,...", help="event loops"
    )
    add_python(parser)
    add_check(parser, "every size is as stated")
    return parser.parse_args()


def cases(loops: list[str]) -> Iterator[Case]:
    """Yield each kind of connection that is measured."""
    for loop in loops:
        for secure in (False, True):
            for kind in KINDS:
                if secure or kind != "idle":
                    yield Case(loop, kind, secure)


def stated_sizes(page: str) -> dict[tuple[str, bool], float]:
    """Return the KiB that docs/SECURITY.md states for each kind of connection, without TLS and with it."""
    rows = re.findall(r"^\| (\w+): [^|]+ \| ([\d.]+|as above) \| ([\d.]+) \|$", page, re.MULTILINE)
    sizes = {(kind, False): float(plain) for kind, plain, _ in rows if plain != "as above"}
    return {**sizes, **{(kind, True): float(secure) for kind, _, secure in rows}}


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate chain for this machine, and its key."""
    issued = trustme.CA().issue_cert(HOST, "localhost")
    chain, key = folder / "chain.pem", folder / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    issued.private_key_pem.write_to_path(key)
    return chain, key


def plan(case: Case, files: tuple[Path, Path], options: argparse.Namespace) -> Plan:
    """Plan a server that waits long for what never comes."""
    most = PLACES if case.kind == "refused" else 0
    flags = [
        f"--event-loop={case.loop}",
        "--head-timeout=600",
        "--body-timeout=600",
        f"--max-connections={most}",
    ]
    flags += [f"--certificate={files[0]}", f"--key={files[1]}"] if case.secure else []
    return ours(*flags, python=options.python)


def measured(
    case: Case,
    files: tuple[Path, Path],
    options: argparse.Namespace,
    stated: Mapping[tuple[str, bool], float],
) -> Iterator[Check]:
    """Look at a server without these connections and with them."""
    with running(plan(case, files, options)) as server, contextlib.ExitStack() as stack:
        if case.kind == "refused":
            come(Case(case.loop, "silent", case.secure), server, PLACES, stack)
        with contextlib.ExitStack() as first:
            come(case, server, WARM, first)
            settle(server)
        settle(server)
        before = server.resident()
        come(case, server, options.connections, stack)
        settle(server)
        size = (server.resident() - before) / options.connections / 1024
        held = server.sockets()
        print(f"{case.name:28} {size:7.1f} KiB a connection, {held} open", flush=True)
    if stated:
        yield at_most(case.name, size, stated[case.kind, case.secure], " KiB")
        if case.kind != "refused":
            yield at_least(f"{case.name}, open", held, options.connections)


def come(case: Case, server: Server, count: int, stack: contextlib.ExitStack) -> Connected:
    """Open so many connections, each of which does what those of its kind do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connected: Connected = []
    for _ in range(count):
        sock = stack.enter_context(socket.create_connection((HOST, server.port), timeout=30))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if case.handshakes:
            sock = stack.enter_context(context.wrap_socket(sock))
        KINDS[case.kind](sock)
        connected.append(sock)
    return connected


def settle(server: Server) -> None:
    """Wait until a server has nothing more to do."""
    used = -1.0
    while server.cpu() != used:
        used = server.cpu()
        time.sleep(0.3)


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
