"""Response types. Fields may be added; none is removed or redefined."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import hdrs, web

from sse_broadcast.auth.principal import Action, CredentialKind
from sse_broadcast.broadcaster import ChannelState
from sse_broadcast.encoding import NDJSON, TEXT
from sse_broadcast.event import DEFAULT_TYPE
from sse_broadcast.metrics import Counts

SERVER = "sse-broadcast"
"""The `Server` header. It has no version: only an attacker would use that."""

UNSET = msgspec.UNSET

TYPED = {"X-Content-Type-Options": "nosniff"}
"""The header that keeps a browser from guessing another type."""

STREAMS = frozenset(encoding.format.content_type for encoding in (TEXT, NDJSON))
"""Types that browsers never sniff (WHATWG MIME Sniffing, 7): no header is needed."""


def sign(response: web.StreamResponse) -> None:
    """Add the headers `Server` and, except to streams, `X-Content-Type-Options`."""
    response.headers[hdrs.SERVER] = SERVER
    if response.content_type not in STREAMS:
        response.headers.update(TYPED)


JSON_HEADERS = {hdrs.CONTENT_TYPE: "application/json", hdrs.SERVER: SERVER, **TYPED}
"""What `sign` would say of a JSON answer, written at once."""


def answered(content: msgspec.Struct | ChannelState) -> web.Response:
    """Return an answer as JSON, signed."""
    # As `json_line` encodes it, without its call.
    return web.Response(body=msgspec.json.encode(content) + b"\n", headers=JSON_HEADERS)


class StreamEvent(msgspec.Struct, frozen=True):
    """An event of `text/event-stream` (WHATWG HTML 9.2.6)."""

    data: str
    event: str = DEFAULT_TYPE
    id: str | msgspec.UnsetType = UNSET
    retry: int | msgspec.UnsetType = UNSET


class Envelope(msgspec.Struct, frozen=True):
    """An event with its channel and its time, in seconds since 1970.

    `channel` is null for the server's own events. `channels` is present where the subscriber follows several
    of the event's channels.
    """

    channel: str | None
    id: str | None
    event: str
    data: Any
    time: float
    channels: Sequence[str] | msgspec.UnsetType = UNSET


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a publish of one event. `clients` is the number of subscribers of its channels.

    `message` repeats the data, so that typing errors show. It is left out above 64 KiB: Spring's WebClient
    and others accept at most 256 KiB of an answer.
    """

    status: str
    clients: int
    message: str | msgspec.UnsetType = msgspec.UNSET
    id: str
    channel: str
    channels: Sequence[str]


class SentBatch(msgspec.Struct, frozen=True):
    """The answer to a publish of a batch or of lines. `id` is the last event's, or null without events."""

    status: str
    count: int
    clients: int
    id: str | None


# The members of `Counts` are declared only there. Not a subclass: its own member would come last, but the
# number of clients must come first.
ServerStatus = msgspec.defstruct(
    "ServerStatus",
    [("connected_clients", int), *((each.name, each.type) for each in dataclasses.fields(Counts))],
    namespace={
        "__doc__": "The number of subscribers now, and the counters since the start,"
        " by reason or policy where there are several."
    },
    module=__name__,
    frozen=True,
)


StatusSample = msgspec.defstruct(
    "StatusSample",
    [
        ("connected_clients", int),
        *((each.name, each.type) for each in dataclasses.fields(Counts)),
        ("time", float),
        ("version", str),
        ("delivered", int),
        ("written_bytes", int),
        ("history_channels", int),
        ("history_bytes", int),
    ],
    namespace={
        "__doc__": "The status at one moment, `time` in seconds since 1970. `delivered` events and"
        " `written_bytes` went to subscribers since the start; the history holds `history_bytes` of"
        " `history_channels`."
    },
    module=__name__,
    frozen=True,
)


class SettingState(msgspec.Struct, frozen=True):
    """A setting of the active configuration; secrets are not shown.

    `source` is `default`, a flag, an environment variable, a file, or `program`. `restart` says that only a
    restart changes it.
    """

    name: str
    value: Any
    default: Any
    source: str
    help: str
    restart: bool


class ConfigTable(msgspec.Struct, frozen=True):
    """The tables of one kind, such as `[[channel]]`, each as what it sets."""

    name: str
    source: str
    tables: Sequence[Mapping[str, Any]]
    restart: bool


class ActiveConfig(msgspec.Struct, frozen=True):
    """The active configuration, and where each value came from."""

    version: str
    settings: Sequence[SettingState]
    tables: Sequence[ConfigTable]


class ChannelPage(msgspec.Struct, frozen=True):
    """A page of channels by name. `next` is the `after` of the next page; null at the end."""

    channels: Sequence[ChannelState]
    next: str | None


class Caller(msgspec.Struct, frozen=True):
    """The bearer of a credential: a configured caller, or the subject of a signed token."""

    kind: CredentialKind
    name: str


class SubscriberState(msgspec.Struct, frozen=True):
    """A connected subscriber at the time of the request.

    `address` is the client's, or `unix` for a UNIX socket. `types` are the event types that the subscriber
    asked for, null for all. `state` is `live`, `catching-up`, `full` (its socket is full) or `ending`. `age`
    is the time since it connected, in seconds. `events` were sent to it and `drops` were lost. `behind` is
    the number of events still to send, of all channels while it is catching up. `queued_bytes` wait outside
    the history. `lag` is the age of the oldest waiting event in seconds, 0 if none waits.
    """

    id: str
    address: str
    channels: Sequence[str]
    types: Sequence[str] | None
    format: str
    caller: Caller | None
    state: str
    age: float
    events: int
    drops: int
    behind: int
    queued_bytes: int
    lag: float


class SubscriberPage(msgspec.Struct, frozen=True):
    """A page of the `total` subscribers. `next` is the `after` of the next page; null at the end."""

    subscribers: Sequence[SubscriberState]
    total: int
    next: str | None


class Disconnected(msgspec.Struct, frozen=True):
    """The answer to a disconnect. The subscriber may reconnect."""

    status: str
    id: str


class Health(msgspec.Struct, frozen=True):
    """The answer of a probe: the process is alive, or ready to serve."""

    status: str


class MintedToken(msgspec.Struct, frozen=True):
    """A new token, its id, and its expiry in seconds since 1970."""

    token: str
    id: str
    subject: str
    expires: float
    grants: Mapping[Action, Sequence[str]]


class Revoked(msgspec.Struct, frozen=True):
    """The answer to a revocation. `streams` is the number of streams that it closed."""

    status: str
    streams: int


class Reloaded(msgspec.Struct, frozen=True):
    """The answer to a reload: the names of the settings that changed, and of those that need a restart."""

    status: str
    changed: Sequence[str]
    restart: Sequence[str]


class ProblemDetails(msgspec.Struct, frozen=True):
    """An error (RFC 9457). `published` is the number of lines published before it, in a stream of lines."""

    title: str
    status: int
    detail: str
    published: int | msgspec.UnsetType = UNSET
