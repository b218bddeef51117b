"""A listener for tests that leaves no connection open."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves one connection, which is closed when it returns."""


class Acceptor:
    """Accepts connections, runs a handler for each, and ends all of them when it is closed.

    An `asyncio.Server` does not: one that is closed leaves open a connection that it has just accepted, and
    a handler that is cancelled with its loop leaves its own. A later test then fails over the socket.
    """

    def __init__(self, handle: Handle) -> None:
        self.port = 0
        """The port of the last `listen`."""
        self._handle = handle
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, *, port: int = 0, path: Path | None = None) -> None:
        """Accept connections at a port of 127.0.0.1, a free one if it is 0, or at a UNIX socket."""
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", port))
            self.port = self._listener.getsockname()[1]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    @property
    def is_listening(self) -> bool:
        """Whether it accepts connections."""
        return self._listener is not None

    def stop(self) -> None:
        """Refuse new connections. The handlers go on."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """Refuse new connections and cut those that are open. Raises what a handler has raised."""
        self.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client may have left
            connection, _ = listener.accept()
            connection.setblocking(False)
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._forget)
            # Not in a `finally`: a task that is cancelled before its first step runs none.
            task.add_done_callback(lambda _: connection.close())

    def _forget(self, task: asyncio.Task[None]) -> None:
        # A handler that has failed stays, so that `close` raises its exception.
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            # A client may leave at any moment.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._handle(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def accepting(handle: Handle, *, port: int = 0, path: Path | None = None) -> AsyncIterator[Acceptor]:
    """Accept connections inside an `async with`."""
    acceptor = Acceptor(handle)
    acceptor.listen(port=port, path=path)
    try:
        yield acceptor
    finally:
        await acceptor.close()
