"""A Server-Sent-Events broadcast server, and its library."""

from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.broadcaster import Broadcaster, ChannelState
from sse_broadcast.config.schema import CallerRule, ChannelRule, Config, Overflow
from sse_broadcast.errors import (
    BroadcastError,
    CertificateError,
    ClientError,
    ClosedError,
    ConfigError,
    EventError,
    EventTooLargeError,
    FullError,
    IdempotencyError,
    ListenError,
)
from sse_broadcast.event import Event
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.publication import Draft, Receipt, Received
from sse_broadcast.server.app import create_app
from sse_broadcast.server.services import BROADCASTER
from sse_broadcast.stream import Stream
from sse_broadcast.version import __version__ as __version__

__all__ = [
    "BROADCASTER",
    "BroadcastError",
    "Broadcaster",
    "CallerRule",
    "CertificateError",
    "ChannelRule",
    "ChannelState",
    "ClientError",
    "CloseReason",
    "ClosedError",
    "Config",
    "ConfigError",
    "Draft",
    "Event",
    "EventError",
    "EventTooLargeError",
    "FullError",
    "IdempotencyError",
    "IdempotencyKey",
    "ListenError",
    "Overflow",
    "Receipt",
    "Received",
    "Stream",
    "create_app",
]
