"""Real proxies in front of a server, each with its file of `docs/deploy`."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx
import trustme

from tests.support.certificates import write_certificate
from tests.support.process import Process, Programs
from tests.support.sockets import PATIENCE, until

OWN_PORTS = range(20_000, 32_000)
"""Ports below those that Linux gives out by itself."""

DEPLOY = Path(__file__).parent.parent.parent / "docs" / "deploy"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a front runs: a folder of its own, its ports, a certificate, and the server's address."""

    folder: Path
    port: int
    plain_port: int
    certificate: str
    key: str
    upstream: str

    @property
    def url(self) -> str:
        """Where pages and clients reach the front."""
        return f"https://127.0.0.1:{self.port}"


class Kind(Protocol):
    """A kind of proxy: its program, its file, what of that is other here, and how it is run."""

    program: str
    file: str

    def here(self, place: Place) -> Mapping[str, str]:
        """Give what the file says of the place where it is used, and what it says instead."""

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        """Give the arguments of the program."""

    def environment(self, place: Place) -> Mapping[str, str]:
        """Give its variables."""

    async def reload(self, front: "Front") -> None:
        """Have it read its file again."""


class Nginx:
    """nginx, which is run by its own file alone; its folders are where nobody else's are."""

    program = "nginx"
    file = "nginx.conf"

    def here(self, place: Place) -> Mapping[str, str]:
        """See `Kind`."""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {place.folder}/{kind}; " for kind in kinds)
        return {
            "http {\n": f"http {{ {folders}\n",
            "server 127.0.0.1:8000;": f"server {place.upstream};",
            "listen 80;": f"listen 127.0.0.1:{place.plain_port};",
            "listen 443 ssl": f"listen 127.0.0.1:{place.port} ssl",
            "listen [::]:80;": "",
            "listen [::]:443 ssl http2;": "",
            "/etc/ssl/push.example.com/fullchain.pem": place.certificate,
            "/etc/ssl/push.example.com/privkey.pem": place.key,
            "/var/log/nginx/": f"{place.folder}/",
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        """See `Kind`."""
        # Its workers would otherwise be nobody who may enter a folder of root's.
        user = "user root;" if os.geteuid() == 0 else ""
        options = f"daemon off; pid {place.folder}/nginx.pid; {user}"
        return ("-c", str(config), "-e", f"{place.folder}/error.log", "-g", options)

    def environment(self, place: Place) -> Mapping[str, str]:
        """See `Kind`."""
        return {}

    async def reload(self, front: "Front") -> None:
        """See `Kind`. Old workers that still have something to do are left."""
        old = self.workers(front)
        front.running.send_signal(signal.SIGHUP)
        await until(
            lambda: bool(self.workers(front) - old) and self.leaving(front) >= old & self.workers(front)
        )

    def workers(self, front: "Front") -> set[int]:
        """Give the processes of its workers."""
        id = front.running.id
        return set(map(int, Path(f"/proc/{id}/task/{id}/children").read_text().split()))

    def leaving(self, front: "Front") -> set[int]:
        """Give the workers that take nothing new."""
        return {id for id in self.workers(front) if b"shutting down" in command_line(id)}


def command_line(id: int) -> bytes:
    """Return the command line of a process, b"" if it has ended since it was seen."""
    try:
        return Path(f"/proc/{id}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


class Caddy:
    """Caddy, with a certificate that is given, since nobody issues one for a test."""

    program = "caddy"
    file = "Caddyfile"

    def here(self, place: Place) -> Mapping[str, str]:
        """See `Kind`."""
        tls = f"tls {place.certificate} {place.key}"
        options = f"\tadmin unix/{place.folder}/admin\n\thttp_port {place.plain_port}\n"
        return {
            "\tservers {\n": f"{options}\tservers {{\n",
            "push.example.com} {\n": f"push.example.com}} {{\n\tbind 127.0.0.1\n\t{tls}\n",
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        """See `Kind`."""
        return ("run", "--adapter", "caddyfile", "--config", str(config))

    def environment(self, place: Place) -> Mapping[str, str]:
        """See `Kind`."""
        folders = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(place.folder))
        return {**folders, "SSE_SITE": place.url, "SSE_UPSTREAM": place.upstream}

    async def reload(self, front: "Front") -> None:
        """See `Kind`."""
        command = ("reload", "--force", "--adapter", "caddyfile", "--config", str(front.config))
        reloading = await front.programs.start(front.path, *command, env=self.environment(front.place))
        ended = await reloading.ended()
        assert ended.code == 0, ended


NGINX, CADDY = Nginx(), Caddy()
KINDS: tuple[Kind, ...] = (NGINX, CADDY)

HASTY: Mapping[str, Mapping[str, str]] = {"nginx": {}, "caddy": {"lb_try_duration 10s": ""}}
"""What a file says of one that does not wait for a server that is away."""

OVER_1_1: Mapping[str, Mapping[str, str]] = {
    "nginx": {"listen 443 ssl http2;": "listen 443 ssl;"},
    "caddy": {"protocols h1 h2": "protocols h1"},
}
"""Of one that speaks no HTTP/2."""

CUTTING: Mapping[str, Mapping[str, str]] = {
    "nginx": {"worker_shutdown_timeout 1h;": "worker_shutdown_timeout 100ms;"},
    "caddy": {"grace_period 5s": "grace_period 100ms"},
}
"""Of one that does not wait for its streams when it is reloaded or stopped."""


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
        return self.place.url

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

    async def reload(self) -> None:
        """Have it read its file again, as its service manager does, and wait until it has."""
        await self.kind.reload(self)

    def said(self) -> str:
        """Give all that it has written to files, and until it was last stopped elsewhere."""
        files = [self.place.folder / name for name in ("access.log", "error.log")]
        return "".join([self.output, *(file.read_text() for file in files if file.exists())])

    def listens(self) -> bool:
        """Whether it takes connections."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.place.port)) == 0


class Fronts:
    """Puts proxies in front of servers, for one test, and opens connections to them."""

    def __init__(self, programs: Programs, program: Callable[[str], Path], folder: Path) -> None:
        self._programs = programs
        self._program = program
        self._folder = folder
        self._authority = trustme.CA()
        self.trust = ssl.create_default_context()
        """What clients need to believe the proxies' certificates."""
        self._authority.configure_trust(self.trust)

    async def put(self, kind: Kind, port: int, changes: Mapping[str, str] | None = None) -> Front:
        """Run a proxy in front of what is, or will be, at a port; its file with other words in it, maybe."""
        folder = self._folder / str(free_port())
        folder.mkdir()
        certificate, key = write_certificate(self._authority, folder)
        place = Place(folder, free_port(), free_port(), certificate, key, f"127.0.0.1:{port}")
        front = Front(kind, place, self._program(kind.program), self._programs, changes or {})
        await front.start()
        return front

    def client(self, front: Front, *, http2: bool = True, source: str | None = None) -> httpx.AsyncClient:
        """Give a client of a proxy, from an address of its own (127.0.0.2, say) if one is given."""
        transport = httpx.AsyncHTTPTransport(verify=self.trust, http2=http2, local_address=source)
        return httpx.AsyncClient(base_url=front.url, timeout=PATIENCE, transport=transport)


class Reader:
    """A stream as it comes out of a proxy."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._pieces = response.aiter_raw()
        self._buffer = b""

    async def block(self) -> bytes:
        """Give what comes up to and with a blank line."""
        return await self._up_to(b"\n\n")

    async def line(self) -> bytes:
        """Give what comes up to and with the end of a line."""
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


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Give a text with other words in it; each that is to be replaced is there."""
    for old, new in changes.items():
        assert old in text, f"not in the file: {old!r}"
        text = text.replace(old, new)
    return text


def free_port() -> int:
    """Give a port that nobody has, and that nobody is given who only asks for some port."""
    for port in random.sample(OWN_PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
