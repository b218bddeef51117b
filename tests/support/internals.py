"""What tests look at inside a server or a broadcaster: each private name is read here, and nowhere else.

For what no observer could tell: whether anything is left of a reader, and how full a queue or a socket is.
"""

from collections.abc import Callable, Collection

from aiohttp import web

from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.fanout.hub import Hub
from sse_broadcast.fanout.outbox import Outbox
from sse_broadcast.server.runner import Server


def outboxes_of(broadcaster: Broadcaster) -> Collection[Outbox]:
    """Return the outboxes of all connected subscribers."""
    return broadcaster._delivery._outboxes


def hub_of(broadcaster: Broadcaster) -> Hub:
    """Return the hub: an iterator over its subscribers, and their groups."""
    return broadcaster._hub


def backend_of(broadcaster: Broadcaster) -> MemoryBackend:
    """Return the backend itself, which is not instrumented."""
    return broadcaster._backend.inner


def set_clock(broadcaster: Broadcaster, clock: Callable[[], float]) -> None:
    """Replace the clock of the backend."""
    backend_of(broadcaster)._clock = clock


def web_server_of(server: Server) -> web.Server:
    """Return aiohttp's server, of a server that listens."""
    found = server._runner.server
    assert found is not None
    return found
