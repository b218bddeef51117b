"""What tests look at inside a server or a broadcaster: each private name is read here, and nowhere else.

For what no observer could tell: whether anything is left of a reader, and how full a queue or a socket is.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from sse_broadcast.backends.base import Backend
from sse_broadcast.backends.instrumented import InstrumentedBackend
from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.fanout.hub import Hub
from sse_broadcast.fanout.outbox import Outbox
from sse_broadcast.server.access.shares import CallerKey, Shares
from sse_broadcast.server.runner import Server
from sse_broadcast.server.services import STREAM_EXPIRY
from sse_broadcast.server.streams.expiry import TrackedStream
from sse_broadcast.server.transport.counts import ConnectionCounts


def outboxes_of(broadcaster: Broadcaster) -> Collection[Outbox]:
    """Return the outboxes of all connected subscribers."""
    return broadcaster._dispatcher._outboxes


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
    inner = broadcaster._backend.inner
    assert isinstance(inner, MemoryBackend)
    return inner


def instrumented_backend_of(broadcaster: Broadcaster) -> InstrumentedBackend[Backend]:
    """Return the backend that counts the calls of the other."""
    return broadcaster._backend


def set_clock(of: Broadcaster | MemoryBackend, clock: Callable[[], float]) -> None:
    """Replace the clock of a backend, also by one that is behind it."""
    backend = backend_of(of) if isinstance(of, Broadcaster) else of
    backend._clock = clock
    backend._now = 0.0


def web_server_of(server: Server) -> web.Server:
    """Return aiohttp's server, of a server that listens."""
    found = server._runner.server
    assert found is not None
    return found


def pipelined_of(connection: RequestHandler) -> Sized:
    """Return the requests of a connection that were read and not yet begun."""
    return connection._messages


def tracked_streams_of(server: Server) -> Iterator[TrackedStream]:
    """Yield the open streams that something may end."""
    for streams in server.app[STREAM_EXPIRY]._open.values():
        yield from streams


def addresses_of(counts: ConnectionCounts) -> Mapping[str, int]:
    """Return the addresses of which there are connections, and how many of each."""
    return counts._of


def followed_of(shares: Shares) -> list[list[str]]:
    """Return the channels that each caller follows."""
    return [sorted(follower.names) for follower in shares._followers.values()]


def held_bytes_of(shares: Shares) -> Mapping[CallerKey, int]:
    """Return the bytes of bodies that are counted for each caller."""
    return shares._bytes
