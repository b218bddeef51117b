"""Real proxies in front of a server, each with its file of `docs/deploy`."""

import asyncio
import contextlib
import itertools
import random
import re
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import trustme

from tests.support.certificates import write_certificate
from tests.support.process import Process, Programs
from tests.support.proxy_kinds import DEPLOY, Kind, Place
from tests.support.sockets import PATIENCE, until

OWN_PORTS = range(20_000, 32_000)
_ports = itertools.cycle(random.sample(OWN_PORTS, len(OWN_PORTS)))
"""Ports below those that Linux gives out by itself."""

REFUSAL = re.compile(rb'event: \$close\nretry: ([2-5]\d{3})\ndata: {"reason": "backend"}\n(id: .*\n)?\n')
"""What a client that names `text/event-stream` is told while the server is away: whole, and nothing else."""

SSE = {"Accept": "text/event-stream"}

HASTY: Mapping[str, Mapping[str, str]] = {
    "caddy": {"lb_try_duration 10s": ""},
    "haproxy": {"retries 3": "retries 0"},
}
"""What the file of a proxy says if it does not wait for a server that is away."""

OVER_1_1: Mapping[str, Mapping[str, str]] = {
    "nginx": {"listen 443 ssl http2;": "listen 443 ssl;"},
    "caddy": {"protocols h1 h2": "protocols h1"},
}
"""What it says if it speaks no HTTP/2."""

CUTTING: Mapping[str, Mapping[str, str]] = {
    "nginx": {"worker_shutdown_timeout 1h;": "worker_shutdown_timeout 100ms;"},
    "caddy": {"grace_period 5s": "grace_period 100ms"},
    "haproxy": {"hard-stop-after 1h": "hard-stop-after 100ms"},
}
"""What it says if it does not wait for its streams when it is reloaded or stopped."""


@dataclass(slots=True)
class Front:
    """A proxy that can be stopped and started again, at the same port; what it says is in its folder."""

    kind: Kind
    place: Place
    path: Path
    """Its program's."""
    programs: Programs
    changes: Mapping[str, str] = field(default_factory=dict)
    """What its file says otherwise than as it is shipped, and what for."""
    process: Process | None = None
    output: str = ""

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"{'https' if self.kind.can.tls else 'http'}://127.0.0.1:{self.place.port}"

    @property
    def running(self) -> Process:
        """Its process, once it was started."""
        assert self.process is not None
        return self.process

    @property
    def config(self) -> Path:
        """Its file, as it is here."""
        return self.place.folder / self.kind.file

    async def start(self) -> None:
        """Run it, and wait until it listens."""
        for name in self.kind.beside:
            copy = self.place.folder / name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(DEPLOY / name, copy)
        shipped = (DEPLOY / self.kind.file).read_text()
        self.config.write_text(replaced(shipped, {**self.changes, **self.kind.here(self.place)}))
        self.process = await self.programs.start(
            self.path,
            *self.kind.command(self.config, self.place),
            env=self.kind.environment(self.place),
        )
        await until(lambda: self.listens() or not self.running.is_running)
        if not self.running.is_running:
            raise AssertionError(
                f"{self.kind.program} does not run: {await self.running.ended()} {self.said()}"
            )

    async def stop(self) -> None:
        """End it as its service manager does, by SIGTERM, and wait for that."""
        self.running.send_signal(signal.SIGTERM)
        ended = await self.running.ended()
        self.output += (ended.out + ended.err).decode()

    async def kill(self) -> None:
        """End it at once, as a machine does that fails."""
        await self.running.kill()
        self.kind.clean_up(self.place)

    async def run(self, *arguments: str) -> None:
        """Run its program with other arguments, to its end."""
        process = await self.programs.start(self.path, *arguments, env=self.kind.environment(self.place))
        ended = await process.ended()
        assert ended.code == 0, ended

    async def reload(self) -> None:
        """Have it read its file again, as its service manager does, and wait until it has."""
        await self.kind.reload(self)

    def said(self) -> str:
        """Return all that it has written to its logs, and what it wrote elsewhere before it was stopped."""
        return "".join([self.output, *(log.read_text() for log in self.place.folder.glob("*.log"))])

    def listens(self) -> bool:
        """Whether it takes connections."""
        return is_listening(self.place.port)


class Fronts:
    """Puts proxies in front of servers, for one test, and opens connections to them."""

    def __init__(self, programs: Programs, program: Callable[[str], Path], folder: Path) -> None:
        self._programs = programs
        self._program = program
        self._folder = folder
        self._put: list[Front] = []
        self._authenticator = trustme.CA()
        self.trust = LikeABrowser(ssl.PROTOCOL_TLS_CLIENT)
        """What clients need to believe the proxies' certificates."""
        self._authenticator.configure_trust(self.trust)

    async def put(self, kind: Kind, port: int, changes: Mapping[str, str] | None = None) -> Front:
        """Run a proxy in front of what is, or will be, at a port; its file with other words in it, maybe."""
        path, *_ = [self._program(name) for name in (kind.program, *kind.needs)]
        folder = self._folder / str(free_port())
        folder.mkdir()
        # Some give up root's rights, and write their logs and read their scripts as somebody else.
        folder.chmod(0o777)
        certificate, key = write_certificate(self._authenticator, folder)
        place = Place(folder, free_port(), free_port(), certificate, key, port)
        front = Front(kind, place, path, self._programs, changes or {})
        self._put.append(front)
        await front.start()
        return front

    def client(self, front: Front, *, http2: bool = True, source: str | None = None) -> httpx.AsyncClient:
        """Return a client of a proxy, from an address of its own (127.0.0.2, say) if one is given."""
        transport = httpx.AsyncHTTPTransport(verify=self.trust, http2=http2, local_address=source)
        return httpx.AsyncClient(base_url=front.url, timeout=PATIENCE, transport=transport)

    def context(self) -> ssl.SSLContext:
        """Return a new context that believes the proxies' certificates."""
        context = ssl.create_default_context()
        self._authenticator.configure_trust(context)
        return context

    async def end(self) -> None:
        """Kill all that still run."""
        for front in self._put:
            if front.process is not None:
                await front.kill()


class LikeABrowser(ssl.SSLContext):
    """Prefers HTTP/2 to HTTP/1.1, as browsers do: some proxies choose what the client names first."""

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        super().set_alpn_protocols(sorted(alpn_protocols))


async def fronts(programs: Programs, program: Callable[[str], Path]) -> AsyncIterator[Fronts]:
    """Put proxies in front of servers, and end them when the test ends.

    A fixture once `pytest.fixture` has seen it. Their folder is not one of pytest's: nobody else may enter
    those, and some proxies change their user.
    """
    with tempfile.TemporaryDirectory(prefix="fronts-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        started = Fronts(programs, program, Path(folder))
        try:
            yield started
        finally:
            await started.end()


class Reader:
    """A stream as it comes out of a proxy."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._pieces = response.aiter_raw()
        self._buffer = b""

    async def block(self) -> bytes:
        """Return what comes up to and with a blank line."""
        return await self._up_to(b"\n\n")

    async def line(self) -> bytes:
        """Return what comes up to and with the end of a line."""
        return await self._up_to(b"\n")

    async def end(self) -> None:
        """Wait for the end, clean or not."""
        with contextlib.suppress(httpx.TransportError):
            while await self._more():
                pass

    async def _up_to(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            assert await self._more(), f"the stream ended after {self._buffer!r}"
        taken, mark, self._buffer = self._buffer.partition(mark)
        return taken + mark

    async def _more(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            piece = await anext(self._pieces, b"")
        self._buffer += piece
        return piece != b""


@contextlib.asynccontextmanager
async def reading(client: httpx.AsyncClient, path: str = "/events", **headers: str) -> AsyncIterator[Reader]:
    """Read a stream."""
    async with client.stream("GET", path, headers=headers) as response:
        yield Reader(response)


async def ask_for_stream(
    client: httpx.AsyncClient, headers: Mapping[str, str], path: str = "/events/a"
) -> httpx.Response:
    """Ask for a stream until it is answered.

    While the server is away Varnish answers nothing until it knows that.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                return await client.get(path, headers=headers)


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Return a text with other words in it; each that is to be replaced is there."""
    for old, new in changes.items():
        assert old in text, f"not in the file: {old!r}"
        text = text.replace(old, new)
    return text


def is_listening(port: int) -> bool:
    """Return whether something at a port of this machine takes connections."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a port that nobody has, and that nobody is given who only asks for some port.

    Each is returned once: a front binds its ports only after it has asked for all of them.
    """
    for port in itertools.islice(_ports, 100):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
