"""Schema of the configuration: `Config`, its tables and their choices. Every setting is declared once.

The flag, environment variable, TOML key, help, line in `config.example.toml` and README row of a setting
all follow from its declaration here (see `sources`).
"""

from enum import StrEnum
from types import NoneType
from typing import Annotated, get_args

import msgspec
from msgspec import Meta

from sse_broadcast.config.values import (
    ADDRESS,
    HIDDEN,
    SECRET_MARK,
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
    Proxy,
    Seconds,
    Span,
    convert,
)
from sse_broadcast.errors import ConfigError
from sse_broadcast.unix_address import unix_path

MOST_LABELLED = 100
"""Maximum number of channels with metrics of their own: each adds several series."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of `Config` and of its tables: as strict in a program as in a file."""

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
    """What happens to an event for which a slow subscriber's queue has no room."""

    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"
    CONFLATE = "conflate"


class EventLoop(StrEnum):
    """Which event loop serves. `auto` is uvloop where it is installed."""

    AUTO = "auto"
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


class Endpoint(StrEnum):
    """A set of endpoints that a listener serves, named by what they are for."""

    SUBSCRIBE = "subscribe"
    """`/events`"""
    PUBLISH = "publish"
    """`/send`"""
    INSPECT = "inspect"
    """`/status`, `/channels` and what else tells of the server"""
    ADMIN = "admin"
    """`/tokens`, `/revoke`, `/reload` and what else changes something of the server"""


class ProxyHeader(StrEnum):
    """The header in which a trusted proxy names the client: it appends the address it was reached from."""

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"
    """RFC 7239"""


class LogLevel(StrEnum):
    """The least severe line that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """What a line of the log looks like. `auto` is text on a terminal, and JSON elsewhere."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class ChannelRule(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[[channel]]` table: settings of the channels that match a pattern. None leaves the server's.

    Raises `ConfigError` for a pattern that is none.
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
"""Whom the setting `token`, and the token that is made where there is none, are of."""


class CallerRule(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[[caller]]` table: a static token, and the channels in which its bearer may do what.

    The token is given in one of three ways: as itself, by the file or by the environment variable
    that holds it. Raises `ConfigError` for none of them or several.
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
            raise ConfigError(f"{self.name!r} needs one of token, token_file and token_env")
        if self.name in OWN_SUBJECTS:
            raise ConfigError(f"name: {self.name!r} is that of the server's own token")
        if self.admin not in {(), ("*",)}:
            raise ConfigError("admin: must be ['*'] or nothing, since it is of the server as a whole")
        _require_not_hidden(self, "token")


class ListenerRule(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[[listener]]` table: one place to listen, and which endpoints are served there.

    `host` is an address or, as `unix:/path`, a UNIX socket, which alone has a `mode` (octal digits) and an
    `owner` (`user`, `user:group` or `:group`). `name` is what a supervisor that opens its socket calls it.
    Raises `ConfigError` for what contradicts itself.
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
        if self.host.startswith("[") and self.host.endswith("]"):  # as in a URL
            msgspec.structs.force_setattr(self, "host", self.host[1:-1])
        _require_certificate(self)
        if self.path is None and (self.mode or self.owner):
            raise ConfigError(f"{self.host!r} has a mode or an owner, and is no UNIX socket")

    @property
    def private(self) -> bool:
        """Whether it is for operators: a listener that serves no subscribers."""
        return Endpoint.SUBSCRIBE not in self.endpoints

    @property
    def path(self) -> str | None:
        """The path of a UNIX socket; None of an address."""
        return unix_path(self.host)


class Config(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server behaves. Sizes are in bytes, times in seconds unless the name says otherwise.

    Raises `ConfigError` for values that contradict one another.
    """

    host: Annotated[
        Host,
        Meta(description="address to listen on, * for every address, or unix:/path for a UNIX socket"),
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="port to listen on; 0 takes a free one")] = 8000
    certificate: Annotated[str, Meta(description="TLS certificate chain, a PEM file; empty serves HTTP")] = ""
    key: Annotated[str, Meta(description="private key of the certificate, a PEM file")] = ""
    token: Annotated[str, Meta(description="token whose bearer may do everything", extra=SECRET_MARK)] = ""
    token_file: Annotated[str, Meta(description="file with a token whose bearer may do everything")] = ""
    anonymous_subscribe: Annotated[
        Patterns, Meta(description="channels and patterns that anyone may subscribe to")
    ] = ()
    anonymous_publish: Annotated[
        Patterns, Meta(description="channels and patterns that anyone may publish to")
    ] = ()
    anonymous_inspect: Annotated[
        Patterns, Meta(description="channels and patterns that anyone may ask about; * is the server too")
    ] = ()
    insecure_publish: Annotated[
        bool, Meta(description="let everyone who reaches the server publish, to every channel")
    ] = False
    cookie: Annotated[
        Cookie, Meta(description="name of a cookie that may carry a token; empty takes none")
    ] = ""
    jwt_key_file: Annotated[
        str, Meta(description="key that JWTs are signed with: a public key as PEM, or an HS256 secret")
    ] = ""
    jwt_jwks: Annotated[
        str, Meta(description="JWKS that JWTs are signed with: a file, or an https URL", extra=ADDRESS)
    ] = ""
    jwt_jwks_refresh: Annotated[Seconds, Meta(description="seconds after which a JWKS is read again")] = 300.0
    jwt_issuer: Annotated[str, Meta(description="issuer that JWTs must be of (iss); empty takes any")] = ""
    jwt_audience: Annotated[
        str,
        Meta(description="audience that JWTs must be for (aud); empty takes those for nobody in particular"),
    ] = ""
    jwt_claim: Annotated[Claim, Meta(description="claim of a JWT that says what its bearer may do")] = (
        "grants"
    )
    token_secret: Annotated[
        str,
        Meta(
            description="secret that the server's own tokens are signed with; empty makes one",
            extra=SECRET_MARK,
        ),
    ] = ""
    token_secret_file: Annotated[
        str, Meta(description="file with the secret that the server's own tokens are signed with")
    ] = ""
    token_lifetime: Annotated[
        Seconds, Meta(description="seconds that a token the server makes is good for, at most")
    ] = 3600.0
    allowed_hosts: Annotated[
        tuple[HostName, ...],
        Meta(description="names, beside loopback's, by which a server without tokens is called"),
    ] = ()
    cors_origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description="origins whose pages may use the server: https://example.com, https://*.example.com"
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[Proxy, ...],
        Meta(description="proxies believed about a client's address: addresses, networks, or unix"),
    ] = ()
    proxy_header: Annotated[
        ProxyHeader,
        Meta(description="header, and the only one, they are believed in: x-forwarded-for or forwarded"),
    ] = ProxyHeader.X_FORWARDED_FOR
    queue_size: Annotated[Count, Meta(description="events that may wait for one subscriber")] = 1000
    queue_bytes: Annotated[Bytes, Meta(description="bytes of events that may wait for one subscriber")] = (
        4_194_304
    )
    overflow: Annotated[
        Overflow,
        Meta(description="what a full queue does: disconnect, drop-oldest, drop-newest or conflate"),
    ] = Overflow.DISCONNECT
    max_event: Annotated[Bytes, Meta(description="bytes of one event, as data and as an encoded frame")] = (
        1_048_576
    )
    max_batch: Annotated[Count, Meta(description="events of one batch")] = 1000
    max_body: Annotated[Bytes, Meta(description="bytes of a published batch")] = 4_194_304
    max_channels: Annotated[
        Count, Meta(description="channels and patterns of one subscriber, channels of one publish")
    ] = 100
    max_patterns: Annotated[Count, Meta(description="patterns among the channels of one subscriber")] = 10
    history_size: Annotated[
        int, Meta(ge=0, description="events held of each channel for subscribers that come back")
    ] = 1000
    history_age: Annotated[
        float, Meta(ge=0.01, le=31_536_000, description="seconds an event is held at most")
    ] = 3600.0
    history_bytes: Annotated[
        int, Meta(ge=0, description="bytes of memory for the history of each channel")
    ] = 8_388_608
    history_total: Annotated[
        int, Meta(ge=0, description="bytes of memory for all history; the fullest channel gives first")
    ] = 134_217_728
    history_channels: Annotated[Count, Meta(description="channels whose history is remembered")] = 131_072
    idempotency_window: Annotated[
        Seconds, Meta(description="seconds in which an Idempotency-Key publishes once")
    ] = 300.0
    send_buffer: Annotated[
        int,
        Meta(
            ge=0,
            le=2**31 - 1,
            description="bytes the kernel may hold for one subscriber (SO_SNDBUF); 0 lets it decide",
        ),
    ] = 131_072
    write_timeout: Annotated[Seconds, Meta(description="seconds a subscriber's socket may stay full")] = 30.0
    heartbeat: Annotated[
        Seconds,
        Meta(description="seconds of silence before a heartbeat, where a subscriber asks for no other"),
    ] = 4.0
    retry: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400_000,
            description="milliseconds after which a subscriber reconnects, give or take half",
        ),
    ] = 3000
    max_connections: Annotated[
        int, Meta(ge=0, description="connections at one time; 0 is as many as descriptors allow")
    ] = 0
    max_connections_per_address: Annotated[
        Limit, Meta(description="connections of one address, or of one /64 of IPv6; 0 for any number")
    ] = 1000
    max_connections_per_token: Annotated[
        Limit, Meta(description="streams of one token at one time; 0 for any number")
    ] = 10_000
    subscribe_rate: Annotated[
        Limit, Meta(description="streams opened in a second, by everyone together; 0 for any number")
    ] = 5000
    subscribe_burst: Annotated[Count, Meta(description="streams opened at once before that rate holds")] = (
        20_000
    )
    publish_rate: Annotated[
        Limit,
        Meta(description="events published in a second by one address, and by one token; 0 for any number"),
    ] = 5000
    publish_burst: Annotated[Count, Meta(description="events published at once before that rate holds")] = (
        50_000
    )
    subscribed_channels: Annotated[
        Count, Meta(description="different channels and patterns that subscribers follow, all together")
    ] = 131_072
    lifetime: Annotated[
        float,
        Meta(
            ge=0, le=31_536_000, description="seconds a stream lasts at most, less up to a tenth; 0 for ever"
        ),
    ] = 0.0
    head_timeout: Annotated[Seconds, Meta(description="seconds a new connection may take to ask")] = 10.0
    body_timeout: Annotated[Seconds, Meta(description="seconds a published body may take to arrive")] = 10.0
    drain_delay: Annotated[
        Span, Meta(description="seconds of serving on after the stop signal, while /readyz says no")
    ] = 0.0
    drain_timeout: Annotated[Span, Meta(description="seconds over which subscribers are let go at most")] = (
        5.0
    )
    shutdown_timeout: Annotated[Seconds, Meta(description="seconds that what is left may take then")] = 3.0
    event_loop: Annotated[EventLoop, Meta(description="event loop: auto, asyncio or uvloop")] = EventLoop.AUTO
    log_level: Annotated[
        LogLevel, Meta(description="least severe line logged: debug, info, warning or error")
    ] = LogLevel.INFO
    log_format: Annotated[
        LogFormat,
        Meta(description="form of a logged line: text, json, or auto: text on a terminal, else json"),
    ] = LogFormat.AUTO
    metrics: Annotated[bool, Meta(description="tell Prometheus, at GET /metrics, what was counted")] = True
    metrics_channels: Annotated[
        tuple[Channel, ...],
        Meta(max_length=MOST_LABELLED, description="channels that have metrics of their own, 100 at most"),
    ] = ()
    channel: tuple[ChannelRule, ...] = ()
    caller: tuple[CallerRule, ...] = ()
    listener: tuple[ListenerRule, ...] = ()

    def __repr__(self) -> str:
        return "Config(...)"  # there are secrets in it

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []  # what rich and IPython would print instead

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
        # Each port 0 is another.
        places = [place for listener in self.listener if (place := _place(listener)) is not None]
        _require_different("listener", places)
        _require_different("listener", [repr(listener.name) for listener in self.listener if listener.name])

    @property
    def has_credentials(self) -> bool:
        """Whether any token can be told from another by what is configured."""
        static = self.token or self.token_file or self.caller
        signed = self.jwt_key_file or self.jwt_jwks or self.token_secret or self.token_secret_file
        return bool(static or signed)

    @property
    def has_anonymous_grants(self) -> bool:
        """Whether it is said what may be done without a token."""
        return bool(self.anonymous_subscribe or self.anonymous_publish or self.anonymous_inspect)

    @property
    def open(self) -> bool:
        """Whether nothing tells callers apart: whoever comes by the loopback may do everything."""
        return not (self.has_credentials or self.has_anonymous_grants)

    @property
    def listeners(self) -> tuple[ListenerRule, ...]:
        """Where to listen: the tables, or the one place that the plain settings say."""
        if self.listener:
            return self.listener
        return (ListenerRule(host=self.host, port=self.port, certificate=self.certificate, key=self.key),)


def config_or_default(config: Config | None) -> Config:
    """Return a program's configuration, or the default one. Raises `TypeError` for what is none."""
    if not (config is None or isinstance(config, Config)):
        kind = type(config).__name__
        raise TypeError(f"config: must be a Config, not {kind}; Config(queue_size=200) makes one")
    return config or Config()


def _require_certificate(place: Config | ListenerRule) -> None:
    if place.key and not place.certificate:
        raise ConfigError(f"key: {place.key!r} is given without a certificate, the setting beside it")


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
    # Whoever starts a server with what --show-config printed would share its secret with everyone.
    if HIDDEN in (getattr(settings, name) or ""):
        raise ConfigError(f"{name}: {HIDDEN!r} stands for a secret, and is none")


def _require_different(table: str, names: list[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"[[{table}]]: {min(twice)} is there twice")


def _place(listener: ListenerRule) -> str | None:
    if listener.path is not None:
        return repr(listener.host)
    return f"{listener.host!r} port {listener.port}" if listener.port else None
