"""Schema of the configuration: `Config`, its tables and their choices. Each setting is declared once.

The flag, the environment variable, the TOML key, the help, the line in `config.example.toml` and the row in
the documentation all follow from the declaration (see `sources`).
"""

from enum import StrEnum
from types import NoneType
from typing import Annotated, get_args

import msgspec
from msgspec import Meta

from sse_broadcast.config.values import (
    ADDRESS,
    HIDDEN,
    MEMORY,
    SECRET_MARK,
    SQLITE_PREFIX,
    BackendUrl,
    Bytes,
    CallerName,
    Channel,
    Claim,
    Cookie,
    Count,
    Host,
    HostName,
    Limit,
    Mode,
    Origin,
    Owner,
    Pattern,
    Patterns,
    Port,
    Seconds,
    Span,
    TrustedProxy,
    convert,
)
from sse_broadcast.errors import ConfigError
from sse_broadcast.unix_address import unix_path

MOST_LABELLED = 100
"""Maximum number of channels with metrics of their own: each adds several series."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of `Config` and of its tables. A program's values are checked as strictly as a file's."""

    def __post_init__(self) -> None:
        """Convert each value to its declared type. Raises `ConfigError`."""
        for each in msgspec.structs.fields(type(self)):
            value = getattr(self, each.name)
            if value is each.default or (value is None and NoneType in get_args(each.type)):
                continue
            converted = convert(value, each.type, each.name, strict=True)
            if converted is not value:
                msgspec.structs.force_setattr(self, each.name, converted)


class Overflow(StrEnum):
    """What the server does when an event does not fit into a subscriber's queue."""

    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"
    CONFLATE = "conflate"


class EventLoop(StrEnum):
    """The event loop of the server. `auto` is uvloop if it is installed."""

    AUTO = "auto"
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


class Durability(StrEnum):
    """What a power cut may take of a store on this machine. A process that is killed loses nothing."""

    FULL = "full"
    """Nothing that was answered: each commit waits for the disk."""
    NORMAL = "normal"
    """The last moments: the disk is waited for now and then."""


class Endpoint(StrEnum):
    """A set of endpoints that a listener serves, named by its purpose."""

    SUBSCRIBE = "subscribe"
    """`/events`"""
    PUBLISH = "publish"
    """`/send`"""
    INSPECT = "inspect"
    """`/status`, `/channels` and other endpoints that report on the server"""
    ADMIN = "admin"
    """`/tokens`, `/revoke`, `/reload`, `/config` and other endpoints that change the server's state"""
    CONSOLE = "console"
    """The page at `/`. What it shows belongs to the endpoints above."""


class ProxyHeader(StrEnum):
    """The header in which a trusted proxy names the client. Each proxy appends its peer's address."""

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"
    """RFC 7239"""


class LogLevel(StrEnum):
    """The lowest severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The format of a log line. `auto` is text on a terminal, and JSON elsewhere."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class ChannelRule(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[[channel]]` table: settings of the channels that match a pattern. None keeps the server's value.

    Raises `ConfigError` for an invalid pattern.
    """

    match: Pattern
    history_size: Annotated[int, Meta(ge=0)] | None = None
    history_age: Annotated[float, Meta(ge=0.01)] | None = None
    history_bytes: Annotated[int, Meta(ge=0)] | None = None
    overflow: Overflow | None = None
    retry: Annotated[int, Meta(ge=0, le=86_400_000)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()


OWN_SUBJECTS = frozenset({"token", "generated"})
"""Subjects of the tokens that belong to no `[[caller]]`: the setting `token`, and the generated token."""


class CallerRule(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[[caller]]` table: a static token, and the channels that its bearer may use for each action.

    The token is given directly, by a file, or by an environment variable that holds it. Raises `ConfigError`
    unless exactly one of the three is set.
    """

    name: CallerName
    token: Annotated[str, Meta(extra=SECRET_MARK)] | None = None
    token_file: str | None = None
    token_env: str | None = None
    publish: Patterns = ()
    subscribe: Patterns = ()
    inspect: Patterns = ()
    admin: Patterns = ()

    def __repr__(self) -> str:
        return f"CallerRule(name={self.name!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("name", self.name)]

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [self.token, self.token_file, self.token_env]
        if sum(each is not None for each in given) != 1:
            raise ConfigError(f"{self.name!r}: set exactly one of token, token_file and token_env")
        if self.name in OWN_SUBJECTS:
            raise ConfigError(f"name: {self.name!r} is reserved for the server's own token")
        if self.admin not in {(), ("*",)}:
            raise ConfigError("admin: must be ['*'] or empty, since it applies to the whole server")
        _require_not_hidden(self, "token")


class ListenerRule(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[[listener]]` table: an address to listen on, and the endpoints served there.

    `host` is an address, or `unix:/path` for a UNIX socket. Only a UNIX socket has a `mode` (octal digits)
    and an `owner` (`user`, `user:group` or `:group`). `name` is the supervisor's name for a socket that it
    opened. Raises `ConfigError` for contradictions.
    """

    host: Host
    port: Port = 8000
    certificate: str = ""
    key: str = ""
    mode: Mode | None = None
    owner: Owner | None = None
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1)] = tuple(Endpoint)
    name: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.host.startswith("[") and self.host.endswith("]"):  # IPv6 is written so in URLs
            msgspec.structs.force_setattr(self, "host", self.host[1:-1])
        _require_certificate(self)
        if self.path is None and (self.mode or self.owner):
            raise ConfigError(f"{self.host!r} has a mode or an owner, but is not a UNIX socket")

    @property
    def private(self) -> bool:
        """Whether the listener is for operators: it serves no subscribers."""
        return Endpoint.SUBSCRIBE not in self.endpoints

    @property
    def path(self) -> str | None:
        """The path of a UNIX socket, or None for an address."""
        return unix_path(self.host)


class Config(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a server. Sizes are in bytes, times in seconds unless the name says otherwise.

    Raises `ConfigError` for values that contradict one another.
    """

    host: Annotated[
        Host,
        Meta(description="address to listen on, * for every address, or unix:/path for a UNIX socket"),
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="port to listen on; 0 chooses a free port")] = 8000
    certificate: Annotated[str, Meta(description="TLS certificate chain, a PEM file; empty serves HTTP")] = ""
    key: Annotated[str, Meta(description="private key of the certificate, a PEM file")] = ""
    token: Annotated[str, Meta(description="token that allows everything", extra=SECRET_MARK)] = ""
    token_file: Annotated[str, Meta(description="file with a token that allows everything")] = ""
    anonymous_subscribe: Annotated[
        Patterns, Meta(description="channels and patterns that anyone may subscribe to")
    ] = ()
    anonymous_publish: Annotated[
        Patterns, Meta(description="channels and patterns that anyone may publish to")
    ] = ()
    anonymous_inspect: Annotated[
        Patterns,
        Meta(description="channels and patterns that anyone may inspect; * includes the server's status"),
    ] = ()
    insecure_publish: Annotated[
        bool, Meta(description="let every client publish to every channel, without a token")
    ] = False
    cookie: Annotated[
        Cookie, Meta(description="name of a cookie that may carry a token; empty accepts no cookie")
    ] = ""
    jwt_key_file: Annotated[
        str, Meta(description="file with the key that verifies JWTs: a public key as PEM, or an HS256 secret")
    ] = ""
    jwt_jwks: Annotated[
        str, Meta(description="JWKS with the keys that verify JWTs: a file, or an https URL", extra=ADDRESS)
    ] = ""
    jwt_jwks_refresh: Annotated[Seconds, Meta(description="seconds between two reads of the JWKS")] = 300.0
    jwt_issuer: Annotated[str, Meta(description="issuer that JWTs must name (iss); empty accepts any")] = ""
    jwt_audience: Annotated[
        str,
        Meta(description="audience that JWTs must name (aud); empty accepts only JWTs without one"),
    ] = ""
    jwt_claim: Annotated[Claim, Meta(description="claim of a JWT that holds its grants")] = "grants"
    token_secret: Annotated[
        str,
        Meta(
            description="secret that signs the server's own tokens; empty makes a new one at each start",
            extra=SECRET_MARK,
        ),
    ] = ""
    token_secret_file: Annotated[
        str, Meta(description="file with the secret that signs the server's own tokens")
    ] = ""
    token_lifetime: Annotated[
        Seconds, Meta(description="maximum seconds that a token made by the server is valid")
    ] = 3600.0
    allowed_hosts: Annotated[
        tuple[HostName, ...],
        Meta(description="host names accepted while no credentials are set, besides loopback names"),
    ] = ()
    cors_origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description="origins whose pages may use the server: https://example.com, https://*.example.com"
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[TrustedProxy, ...],
        Meta(description="proxies trusted to report a client's address: addresses, networks, or unix"),
    ] = ()
    proxy_header: Annotated[
        ProxyHeader,
        Meta(description="the only header in which proxies are trusted: x-forwarded-for or forwarded"),
    ] = ProxyHeader.X_FORWARDED_FOR
    queue_size: Annotated[Count, Meta(description="maximum events that wait for one subscriber")] = 1000
    queue_bytes: Annotated[
        Bytes, Meta(description="maximum bytes of events that wait for one subscriber")
    ] = 4_194_304
    overflow: Annotated[
        Overflow,
        Meta(
            description="what happens when a queue is full: disconnect, drop-oldest, drop-newest or conflate"
        ),
    ] = Overflow.DISCONNECT
    max_event: Annotated[
        Bytes, Meta(description="maximum bytes of one event, as data and as an encoded frame")
    ] = 1_048_576
    max_batch: Annotated[Count, Meta(description="maximum events of one batch")] = 1000
    max_body: Annotated[Bytes, Meta(description="maximum bytes of a published batch")] = 4_194_304
    max_channels: Annotated[
        Count,
        Meta(description="maximum channels and patterns of one subscriber, and channels of one publish"),
    ] = 100
    max_patterns: Annotated[
        Count, Meta(description="maximum patterns among the channels of one subscriber")
    ] = 10
    backend: Annotated[
        BackendUrl,
        Meta(description="where history is kept: memory, or sqlite:///path for a file that stays"),
    ] = MEMORY
    durability: Annotated[
        Durability,
        Meta(description="what a power cut may take of a file: full, nothing; normal, the last moments"),
    ] = Durability.FULL
    history_memory: Annotated[
        int, Meta(ge=0, description="maximum bytes of memory for the newest history of a file")
    ] = 33_554_432
    history_size: Annotated[int, Meta(ge=0, description="maximum events in the history of each channel")] = (
        1000
    )
    history_age: Annotated[
        float, Meta(ge=0.01, le=31_536_000, description="maximum seconds that an event stays in the history")
    ] = 3600.0
    history_bytes: Annotated[
        int, Meta(ge=0, description="maximum bytes for the history of each channel, in memory or in the file")
    ] = 8_388_608
    history_total: Annotated[
        int,
        Meta(
            ge=0,
            description="maximum bytes for all history, likewise; the largest channel loses events first",
        ),
    ] = 134_217_728
    history_channels: Annotated[Count, Meta(description="maximum channels that have a history")] = 131_072
    idempotency_window: Annotated[
        Seconds, Meta(description="seconds during which an Idempotency-Key publishes only once")
    ] = 300.0
    send_buffer: Annotated[
        int,
        Meta(
            ge=0,
            le=2**31 - 1,
            description="bytes that the kernel may buffer for one subscriber (SO_SNDBUF); 0 for its default",
        ),
    ] = 131_072
    write_timeout: Annotated[
        Seconds, Meta(description="maximum seconds that a subscriber's socket may stay full")
    ] = 30.0
    heartbeat: Annotated[
        Seconds,
        Meta(description="seconds without an event before a heartbeat, unless the subscriber sets it"),
    ] = 4.0
    retry: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400_000,
            description="milliseconds that a subscriber waits before it reconnects, 50 % more or less",
        ),
    ] = 3000
    max_connections: Annotated[
        int, Meta(ge=0, description="maximum connections; 0 is as many as file descriptors allow")
    ] = 0
    max_connections_per_address: Annotated[
        Limit,
        Meta(description="maximum connections of one address, or of one /64 network of IPv6; 0 for no limit"),
    ] = 1000
    max_connections_per_token: Annotated[
        Limit, Meta(description="maximum open streams of one token; 0 for no limit")
    ] = 10_000
    subscribe_rate: Annotated[
        Limit, Meta(description="maximum streams opened per second, of all clients together; 0 for no limit")
    ] = 5000
    subscribe_burst: Annotated[Count, Meta(description="streams opened at once before that rate applies")] = (
        20_000
    )
    publish_rate: Annotated[
        Limit,
        Meta(
            description="maximum events published per second by one address, and by one token; 0 for no limit"
        ),
    ] = 5000
    publish_burst: Annotated[Count, Meta(description="events published at once before that rate applies")] = (
        50_000
    )
    subscribed_channels: Annotated[
        Count, Meta(description="maximum different channels and patterns of all subscribers together")
    ] = 131_072
    lifetime: Annotated[
        float,
        Meta(
            ge=0,
            le=31_536_000,
            description="maximum seconds of a stream, minus a random part up to a tenth; 0 for no limit",
        ),
    ] = 0.0
    head_timeout: Annotated[
        Seconds, Meta(description="maximum seconds until a request's head has arrived")
    ] = 10.0
    body_timeout: Annotated[
        Seconds, Meta(description="maximum seconds until a published body has arrived")
    ] = 10.0
    drain_delay: Annotated[
        Span, Meta(description="seconds to keep serving after the stop signal, while /readyz answers 503")
    ] = 0.0
    drain_timeout: Annotated[
        Span, Meta(description="maximum seconds over which subscribers are disconnected at a stop")
    ] = 5.0
    shutdown_timeout: Annotated[
        Seconds, Meta(description="maximum seconds for the remaining requests after that")
    ] = 3.0
    event_loop: Annotated[EventLoop, Meta(description="event loop: auto, asyncio or uvloop")] = EventLoop.AUTO
    log_level: Annotated[
        LogLevel, Meta(description="lowest severity to log: debug, info, warning or error")
    ] = LogLevel.INFO
    log_format: Annotated[
        LogFormat,
        Meta(description="format of a log line: text, json, or auto (text on a terminal, else json)"),
    ] = LogFormat.AUTO
    metrics: Annotated[bool, Meta(description="serve metrics for Prometheus at GET /metrics")] = True
    metrics_channels: Annotated[
        tuple[Channel, ...],
        Meta(max_length=MOST_LABELLED, description="channels with metrics of their own, at most 100"),
    ] = ()
    console: Annotated[
        bool, Meta(description="serve the console, a page that shows what the server does, at GET /")
    ] = True
    channel: tuple[ChannelRule, ...] = ()
    caller: tuple[CallerRule, ...] = ()
    listener: tuple[ListenerRule, ...] = ()

    def __repr__(self) -> str:
        return "Config(...)"  # a traceback or a log may show this, and the settings hold secrets

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []  # rich and IPython print these pairs instead of the repr

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_certificate(self)
        _require_room(self)
        _require_not_hidden(self, "jwt_jwks")
        for name in ("token", "token_secret"):
            _require_not_hidden(self, name)
            if getattr(self, name) and getattr(self, f"{name}_file"):
                raise ConfigError(f"{name} and {name}_file: set only one of them")
        _require_different("caller", [repr(caller.name) for caller in self.caller])
        # Listeners on port 0 do not clash: each gets a free port of its own.
        places = [place for listener in self.listener if (place := _place(listener)) is not None]
        _require_different("listener", places)
        _require_different("listener", [repr(listener.name) for listener in self.listener if listener.name])

    @property
    def store_path(self) -> str | None:
        """The path of the file that keeps the history; None where memory does."""
        return None if self.backend == MEMORY else self.backend.removeprefix(SQLITE_PREFIX)

    @property
    def has_credentials(self) -> bool:
        """Whether any kind of token is configured."""
        static = self.token or self.token_file or self.caller
        signed = self.jwt_key_file or self.jwt_jwks or self.token_secret or self.token_secret_file
        return bool(static or signed)

    @property
    def has_anonymous_grants(self) -> bool:
        """Whether the settings grant anything to clients without a token."""
        return bool(self.anonymous_subscribe or self.anonymous_publish or self.anonymous_inspect)

    @property
    def open(self) -> bool:
        """Whether neither credentials nor anonymous grants are set: loopback clients may do everything."""
        return not (self.has_credentials or self.has_anonymous_grants)

    @property
    def listeners(self) -> tuple[ListenerRule, ...]:
        """The `[[listener]]` tables, or the one listener of `host`, `port`, `certificate` and `key`."""
        if self.listener:
            return self.listener
        return (ListenerRule(host=self.host, port=self.port, certificate=self.certificate, key=self.key),)


def config_or_default(config: Config | None) -> Config:
    """Return the configuration that a program gave, or the default one.

    Raises `TypeError` for anything but a `Config` or None.
    """
    if not (config is None or isinstance(config, Config)):
        kind = type(config).__name__
        raise TypeError(f"config: must be a Config, not {kind}; Config(queue_size=200) makes one")
    return config or Config()


def _require_certificate(place: Config | ListenerRule) -> None:
    if place.key and not place.certificate:
        raise ConfigError(f"key: {place.key!r} is set without certificate")


def _require_room(config: Config) -> None:
    if config.queue_bytes < config.max_event:
        raise ConfigError(
            f"queue_bytes: {config.queue_bytes} cannot hold one event of max_event, {config.max_event} bytes"
        )
    if config.publish_rate and config.publish_burst < config.max_batch:
        raise ConfigError(
            f"publish_burst: {config.publish_burst} cannot pass one batch of max_batch, "
            f"{config.max_batch} events"
        )


def _require_not_hidden(settings: msgspec.Struct, name: str) -> None:
    # A server started with the output of --show-config would have a token that everyone knows.
    if HIDDEN in (getattr(settings, name) or ""):
        raise ConfigError(f"{name}: {HIDDEN!r} stands for a secret, and is not one")


def _require_different(table: str, names: list[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"[[{table}]]: {min(twice)} appears twice")


def _place(listener: ListenerRule) -> str | None:
    if listener.path is not None:
        return repr(listener.host)
    return f"{listener.host!r} port {listener.port}" if listener.port else None
