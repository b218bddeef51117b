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
"""What the `Server` header says; without a version, which only an attacker would use."""

UNSET = msgspec.UNSET

TYPED = {"X-Content-Type-Options": "nosniff"}
"""The header by which a browser takes an answer for nothing but what its type says."""

STREAMS = frozenset(encoding.format.content_type for encoding in (TEXT, NDJSON))
"""What no browser ever looks into to find another type (WHATWG MIME Sniffing, 7): it needs no such header."""


def sign(response: web.StreamResponse) -> None:
    """Say of an answer who gives it, and that it is what its type says, whatever a publisher put into it."""
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
    """An event of `text/event-stream`, as the standard has it (WHATWG HTML 9.2.6)."""

    data: str
    event: str = DEFAULT_TYPE
    id: str | msgspec.UnsetType = UNSET
    retry: int | msgspec.UnsetType = UNSET


class Envelope(msgspec.Struct, frozen=True):
    """An event that says where it came from, and when, in seconds since 1970; `channel` may be null."""

    channel: str | None
    id: str | None
    event: str
    data: Any
    time: float


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One event is stored, and has its place in the order. `clients` are the subscribers that wanted it.

    `message` is what was published, so that a typing error shows; it is left out above 64 KiB, since Spring's
    WebClient and others hold no more than 256 KiB of an answer.
    """

    status: str
    clients: int
    message: str | msgspec.UnsetType = msgspec.UNSET
    id: str
    channel: str
    channels: Sequence[str]


class SentBatch(msgspec.Struct, frozen=True):
    """A batch is stored, or the lines of a stream. `id` is the last one's; null where there was none."""

    status: str
    count: int
    clients: int
    id: str | None


# Its members are those of `Counts`, which are declared there alone. It is no subclass of it, whose own member
# would come last: the number of clients is the first.
ServerStatus = msgspec.defstruct(
    "ServerStatus",
    [("connected_clients", int), *((each.name, each.type) for each in dataclasses.fields(Counts))],
    namespace={
        "__doc__": "Who listens now, and what was counted since the start,"
        " by the reason or the policy behind it."
    },
    module=__name__,
    frozen=True,
)


class ChannelPage(msgspec.Struct, frozen=True):
    """Channels by name. `next` is what to ask for in `after`; null at the end."""

    channels: Sequence[ChannelState]
    next: str | None


class Caller(msgspec.Struct, frozen=True):
    """Whose credential it is: a configured caller's, or that of the subject of a signed token."""

    kind: CredentialKind
    name: str


class SubscriberState(msgspec.Struct, frozen=True):
    """A subscriber that is connected, as it was when it was looked at.

    `address` is the client's, `unix` of a UNIX socket's. `types` are the only ones it asked for, null for
    all. `state` is `live`, `catching-up`, `full` while its socket takes no more, or `ending`. It has been
    connected for `age` seconds, was given `events` and has lost `drops`. `behind` are the events that it
    has yet to get, of all channels while it is catching up; `queued_bytes` wait for it outside the history.
    `lag` is how many seconds ago the oldest of them was published, 0 when nothing waits.
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
    """Subscribers, of `total` that are connected. `next` is what to ask for in `after`; null at the end."""

    subscribers: Sequence[SubscriberState]
    total: int
    next: str | None


class Disconnected(msgspec.Struct, frozen=True):
    """A stream is ended; its subscriber may come back."""

    status: str
    id: str


class Health(msgspec.Struct, frozen=True):
    """The process is alive, or able to serve."""

    status: str


class MintedToken(msgspec.Struct, frozen=True):
    """A token, its own id, and until when it is good, in seconds since 1970."""

    token: str
    id: str
    subject: str
    expires: float
    grants: Mapping[Action, Sequence[str]]


class Revoked(msgspec.Struct, frozen=True):
    """A subject or a token is refused from now on. `streams` were ended."""

    status: str
    streams: int


class Reloaded(msgspec.Struct, frozen=True):
    """The configuration was read again: names of settings that are others now, or only after a restart."""

    status: str
    changed: Sequence[str]
    restart: Sequence[str]


class ProblemDetails(msgspec.Struct, frozen=True):
    """What is wrong, where, and which value (RFC 9457). `published` is there where lines were before it."""

    title: str
    status: int
    detail: str
    published: int | msgspec.UnsetType = UNSET
