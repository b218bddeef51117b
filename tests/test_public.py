"""The names the package promises."""

import inspect

import sse_broadcast


def test_the_public_names() -> None:
    """A name that goes is a change users must be told of."""
    assert sse_broadcast.__all__ == [
        "BROADCASTER",
        "BroadcastError",
        "Broadcaster",
        "CertificateError",
        "ClientError",
        "CloseReason",
        "ClosedError",
        "Config",
        "ConfigError",
        "Event",
        "EventError",
        "EventTooLargeError",
        "ListenError",
        "Overflow",
        "Receipt",
        "Received",
        "Stream",
        "create_app",
    ]
    assert all(hasattr(sse_broadcast, name) for name in sse_broadcast.__all__)


def test_the_signatures_of_the_library() -> None:
    """What programs call."""
    broadcaster = sse_broadcast.Broadcaster
    signatures = {
        name: str(inspect.signature(getattr(broadcaster, name))) for name in ("broadcast", "subscribe")
    }
    assert signatures == {
        "broadcast": "(self, message: str, *, event: str | None = None, retry: int | None = None, "
        "channels: collections.abc.Sequence[str] = ('default',)) -> sse_broadcast.publication.Receipt",
        "subscribe": "(self, *channels: str) -> sse_broadcast.stream.Stream",
    }
    assert list(inspect.signature(sse_broadcast.create_app).parameters) == ["config"]
