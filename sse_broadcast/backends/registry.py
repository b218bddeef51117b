"""Which backend a configuration names, made of its parts."""

from pathlib import Path

from sse_broadcast.backends.base import Backend, Deliver
from sse_broadcast.backends.directory import Directory
from sse_broadcast.backends.memory.backend import MemoryBackend, open_memory
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.memory.largest import ReportShare
from sse_broadcast.backends.tiered import TieredBackend
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config
from sse_broadcast.metrics import StoreMetrics


def make_backend(
    config: Config,
    policies: ChannelPolicies,
    deliver: Deliver,
    *,
    metrics: StoreMetrics,
    report: ReportShare | None = None,
) -> Backend:
    """Return the backend that a configuration names, to be started. Nothing is opened yet."""
    if config.store_path is None:
        return open_memory(config, policies, deliver, report)
    # Not above: a server that keeps its history in memory needs none of it, nor a Python that has SQLite.
    from sse_broadcast.backends.sqlite.file import StoreFile  # noqa: PLC0415
    from sse_broadcast.backends.sqlite.store import SqliteStore  # noqa: PLC0415

    directory = Directory(
        lambda channel: policies.for_channel(channel).limits,
        total=config.history_total,
        max_channels=config.history_channels,
        report=report,
    )
    store = SqliteStore(
        StoreFile(Path(config.store_path), config.durability),
        directory,
        policies,
        window=config.idempotency_window,
        metrics=metrics,
    )
    history = History(
        lambda channel: policies.for_channel(channel).limits,
        total=config.history_memory,
        max_channels=config.history_channels,
    )
    return TieredBackend(store, MemoryBackend(history, deliver, window=config.idempotency_window))
