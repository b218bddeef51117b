"""What tests look at inside a server or a broadcaster: each private name is read here, and nowhere else.

For what no observer could tell: whether anything is left of a reader, and how full a queue or a socket is.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

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


def patterns_of(hub: Hub) -> Sequence[str]:
    """Return the patterns that somebody follows; fail if more are known by serial."""
    assert sorted(pattern.text for pattern in hub._by_serial.values()) == sorted(hub._patterns)
    return list(hub._patterns)


def routes_of(hub: Hub) -> dict[str, int]:
    """Return how many patterns are remembered to match each channel."""
    return {channel: len(route.serials) for channel, route in hub._routes.items()}


def route_bytes_of(hub: Hub) -> int:
    """Return the bytes that a hub counts for what it remembers of patterns and channels."""
    return hub._route_bytes


class _NotIterable(dict[Any, Any]):
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the channels are iterated")

    keys = values = items = __iter__  # type: ignore[assignment]


def forbid_iterating_channels(hub: Hub) -> None:
    """Let a hub look its channels up by name alone."""
    hub._channels = _NotIterable(hub._channels)


def backend_of(broadcaster: Broadcaster) -> MemoryBackend:
    """Return the backend itself, which is not instrumented."""
    return broadcaster._backend.inner


def set_clock(of: Broadcaster | MemoryBackend, clock: Callable[[], float]) -> None:
    """Replace the clock of a backend."""
    backend = backend_of(of) if isinstance(of, Broadcaster) else of
    backend._clock = clock


def web_server_of(server: Server) -> web.Server:
    """Return aiohttp's server, of a server that listens."""
    found = server._runner.server
    assert found is not None
    return found
