"""Config: every setting, declared once.

A setting's flag, environment variable, TOML key, help, line in `config.example.toml` and
row in the README all follow from its declaration here.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sse_broadcast.errors import ConfigError

ENV_PREFIX = "SSE_BROADCAST_"

_SERVICE_LINK = re.compile(ENV_PREFIX + r"(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_\w+)")
"""What Kubernetes puts into the environment of every pod beside a service named sse-broadcast."""


class Overflow(StrEnum):
    """What happens to an event for which a slow reader's queue has no room."""

    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"
    CONFLATE = "conflate"


class EventLoop(StrEnum):
    """Which event loop serves. `auto` is uvloop where it is installed."""

    AUTO = "auto"
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


class LogLevel(StrEnum):
    """The least severe line that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class ChannelRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[[channel]]` table: settings of the channels that match a pattern. None leaves the server's."""

    match: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:@~*-]{1,128}$")]
    history_size: Annotated[int, Meta(ge=0)] | None = None
    history_age: Annotated[float, Meta(ge=0.01)] | None = None
    history_bytes: Annotated[int, Meta(ge=0)] | None = None
    overflow: Overflow | None = None
    retry: Annotated[int, Meta(ge=0, le=86_400_000)] | None = None


Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0.01, le=86_400)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server behaves. Sizes are in bytes, times in seconds unless the name says otherwise.

    Raises `ConfigError` for values that contradict one another.
    """

    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="port to listen on; 0 takes a free one")] = 8000
    certificate: Annotated[str, Meta(description="TLS certificate chain, a PEM file; empty serves HTTP")] = ""
    key: Annotated[str, Meta(description="private key of the certificate, a PEM file")] = ""
    queue_size: Annotated[Count, Meta(description="events that may wait for one reader")] = 1000
    queue_bytes: Annotated[Bytes, Meta(description="bytes of events that may wait for one reader")] = (
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
        Count, Meta(description="channels and patterns of one reader, channels of one publish")
    ] = 100
    history_size: Annotated[
        int, Meta(ge=0, description="events held of each channel for readers that come back")
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
            description="bytes the kernel may hold for one reader (SO_SNDBUF); 0 lets it decide",
        ),
    ] = 131_072
    write_timeout: Annotated[Seconds, Meta(description="seconds a reader's socket may stay full")] = 30.0
    heartbeat: Annotated[Seconds, Meta(description="seconds of silence before a heartbeat")] = 15.0
    retry: Annotated[
        int,
        Meta(
            ge=0, le=86_400_000, description="milliseconds after which a reader reconnects, give or take half"
        ),
    ] = 3000
    max_connections: Annotated[
        int, Meta(ge=0, description="connections at one time; 0 is as many as descriptors allow")
    ] = 0
    body_timeout: Annotated[Seconds, Meta(description="seconds a published body may take to arrive")] = 10.0
    shutdown_timeout: Annotated[Seconds, Meta(description="seconds from the stop signal to the exit")] = 8.0
    event_loop: Annotated[EventLoop, Meta(description="event loop: auto, asyncio or uvloop")] = EventLoop.AUTO
    log_level: Annotated[
        LogLevel, Meta(description="least severe line logged: debug, info, warning or error")
    ] = LogLevel.INFO
    channel: tuple[ChannelRule, ...] = ()

    def __post_init__(self) -> None:
        if self.queue_bytes < self.max_event:
            raise ConfigError(
                f"queue_bytes: {self.queue_bytes} cannot hold one event of max_event, {self.max_event} bytes"
            )
        if self.key and not self.certificate:
            raise ConfigError(f"key: {self.key!r} is given without a certificate")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting under each of its names."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return ENV_PREFIX + self.name.upper()

    @property
    def sentence(self) -> str:
        """The help as a sentence."""
        return f"{self.help[0].upper()}{self.help[1:]}."

    def parse(self, text: str) -> object:
        """Give the value that `text` says. Raises `msgspec.ValidationError`."""
        return msgspec.convert(text, self.type, strict=False)

    def accept(self, value: object) -> object:
        """Give a value that already has a type, if it is the right one. Raises `msgspec.ValidationError`."""
        return msgspec.convert(value, self.type)


def _describe(field: msgspec.structs.FieldInfo) -> Setting:
    kind = field.type
    metas = [meta for meta in kind.__metadata__ if isinstance(meta, Meta)]
    (text,) = [meta.description for meta in metas if meta.description]
    return Setting(field.name, kind, field.default, text)


RULES = "channel"
"""The key of the rules for channels; they are set in the file alone."""

SETTINGS: Mapping[str, Setting] = {
    field.name: _describe(field) for field in msgspec.structs.fields(Config) if field.name != RULES
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where each of its values came from (`default`, a flag, a variable, a file)."""

    config: Config
    sources: Mapping[str, str]


def load(
    flags: Mapping[str, str | None], *, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> Loaded:
    """Settle every setting: a flag, then `SSE_BROADCAST_*`, then the TOML file, then the default.

    `flags` maps setting names to what was typed, or None. Raises `ConfigError` naming the
    source, the setting and the value that cannot be used.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(SETTINGS, "default")
    for layer in (
        _from_file(file),
        _from_environ(os.environ if environ is None else environ),
        _from_flags(flags),
    ):
        for name, (value, source) in layer.items():
            values[name], sources[name] = value, source
    return Loaded(Config(**values), sources)


Layer = dict[str, tuple[Any, str]]


def _from_flags(flags: Mapping[str, str | None]) -> Layer:
    layer: Layer = {}
    for name, text in flags.items():
        if text is not None:
            setting = SETTINGS[name]
            layer[name] = (_checked(setting, setting.parse, text, setting.flag), setting.flag)
    return layer


def _from_environ(environ: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for setting in SETTINGS.values():
        text = environ.get(setting.variable)
        if text is None or _is_service_link(setting, text):
            continue
        layer[setting.name] = (_checked(setting, setting.parse, text, setting.variable), setting.variable)
    return layer


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Give the variables that look like settings and are none: most often a typing error."""
    known = {setting.variable for setting in SETTINGS.values()} | {ENV_PREFIX + "CONFIG", ENV_PREFIX + "URL"}
    return sorted(
        name
        for name in environ
        if name.startswith(ENV_PREFIX) and name not in known and not _SERVICE_LINK.fullmatch(name)
    )


def _is_service_link(setting: Setting, text: str) -> bool:
    # And SSE_BROADCAST_PORT=tcp://10.0.0.1:80 with them: an address of the service, no port of ours.
    return setting.name == "port" and text.startswith("tcp://")


def _from_file(file: Path | None) -> Layer:
    if file is None:
        return {}
    layer: Layer = {}
    for name, value in _read_toml(file).items():
        if name == RULES:
            layer[name] = (_rules(value, file), str(file))
            continue
        setting = SETTINGS.get(name)
        if setting is None:
            raise ConfigError(f"{file}: {name}: no such setting (its value is {value!r})")
        layer[name] = (_checked(setting, setting.accept, value, f"{file}: {name}"), str(file))
    return layer


def _rules(value: object, file: Path) -> tuple[ChannelRule, ...]:
    try:
        return msgspec.convert(value, tuple[ChannelRule, ...])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: [[{RULES}]]: {str(error)[:1].lower()}{str(error)[1:]}") from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from None


def _checked(setting: Setting, convert: Callable[[Any], object], value: object, where: str) -> object:
    try:
        return convert(value)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_expected(setting, error)}, not {value!r}") from None


def _expected(setting: Setting, error: msgspec.ValidationError) -> str:
    kind = setting.type.__origin__
    if issubclass(kind, StrEnum):
        return "expected one of " + ", ".join(kind)
    return str(error).lower().partition(", got ")[0]
