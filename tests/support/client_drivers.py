"""The drivers of tests/clients: programs that run real SSE clients and report what each client shows."""

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from aiohttp import web

from tests.support.browser import Firefox, chromium
from tests.support.process import Process, Programs

FOLDER = Path(__file__).parent.parent / "clients"
PAGE = FOLDER / "page.html"

NO_PROXIES = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


class Runtime(StrEnum):
    """The program that runs a client."""

    NODE = "node"
    PYTHON = "python"
    CHROMIUM = "chromium"
    FIREFOX = "firefox-esr"

    @property
    def is_installed(self) -> bool:
        """Whether its clients can run here."""
        if self is Runtime.NODE and not has_packages():
            return False
        return self is Runtime.PYTHON or shutil.which(self) is not None


def has_packages() -> bool:
    """Return whether the clients of npm are installed."""
    return (FOLDER / "node_modules").exists()


class What(StrEnum):
    """What a client can report to its user."""

    EVENT = "event"
    ERROR = "error"
    END = "end"
    """It gave up."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One event or error that a client reported."""

    what: What
    type: str = ""
    data: str = ""
    id: str = ""

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self:
        """Parse a line of a driver."""
        return cls(What(line["saw"]), line.get("type") or "", line.get("data") or "", line.get("id") or "")


@dataclass(slots=True)
class Watch:
    """Everything that one client reported, in order."""

    seen: list[Seen] = field(default_factory=list)
    driver_ended: str = ""
    """Why the driver itself ended, if it did."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, seen: Seen) -> None:
        """Append a report."""
        self.seen.append(seen)
        self._changed.set()

    def fail(self, reason: str) -> None:
        """Make all waits for this client raise, because its driver has ended."""
        self.driver_ended = reason
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the reports holds. Raises `RuntimeError` if the driver ends."""
        while not condition():
            if self.driver_ended:
                raise RuntimeError(self.driver_ended)
            self._changed.clear()
            await self._changed.wait()

    async def shown(self, data: str, kind: str = "price") -> None:
        """Wait until an event with this data and type was shown or the client gave up."""
        await self.until(lambda: self.has_ended or self.has(data, kind))

    @property
    def has_ended(self) -> bool:
        """Whether the client gave up."""
        return any(each.what is What.END for each in self.seen)

    def has(self, data: str, kind: str) -> bool:
        """Whether an event with this data and type was shown."""
        return any(each.type == kind and each.data == data for each in self.seen)


class Driver:
    """A running driver. It takes commands and reports for each client."""

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self._send = send
        self._watches: dict[str, Watch] = {}
        self._count = 0

    @asynccontextmanager
    async def client(self, name: str, url: str) -> AsyncIterator[Watch]:
        """Run a client until the context ends."""
        self._count += 1
        key = str(self._count)
        watch = self._watches[key] = Watch()
        await self._send(json.dumps({"open": key, "client": name, "url": url}))
        try:
            yield watch
        finally:
            del self._watches[key]
            await self._send(json.dumps({"close": key}))

    def take(self, line: str | bytes) -> None:
        """Store a line that the driver wrote."""
        said = json.loads(line)
        if (watch := self._watches.get(said["key"])) is not None:
            watch.add(Seen.read(said))

    def end(self, reason: str) -> None:
        """Fail all clients, because the driver has ended."""
        for watch in self._watches.values():
            watch.fail(reason)


@asynccontextmanager
async def driver_of(
    runtime: Runtime, program: Callable[[str], Path], firefox: Callable[[], Firefox]
) -> AsyncIterator[Driver]:
    """Run the driver of one runtime. `firefox` returns a running browser."""
    async with AsyncExitStack() as stack:
        if runtime is Runtime.NODE:
            driver = process_driver(str(program("node")), "driver.mjs")
        elif runtime is Runtime.PYTHON:
            driver = process_driver(sys.executable, "driver.py")
        elif runtime is Runtime.CHROMIUM:
            browser = await stack.enter_async_context(chromium(program))
            driver = browser_driver((await browser.new_page()).goto)
        else:
            stack.push_async_callback(firefox().close_tabs)
            driver = browser_driver(firefox().open)
        yield await stack.enter_async_context(driver)


@asynccontextmanager
async def process_driver(interpreter: str, program: str) -> AsyncIterator[Driver]:
    """Run a driver as a process that reads commands and writes reports, one JSON line each."""
    programs = Programs()
    process = await programs.start(interpreter, str(FOLDER / program), env=NO_PROXIES)
    driver = Driver(lambda command: process.feed(command.encode() + b"\n"))
    reading = asyncio.create_task(_take_lines(process, driver))
    try:
        yield driver
    finally:
        await programs.end()
        await reading


async def _take_lines(process: Process, driver: Driver) -> None:
    while line := await process.any_line():
        driver.take(line)
    driver.end(f"the driver ended: {await process.ended()}")


@asynccontextmanager
async def browser_driver(show: Callable[[str], Awaitable[object]]) -> AsyncIterator[Driver]:
    """Run a browser's own EventSource; `show` opens an address in it.

    The page gets its commands over a WebSocket. Each stream has its own frame and origin, because browsers
    open only six connections to one origin.
    """
    connected: asyncio.Future[Driver] = asyncio.get_running_loop().create_future()
    app = web.Application()
    app.router.add_get("/", _page)
    app.router.add_get("/socket", _socket(connected))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        place = f"127.0.0.1:{runner.addresses[0][1]}"
        await show(f"http://{place}/?{urlencode({'socket': f'ws://{place}/socket'})}")
        yield await connected
    finally:
        await runner.cleanup()


async def _page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE)


def _socket(connected: asyncio.Future[Driver]) -> Callable[[web.Request], Awaitable[web.WebSocketResponse]]:
    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        driver = Driver(_sender(socket))
        connected.set_result(driver)
        async for message in socket:
            driver.take(message.data)
        driver.end("the page was closed")
        return socket

    return answer


def _sender(socket: web.WebSocketResponse) -> Callable[[str], Awaitable[None]]:
    async def send(text: str) -> None:
        with contextlib.suppress(ConnectionError):  # the browser may be gone at the end
            await socket.send_str(text)

    return send
