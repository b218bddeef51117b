"""The kinds of reverse proxies that `docs/deploy` has files for: how each is run, and what it can do."""

import contextlib
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from tests.support.process import Process
from tests.support.sockets import until

DEPLOY = Path(__file__).parent.parent.parent / "docs" / "deploy"

CERTIFICATE = "/etc/ssl/push.example.com/fullchain.pem"
KEY = "/etc/ssl/push.example.com/privkey.pem"
"""Where the files of all kinds expect the certificate."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a front runs: a folder of its own, its ports, a certificate, and the server's port."""

    folder: Path
    port: int
    plain_port: int
    certificate: str
    key: str
    upstream_port: int

    @property
    def upstream(self) -> str:
        """The server's address."""
        return f"127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a kind of proxy can do, with its file; most can do all of it."""

    tls: bool = True
    http2: bool = True
    reloads: bool = True
    """Whether a reload leaves streams alone that came over HTTP/1.1, and serves newcomers at once."""
    notices_leaving: bool = True
    """Whether a subscriber that leaves a silent stream is noticed at once, over HTTP/1.1 too."""
    passes_lines: bool = True
    """Whether a publish with `?stream=1` is passed on as it comes."""
    refused_publish: int = 502
    """The status of a publish while nothing listens at the server's port."""
    reads_id_lists: bool = True
    """Whether the last of several ids in `Last-Event-ID` is given back while the server is away."""


class Running(Protocol):
    """A front, as far as its kind needs to know it."""

    @property
    def running(self) -> Process:
        """Its process."""

    @property
    def place(self) -> Place:
        """Where it runs."""

    @property
    def config(self) -> Path:
        """Its file."""

    async def run(self, *arguments: str) -> None:
        """Run its program with other arguments, to its end."""

    def said(self) -> str:
        """Return all that it has logged."""

    def listens(self) -> bool:
        """Whether it takes connections."""


class Kind:
    """A kind of proxy: its program, its file, what of that is other here, and how it is run."""

    program: ClassVar[str]
    file: ClassVar[str]
    """In `docs/deploy`."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Other files there that its own refers to; a front has them in its folder."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that are in packages of their own."""
    can: ClassVar[Abilities] = Abilities()

    def here(self, place: Place) -> Mapping[str, str]:
        """Return what the file says of the place where it is used, and what it says instead."""
        raise NotImplementedError

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        """Return the arguments of the program."""
        raise NotImplementedError

    def environment(self, place: Place) -> Mapping[str, str]:
        """Return its variables."""
        return {}

    async def reload(self, front: Running) -> None:
        """Have it read its file again, as its service manager does, and wait until it has."""
        raise NotImplementedError

    def clean_up(self, place: Place) -> None:
        """Remove what a front that was killed leaves outside of its folder."""

    def __str__(self) -> str:
        return self.program


class Nginx(Kind):
    """nginx, which is run by its own file alone; its folders are where nobody else's are."""

    program = "nginx"
    file = "nginx.conf"

    def here(self, place: Place) -> Mapping[str, str]:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {place.folder}/{kind}; " for kind in kinds)
        return {
            "http {\n": f"http {{ {folders}\n",
            "server 127.0.0.1:8000;": f"server {place.upstream};",
            "listen 80;": f"listen 127.0.0.1:{place.plain_port};",
            "listen 443 ssl": f"listen 127.0.0.1:{place.port} ssl",
            "listen [::]:80;": "",
            "listen [::]:443 ssl http2;": "",
            CERTIFICATE: place.certificate,
            KEY: place.key,
            "/var/log/nginx/": f"{place.folder}/",
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        # Its workers would otherwise be nobody who may enter a folder of root's.
        user = "user root;" if os.geteuid() == 0 else ""
        options = f"daemon off; pid {place.folder}/nginx.pid; {user}"
        return ("-c", str(config), "-e", f"{place.folder}/error.log", "-g", options)

    async def reload(self, front: Running) -> None:
        """See `Kind.reload`. Old workers that still have something to do are left."""
        old = children(front)
        front.running.send_signal(signal.SIGHUP)
        await until(lambda: bool(children(front) - old) and self.leaving(front) >= old & children(front))

    def leaving(self, front: Running) -> set[int]:
        """Return the workers that take nothing new."""
        return {id for id in children(front) if b"shutting down" in _command_line(id)}


class Caddy(Kind):
    """Caddy, with a certificate that is given, since nobody issues one for a test."""

    program = "caddy"
    file = "Caddyfile"

    def here(self, place: Place) -> Mapping[str, str]:
        tls = f"tls {place.certificate} {place.key}"
        options = f"\tadmin unix/{place.folder}/admin\n\thttp_port {place.plain_port}\n"
        return {
            "\tservers {\n": f"{options}\tservers {{\n",
            "push.example.com} {\n": f"push.example.com}} {{\n\tbind 127.0.0.1\n\t{tls}\n",
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        return ("run", "--adapter", "caddyfile", "--config", str(config))

    def environment(self, place: Place) -> Mapping[str, str]:
        folders = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(place.folder))
        site = f"https://127.0.0.1:{place.port}"
        return {**folders, "SSE_SITE": site, "SSE_UPSTREAM": place.upstream}

    async def reload(self, front: Running) -> None:
        await front.run("reload", "--force", "--adapter", "caddyfile", "--config", str(front.config))


class HAProxy(Kind):
    """HAProxy, as whoever starts it: its file has it change its user and its root folder."""

    program = "haproxy"
    file = "haproxy.cfg"
    can = Abilities(refused_publish=503)

    def here(self, place: Place) -> Mapping[str, str]:
        both = place.folder / "both.pem"
        both.write_text(Path(place.certificate).read_text() + Path(place.key).read_text())
        return {
            "log /dev/log local0": "log stdout format raw local0",
            "    chroot /var/lib/haproxy\n    user haproxy\n    group haproxy\n": "",
            # Its own descriptors come from this number, and it does not start without them.
            "maxconn 16384": "maxconn 1000",
            "bind :::80 v4v6": f"bind 127.0.0.1:{place.plain_port}",
            "bind :::443 v4v6": f"bind 127.0.0.1:{place.port}",
            "/etc/ssl/push.example.com/both.pem": str(both),
            "127.0.0.1:8000": place.upstream,
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        return ("-W", "-f", str(config))

    async def reload(self, front: Running) -> None:
        await until(lambda: self._hears(front.running.id))
        await replace_children(front, signal.SIGUSR2)

    def _hears(self, master: int) -> bool:
        """Whether a signal is not lost: the master executes itself twice for each load."""
        waits = b"HAPROXY_MWORKER_WAIT_ONLY=1" in Path(f"/proc/{master}/environ").read_bytes()
        (caught,) = re.findall(r"SigCgt:\s+([0-9a-f]+)", Path(f"/proc/{master}/status").read_text())
        return waits and bool(int(caught, 16) >> (signal.SIGUSR2 - 1) & 1)


class Apache(Kind):
    """Apache, whose file is a site: what Debian's own files say around it is said on the command line."""

    program = "apache2"
    file = "apache.conf"
    beside = ("apache-away.lua",)
    can = Abilities(notices_leaving=False, refused_publish=503)

    _MODULES: ClassVar[Sequence[str]] = (
        *("mpm_event", "authz_core", "alias", "env", "filter", "deflate", "reqtimeout", "setenvif"),
        *("ssl", "http2", "lua", "proxy", "proxy_http"),
    )

    def here(self, place: Place) -> Mapping[str, str]:
        return {
            "<VirtualHost *:80>": f"<VirtualHost *:{place.plain_port}>",
            "<VirtualHost *:443>": f"<VirtualHost *:{place.port}>",
            "https://push.example.com/": f"https://127.0.0.1:{place.port}/",
            "127.0.0.1:8000": place.upstream,
            CERTIFICATE: place.certificate,
            KEY: place.key,
            "/var/log/apache2/sse-broadcast.log": f"{place.folder}/access.log",
            "/etc/apache2/sse-broadcast-away.lua": f"{place.folder}/apache-away.lua",
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        user = ("User www-data", "Group www-data") if os.geteuid() == 0 else ()
        folder = "/usr/lib/apache2/modules"
        modules = (f"LoadModule {name}_module {folder}/mod_{name}.so" for name in self._MODULES)
        around = (
            f"ServerRoot {place.folder}",
            f"DefaultRuntimeDir {place.folder}",
            f"PidFile {place.folder}/apache.pid",
            f"ErrorLog {place.folder}/error.log",
            f"Listen 127.0.0.1:{place.plain_port}",
            f"Listen 127.0.0.1:{place.port}",
            "ServerName push.example.com",
            *modules,
            *("<Directory />", "Require all denied", "</Directory>"),
            *user,
        )
        said = (argument for line in around for argument in ("-C", line))
        return ("-DFOREGROUND", *said, "-f", str(config))

    async def reload(self, front: Running) -> None:
        await replace_children(front, signal.SIGUSR1)


class Lighttpd(Kind):
    """lighttpd, at other ports."""

    program = "lighttpd"
    file = "lighttpd.conf"
    beside = ("lighttpd-away.lua",)
    needs = ("/usr/lib/lighttpd/mod_openssl.so", "/usr/lib/lighttpd/mod_magnet.so")
    can = Abilities(reloads=False)

    def here(self, place: Place) -> Mapping[str, str]:
        return {
            'server.v4mapped = "enable"': "",
            'server.bind = "[::]"\n': 'server.bind = "127.0.0.1"\n',
            "server.port = 80\n": f"server.port = {place.plain_port}\n",
            '"[::]:443"': f'"127.0.0.1:{place.port}"',
            '"port" => 8000': f'"port" => {place.upstream_port}',
            "server.max-fds = 65536": "server.max-fds = 1024",
            "server.max-connections = 32768": "server.max-connections = 512",
            CERTIFICATE: place.certificate,
            KEY: place.key,
            "/var/log/lighttpd/": f"{place.folder}/",
            "/etc/lighttpd/sse-broadcast-away.lua": f"{place.folder}/lighttpd-away.lua",
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        return ("-D", "-f", str(config))


class Varnish(Kind):
    """Varnish, which hears of a server that is gone, or back, by a probe: here it asks at once."""

    program = "varnishd"
    file = "varnish.vcl"
    can = Abilities(tls=False, http2=False, reloads=False)

    def __init__(self, pipe_timeout: int = 180) -> None:
        self._pipe_timeout = pipe_timeout
        """What its file asks for on the command line, in seconds."""

    def here(self, place: Place) -> Mapping[str, str]:
        return {
            '.port = "8000"': f'.port = "{place.upstream_port}"',
            ".interval = 1s": ".interval = 20ms",
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        # Three times as fast to start as by default: its file is compiled, and need not be fast.
        fast = {
            "cc_command": "exec gcc -O0 -fpic -shared -Wl,-x -o %o %s",
            "thread_pools": 1,
            "vsl_space": "1M",
        }
        parameters = {**fast, "thread_pool_min": 5, "pipe_timeout": self._pipe_timeout}
        said = (argument for name, value in parameters.items() for argument in ("-p", f"{name}={value}"))
        # Its jail would be a user who may enter no folder of the tests.
        jail = ("-j", "none", "-n", str(place.folder / "varnish"), "-s", "default,1M")
        return ("-F", *jail, *said, "-a", f"127.0.0.1:{place.port}", "-f", str(config))


ACCEPTS = "Accepting reverse-proxy HTTPS"
"""What Squid logs at its start and at its reloads."""


class Squid(Kind):
    """Squid, with its pages in the front's folder; its shared memory is named by its service."""

    program = "squid"
    file = "squid.conf"
    beside = ("squid-errors/ERR_SSE_AWAY", "squid-errors/ERR_SSE_AWAY_RESUMED")
    can = Abilities(http2=False, refused_publish=502, reads_id_lists=False)

    def here(self, place: Place) -> Mapping[str, str]:
        around = (
            f"error_directory {place.folder}/squid-errors",
            f"coredump_dir {place.folder}",
            f"cache_log {place.folder}/error.log",
            "pid_filename none",
        )
        return {
            "http_port 80 ": "\n".join((*around, f"http_port 127.0.0.1:{place.plain_port} ")),
            "https_port 443 ": f"https_port 127.0.0.1:{place.port} ",
            "localport 80\n": f"localport {place.plain_port}\n",
            "https://push.example.com%R": f"https://127.0.0.1:{place.port}%R",
            "parent 8000": f"parent {place.upstream_port}",
            "max_filedescriptors 65536": "max_filedescriptors 1024",
            "shutdown_lifetime 1 second": "shutdown_lifetime 0 seconds",
            CERTIFICATE: place.certificate,
            KEY: place.key,
            "/var/log/squid/": f"{place.folder}/",
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        return ("-N", "-n", self._service(place), "-f", str(config))

    async def reload(self, front: Running) -> None:
        loads = len(self._loads(front))
        front.running.send_signal(signal.SIGHUP)
        await until(lambda: len(self._loads(front)) > loads and ACCEPTS in self._loads(front)[-1])
        # It says so shortly before.
        await until(front.listens)

    def _loads(self, front: Running) -> list[str]:
        """Return what it has logged since each time that it began to read its file."""
        return front.said().split("Reconfiguring Squid Cache")

    def clean_up(self, place: Place) -> None:
        for left in Path("/dev/shm").glob(f"{self._service(place)}-*.shm"):
            left.unlink(missing_ok=True)

    def _service(self, place: Place) -> str:
        return f"sse{place.port}"


class H2o(Kind):
    """h2o, at other ports; it asks nobody whether its certificate was revoked."""

    program = "h2o"
    file = "h2o.yaml"
    can = Abilities(reloads=False, notices_leaving=False, passes_lines=False)

    def here(self, place: Place) -> Mapping[str, str]:
        user = "user: root\n" if os.geteuid() == 0 else ""
        return {
            "user: www-data\n": user,
            "/run/h2o.pid": f"{place.folder}/h2o.pid",
            "/var/log/h2o/": f"{place.folder}/",
            "max-connections: 32768": "max-connections: 512",
            ':80":': f':{place.plain_port}":',
            ':443":': f':{place.port}":',
            "port: 80\n": f"host: 127.0.0.1\n      port: {place.plain_port}\n",
            "port: 443\n": f"host: 127.0.0.1\n      port: {place.port}\n",
            "url: https://push.example.com/": f"url: https://127.0.0.1:{place.port}/",
            CERTIFICATE: f"{place.certificate}\n        ocsp-update-interval: 0",
            KEY: place.key,
            "127.0.0.1:8000": place.upstream,
        }

    def command(self, config: Path, place: Place) -> tuple[str, ...]:
        return ("-c", str(config))


NGINX, CADDY, HAPROXY, APACHE, LIGHTTPD = Nginx(), Caddy(), HAProxy(), Apache(), Lighttpd()
VARNISH, SQUID, H2O = Varnish(), Squid(), H2o()
KINDS: tuple[Kind, ...] = (NGINX, CADDY, HAPROXY, APACHE, LIGHTTPD, VARNISH, SQUID, H2O)


def children(front: Running) -> set[int]:
    """Return the processes that a front's own has started."""
    id = front.running.id
    return set(map(int, Path(f"/proc/{id}/task/{id}/children").read_text().split()))


async def replace_children(front: Running, number: signal.Signals) -> None:
    """Have a front start other children, by a signal, and wait until only those take connections."""
    old = children(front)
    front.running.send_signal(number)
    await until(lambda: bool(children(front) - old))
    port = front.place.port
    await until(lambda: not any(_listens(id, port) for id in old))


def _command_line(id: int) -> bytes:
    """Return the command line of a process, b"" if it has ended since it was seen."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{id}/cmdline").read_bytes()
    return b""


def _listens(id: int, port: int) -> bool:
    """Whether a process, if it still is there, has a socket that takes connections at a port."""
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return any(str(path.readlink()) in sockets for path in Path(f"/proc/{id}/fd").iterdir())
    return False
