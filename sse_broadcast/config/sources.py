"""Sources of the settings: a flag overrides a variable, then comes the TOML file, then the default."""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import msgspec

from sse_broadcast.config.schema import CallerRule, ChannelRule, Config, ListenerRule
from sse_broadcast.config.suggestions import nearest
from sse_broadcast.config.values import convert, is_secret, may_be_address, metas
from sse_broadcast.errors import ConfigError

ENV_PREFIX = "SSE_BROADCAST_"

SETTING_SIMILARITY = 0.75
"""difflib's ratio for names of settings, lower than elsewhere: `prot` must suggest `port`."""

OTHER_VARIABLES = ("BANNER", "CONFIG", "URL")
"""Variables of commands that are no settings of a server."""

_SERVICE_LINK = re.compile(ENV_PREFIX + r"(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_\w+)")
"""Variables that Kubernetes sets in every pod beside a service named sse-broadcast."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, with its name in each source."""

    name: str
    type: Any
    default: Any
    help: str
    secret: bool = False
    """Whether the value is never shown. It has no flag: every user of the machine can read the flags."""

    @property
    def private(self) -> bool:
        """Whether the value is a secret, or may contain one."""
        return self.secret or may_be_address(self.type)

    @property
    def switch(self) -> bool:
        """Whether the flag takes no value: it switches on a setting that is off by default."""
        return self.default is False

    @property
    def _kind(self) -> object:
        return self.type.__origin__

    @property
    def several(self) -> bool:
        """Whether the setting is a list. A flag and a variable separate the values with commas."""
        return get_origin(self._kind) is tuple

    @property
    def flag(self) -> str:
        """The option on the command line, with its dashes."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def sentence(self) -> str:
        """The help with a capital letter and a full stop."""
        return f"{self.help[0].upper()}{self.help[1:]}."

    def parse(self, text: str, where: str) -> object:
        """Convert a text from a flag or a variable. Raises `ConfigError`; its message starts with `where`."""
        said = [each.strip() for each in text.split(",") if each.strip()] if self.several else text
        return convert(said, self.type, where, strict=False)

    def accept(self, value: object, where: str) -> object:
        """Check a value of a file, which already has a type. Raises `ConfigError`."""
        return convert(value, self.type, where, strict=True)


def _describe(field: msgspec.structs.FieldInfo) -> Setting:
    (text,) = [meta.description for meta in metas(field.type) if meta.description]
    return Setting(field.name, field.type, field.default, text, is_secret(field.type))


RULES: Mapping[str, type[msgspec.Struct]] = {
    "channel": ChannelRule,
    "caller": CallerRule,
    "listener": ListenerRule,
}
"""The tables, by their keys: `[[channel]]` and so on. Only the file can have them."""

SETTINGS: Mapping[str, Setting] = {
    field.name: _describe(field) for field in msgspec.structs.fields(Config) if field.name not in RULES
}

PLACE = ("host", "port", "certificate", "key")
"""The settings of the one listener, without `[[listener]]` tables."""


RESTART_ONLY = frozenset(
    {
        "host",
        "port",
        "listener",
        "backend",
        "durability",
        "history_memory",
        "history_total",
        "history_channels",
        "idempotency_window",
        "send_buffer",
        "write_timeout",
        "heartbeat",
        "head_timeout",
        "shutdown_timeout",
        "event_loop",
        "log_format",
        "metrics",
        "metrics_channels",
    }
)
"""Settings that only a restart changes. A reload changes all others, for new streams and requests."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """The result of a reload: the configuration now in force, and the names of the settings that differ.

    `restart` names the settings that only a restart changes: `config` has their old values.
    """

    config: Config
    changed: tuple[str, ...]
    restart: tuple[str, ...]


def change_of(before: Config, after: Config) -> ConfigChange:
    """Split the differences between two configurations by whether a reload may apply them."""
    names = [name for name in Config.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    restart = tuple(name for name in names if _needs_restart(name, before, after))
    config = msgspec.structs.replace(after, **{name: getattr(before, name) for name in restart})
    return ConfigChange(config, tuple(name for name in names if name not in restart), restart)


def _needs_restart(name: str, before: Config, after: Config) -> bool:
    if name in {"certificate", "key"}:
        return bool(before.certificate) != bool(after.certificate)
    if name == "listener":
        return list(map(_bare_place, before.listener)) != list(map(_bare_place, after.listener))
    return name in RESTART_ONLY


def _bare_place(rule: ListenerRule) -> ListenerRule:
    """Return a listener without its certificate files: they may change, but TLS stays on or off."""
    return msgspec.structs.replace(rule, certificate="TLS" if rule.certificate else "", key="")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, and the source of each value: `default`, a flag, a variable or a file."""

    config: Config
    sources: Mapping[str, str]


PROGRAM = "program"
"""The source of a value that a program gave to `Config` itself."""


class ActiveSources:
    """Where each value of the active configuration came from, also after reloads.

    A value that only a restart changes keeps its source when a reload finds another value.
    """

    def __init__(self, loaded: LoadedConfig) -> None:
        self.active = loaded
        self._next = loaded

    @staticmethod
    def of(config: Config) -> "ActiveSources":
        """Return the sources of a configuration that a program made."""
        default = Config()
        names = [*SETTINGS, *RULES]
        differs = (name for name in names if getattr(config, name) != getattr(default, name))
        return ActiveSources(
            LoadedConfig(config, {**dict.fromkeys(SETTINGS, "default"), **dict.fromkeys(differs, PROGRAM)})
        )

    def load(self, load: Callable[[], LoadedConfig]) -> Config:
        """Load for a reload, which may run in a thread. Nothing changes before the reload's commit."""
        self._next = load()
        return self._next.config

    def prepare(self, config: Config) -> Callable[[], None]:
        """Return what has the sources be those of `config`, which a reload is about to make active."""
        before, found = self.active.sources, self._next
        sources = dict(found.sources)
        for name in Config.__struct_fields__:
            if getattr(config, name) != getattr(found.config, name):
                sources[name] = before.get(name, PROGRAM)

        def commit() -> None:
            self.active = LoadedConfig(config, sources)

        return commit


def load(
    flags: Mapping[str, str | None], *, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> LoadedConfig:
    """Merge the sources: a flag, then `SSE_BROADCAST_*`, then the TOML file, then the default.

    `flags` maps setting names to the text given, or None. Raises `ConfigError`, naming the source, the
    setting and the value.
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
    config = Config(**values)
    _require_one_place(config, sources)
    return LoadedConfig(config, sources)


def _require_one_place(config: Config, sources: Mapping[str, str]) -> None:
    # A container image sets SSE_BROADCAST_HOST as its default: [[listener]] tables silently override it.
    unsaid = {"default", *(SETTINGS[name].variable for name in PLACE)}
    for name in PLACE:
        if config.listener and sources[name] not in unsaid:
            raise ConfigError(
                f"{name}: is given by {sources[name]}, and there are [[listener]] tables: remove one of them"
            )


Layer = dict[str, tuple[Any, str]]


def _from_flags(flags: Mapping[str, str | None]) -> Layer:
    layer: Layer = {}
    for name, text in flags.items():
        if text is not None:
            setting = SETTINGS[name]
            layer[name] = (setting.parse(text, setting.flag), setting.flag)
    return layer


def _from_environ(environ: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for setting in SETTINGS.values():
        text = environ.get(setting.variable)
        if text is None or _is_service_link(setting, text):
            continue
        layer[setting.name] = (setting.parse(text, setting.variable), setting.variable)
    return layer


def unknown_variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables that look like settings but are not, each with a suggestion or ""."""
    known = {setting.variable for setting in SETTINGS.values()} | {
        ENV_PREFIX + name for name in OTHER_VARIABLES
    }
    return {
        name: _meant(name, known)
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and name not in known and not _SERVICE_LINK.fullmatch(name)
    }


def _meant(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most similar to an unknown one, or ""."""
    # Compared without the common prefix, which would make every variable similar to every other.
    names = {each.removeprefix(ENV_PREFIX).lower(): each for each in known}
    said = name.removeprefix(ENV_PREFIX).lower().replace("-", "_")
    near = nearest(said, names, ratio=SETTING_SIMILARITY)
    return names[near] if near else ""


def _hint(name: str, known: Iterable[str]) -> str:
    meant = _meant(name, known)
    return f"; did you mean {meant}?" if meant else ""


def _is_service_link(setting: Setting, text: str) -> bool:
    # Kubernetes also sets SSE_BROADCAST_PORT=tcp://10.0.0.1:80: the service's address, not a port of ours.
    return setting.name == "port" and text.startswith("tcp://")


def _from_file(file: Path | None) -> Layer:
    if file is None:
        return {}
    layer: Layer = {}
    for name, value in _read_toml(file).items():
        if name in RULES:
            layer[name] = (_rules(name, value, file), str(file))
            continue
        setting = SETTINGS.get(name)
        if setting is None:
            raise ConfigError(f"{file}: {name}: no such setting{_hint(name, [*SETTINGS, *RULES])}")
        layer[name] = (setting.accept(value, f"{file}: {name}"), str(file))
    return layer


def _rules(name: str, value: object, file: Path) -> tuple[msgspec.Struct, ...]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ConfigError(f"{file}: {name}: expected tables, each below a line [[{name}]]")
    return tuple(
        _rule(RULES[name], table, f"{file}: [[{name}]] number {number}")
        for number, table in enumerate(value, 1)
    )


def _rule(kind: type[msgspec.Struct], table: dict[str, Any], where: str) -> msgspec.Struct:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    if unknown := table.keys() - fields.keys():
        name = min(unknown)
        raise ConfigError(f"{where}: {name}: no such setting{_hint(name, fields)}")
    if missing := [name for name, field in fields.items() if field.required and name not in table]:
        raise ConfigError(f"{where}: {missing[0]}: is missing")
    values = {
        name: convert(value, fields[name].type, f"{where}: {name}", strict=True)
        for name, value in table.items()
    }
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from None
