"""SQLite as the contract's tests open it."""

from collections.abc import Callable
from pathlib import Path

from sse_broadcast.backends.base import Deliver
from sse_broadcast.backends.directory import Directory
from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.sqlite.file import StoreFile
from sse_broadcast.backends.sqlite.store import SqliteStore
from sse_broadcast.backends.tiered import TieredBackend
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config
from sse_broadcast.metrics import StoreMetrics


def tiered(
    path: Path,
    config: Config,
    policies: ChannelPolicies,
    deliver: Deliver,
    clock: Callable[[], float],
    *,
    memory: int | None = None,
) -> TieredBackend:
    """Return a backend whose history is in a file, and not opened yet."""
    directory = Directory(
        lambda channel: policies.for_channel(channel).limits,
        total=config.history_total,
        max_channels=config.history_channels,
    )
    store = SqliteStore(
        StoreFile(path, config.durability),
        directory,
        policies,
        window=config.idempotency_window,
        metrics=StoreMetrics(),
        clock=clock,
    )
    history = History(
        lambda channel: policies.for_channel(channel).limits,
        total=config.history_memory if memory is None else memory,
        max_channels=config.history_channels,
    )
    return TieredBackend(
        store, MemoryBackend(history, deliver, window=config.idempotency_window, clock=clock)
    )


def waiting_of(backend: TieredBackend) -> int:
    """Return how many operations the writing thread has yet to do."""
    store = backend.store
    assert isinstance(store, SqliteStore)
    return len(store._waiting)
