"""Operations of the writing thread, and their results. Values only: they are shared between threads."""

from collections.abc import Sequence

import msgspec

from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.backends.directory import ChannelChange
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.publication import Draft, Publication


class Append(msgspec.Struct, frozen=True):
    """Publish: `limits` are those of each channel, `now` is the moment it was asked for."""

    drafts: Sequence[Draft]
    limits: dict[str, HistoryLimits]
    now: float
    publisher: str
    key: IdempotencyKey | None = None


class Trim(msgspec.Struct, frozen=True):
    """Evict from a channel what is beyond its limits, and besides so many `bytes` of its oldest."""

    channel: str
    limits: HistoryLimits
    now: float
    bytes: int = 0


class Forget(msgspec.Struct, frozen=True):
    """Evict everything of a channel, and forget it."""

    channel: str


class Remove(msgspec.Struct, frozen=True):
    """Remove one event, which is no eviction."""

    position: int


class Clear(msgspec.Struct, frozen=True):
    """Remove all events of a channel, which is no eviction."""

    channel: str


class Expire(msgspec.Struct, frozen=True):
    """Forget idempotency keys whose time has come, though nothing is published."""

    now: float


class Answered(msgspec.Struct, frozen=True):
    """Note how many clients a publish with a key was answered with. It waits for the next commit."""

    scope: bytes
    clients: int


StoreOperation = Append | Trim | Forget | Remove | Clear | Expire


class Appended(msgspec.Struct, frozen=True):
    """The result of a publish. With a key seen before it is the first result, without publications."""

    publications: Sequence[Publication]
    position: int
    count: int
    clients: int = 0
    scope: bytes | None = None


class CommitResult(msgspec.Struct, frozen=True):
    """What one transaction has done: a result, or an error, for each operation, and what has changed.

    Its number is 0 if it was not committed.
    """

    number: int
    results: Sequence[object]
    changes: Sequence[ChannelChange]
    events: int
    bytes: int
    forgotten: int
    keys_expire: float | None = None
    """When the first idempotency key is to be forgotten, if any is held."""
