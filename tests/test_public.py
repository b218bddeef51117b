"""The public names of the package."""

import inspect

import sse_broadcast

NAMES = ["BROADCASTER", "BroadcastError", "Broadcaster", "CallerRule", "CertificateError", "ChannelRule"]
NAMES += ["ChannelState", "ClientError", "CloseReason", "ClosedError", "Config", "ConfigError", "Draft"]
NAMES += ["Event", "EventError", "EventTooLargeError", "FullError", "IdempotencyError", "IdempotencyKey"]
NAMES += ["ListenError", "Overflow", "Receipt", "Received", "Stream", "create_app"]


def test_the_public_names() -> None:
    """Removing one is a change for users."""
    assert sse_broadcast.__all__ == NAMES
    assert all(hasattr(sse_broadcast, name) for name in sse_broadcast.__all__)


def test_the_signatures_of_the_library() -> None:
    names = ("broadcast", "publish", "draft", "publish_all", "subscribe", "channel", "channels", "close")
    signatures = {
        name: str(inspect.signature(getattr(sse_broadcast.Broadcaster, name))).replace(
            "collections.abc.Sequence", "Sequence"
        )
        for name in names
    }
    assert signatures == {
        "broadcast": "(self, message: str, *, event: str | None = None, id: str | None = None, "
        "key: str | None = None, retry: int | None = None, "
        "channels: Sequence[str] = ('default',)) -> sse_broadcast.publication.Receipt",
        "publish": "(self, event: sse_broadcast.event.Event, "
        "channels: Sequence[str] = ('default',)) -> sse_broadcast.publication.Receipt",
        "draft": "(self, event: sse_broadcast.event.Event, "
        "channels: Sequence[str] = ('default',)) -> sse_broadcast.publication.Draft",
        "publish_all": "(self, drafts: Sequence[sse_broadcast.publication.Draft], "
        "idempotency_key: sse_broadcast.backends.base.IdempotencyKey | None = None, *, publisher: str = '') "
        "-> sse_broadcast.publication.Receipt",
        "subscribe": "(self, *channels: str, since: str | None = None, last_event_id: str | None = None, "
        "events: Sequence[str] | None = None) -> sse_broadcast.stream.Stream",
        "channel": "(self, name: str) -> sse_broadcast.broadcaster.ChannelState",
        "channels": "(self, *, prefix: str = '', after: str = '', limit: int, "
        "visible: collections.abc.Callable[[str], bool] | None = None) "
        "-> list[sse_broadcast.broadcaster.ChannelState]",
        "close": "(self, *, timeout: float, over: float = 0.0) -> None",
    }
    assert list(inspect.signature(sse_broadcast.create_app).parameters) == ["config"]


def test_the_fields_of_the_values() -> None:
    """Programs read them, and create some of these by position."""
    fields = {
        kind.__name__: list(inspect.signature(kind).parameters)
        for kind in (
            sse_broadcast.Event,
            sse_broadcast.Received,
            sse_broadcast.Receipt,
            sse_broadcast.Draft,
            sse_broadcast.IdempotencyKey,
            sse_broadcast.ChannelState,
        )
    }
    assert fields == {
        "Event": ["data", "type", "id", "retry", "key", "json"],
        "Received": ["channel", "data", "event", "id", "retry"],
        "Receipt": ["clients", "channels", "id", "count"],
        "Draft": ["channels", "event"],
        "IdempotencyKey": ["scope", "digest"],
        "ChannelState": ["channel", "subscribers", "cursor", "events", "oldest"],
    }


def test_the_choices() -> None:
    assert list(sse_broadcast.Overflow) == ["disconnect", "drop-oldest", "drop-newest", "conflate"]
    reasons = ["left", "slow", "stalled", "drain", "expired", "revoked", "lifetime", "disconnected", "error"]
    assert list(sse_broadcast.CloseReason) == reasons
