"""Fixtures: real servers from the production builder, real sockets, and programs from outside pip."""

import asyncio
import gc
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest
import uvloop

from sse_broadcast.config.schema import Config
from sse_broadcast.server.runner import Server
from tests.support.browser import Browser, Chromium, Firefox, chromium, firefox
from tests.support.sockets import RawClient, Reachable

PROGRAMS = {
    "/usr/lib/lighttpd/mod_magnet.so": "lighttpd-modules-lua",
    "/usr/lib/lighttpd/mod_openssl.so": "lighttpd-mod-openssl",
    "apache2": "apache2",
    "caddy": "caddy",
    "chromium": "chromium",
    "curl": "curl",
    "fail2ban-regex": "fail2ban",
    "faketime": "faketime",
    "firefox-esr": "firefox-esr",
    "go": "golang-go",
    "h2o": "h2o",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "lighttpd": "lighttpd",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",
    "php": "php-cli",
    "promtool": "prometheus",
    "ruby": "ruby",
    "squid": "squid",
    "systemd-analyze": "systemd",
    "varnishd": "varnish",
}
"""Programs the tests use, and modules of them, and the Debian packages they are in."""


def pytest_configure() -> None:
    """Restore SIGINT where the run is a background job of a shell that ignores it.

    The programs that the tests start would inherit that, and tests interrupt them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exempt the tests themselves from garbage collection: it would walk all nine thousand each time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let all be found by its referrers again: hypothesis looks for them if only its report imports it."""
    gc.unfreeze()


BOTH_LOOPS = ("tests/server/transport/", "tests/server/streams/")
"""Folders whose tests run on both event loops, like those marked `both_loops`."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured logs: a worker of pytest-xdist sends its reports as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """Run tests of sockets, writes and closing on both event loops that can serve, others on asyncio."""
    folder = any(each in item.path.as_posix() for each in BOTH_LOOPS)
    both = folder or item.get_closest_marker("both_loops")
    if both and not item.get_closest_marker("asyncio_loop"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


Program = Callable[[str], Path]


@pytest.fixture(scope="session")
def program() -> Program:
    """Find a program; in CI it must be there, elsewhere a test that needs it is skipped."""

    def find(name: str) -> Path:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin")  # no place of a user's
        if found is None and Path(name).is_file():
            found = name  # a module
        if found is not None:
            return Path(found)
        missing(f"{name} is not installed: apt-get install {PROGRAMS[name]}")

    return find


def missing(hint: str) -> NoReturn:
    """End a test that needs what is not installed: in CI it fails, elsewhere it is skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(hint)
    pytest.skip(hint)


Caplog = pytest.LogCaptureFixture
Patch = pytest.MonkeyPatch


class LiveServer(Server, Reachable):
    """A server on a free port, and clients of it."""

    def __init__(self, config: Config, clients: AsyncExitStack) -> None:
        super().__init__(config)
        self.clients = clients


class Serve:
    """Starts servers on free ports, and clients of them; what was started ends with `stack`."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(self, **settings: Any) -> LiveServer:
        config = Config(port=0, **{"shutdown_timeout": 4.0, "allowed_hosts": ("x",), **settings})
        server = LiveServer(config, self._stack)
        await server.start()
        self._stack.push_async_callback(server.stop)
        return server

    async def connected(self, **settings: Any) -> tuple[LiveServer, RawClient]:
        """Start a server, and open a raw socket to it."""
        server = await self(**settings)
        return server, await server.connect()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers on free ports, and stop them when the test ends."""
    async with AsyncExitStack() as stack:
        yield Serve(stack)


@pytest.fixture
async def server(serve: Serve) -> LiveServer:
    """Start a server of which nothing is configured."""
    return await serve()


Connect = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open raw sockets, and close them when the test ends."""
    async with AsyncExitStack() as stack:

        async def open_socket(server: Server, **options: Any) -> RawClient:
            client = await RawClient.open(server.port, **options)
            stack.callback(client.close)
            return client

        yield open_socket


@pytest.fixture
async def client(server: LiveServer) -> RawClient:
    """Open a raw socket to a server of which nothing is configured."""
    return await server.connect()


@pytest.fixture(scope="session")
def firefox_browser(program: Program) -> Iterator[Firefox]:
    """Run one Firefox for all tests: it takes three seconds to start."""
    with firefox(program) as browser:
        yield browser


@pytest.fixture(params=["chromium", "firefox"])
async def browser(request: pytest.FixtureRequest, program: Program) -> AsyncIterator[Browser]:
    """Run either browser. What was opened is closed when the test ends."""
    if request.param == "chromium":
        async with chromium(program) as running:
            yield Chromium(running)
    else:
        shared: Firefox = request.getfixturevalue("firefox_browser")
        yield shared
        await shared.close_tabs()
