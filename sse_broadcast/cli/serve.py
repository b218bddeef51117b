"""`sse-broadcast serve`."""

import enum
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from sse_broadcast.cli.banner import print_banner
from sse_broadcast.cli.check import check_all
from sse_broadcast.cli.common import Exit, fail
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.config.sources import (
    ENV_PREFIX,
    PLACE,
    RULES,
    SETTINGS,
    ActiveSources,
    LoadedConfig,
    Setting,
    load,
    unknown_variables,
)
from sse_broadcast.config.values import shown
from sse_broadcast.errors import BroadcastError, ConfigError
from sse_broadcast.logs.pipeline import LogPipeline
from sse_broadcast.server.runner import run

logger = logging.getLogger("sse_broadcast.process")

SECRETS = [setting for setting in SETTINGS.values() if setting.secret]

EPILOG = f"""\b
Examples:
  sse-broadcast serve
  sse-broadcast serve --port 9000 --queue-size 200 --overflow drop-oldest
  sse-broadcast serve --anonymous-subscribe 'news,orders.*' --token-file token
  sse-broadcast serve --config config.toml --show-config
  sse-broadcast serve --config config.toml --check
  {ENV_PREFIX}PORT=9000 sse-broadcast serve

Every setting is also an environment variable ({ENV_PREFIX}QUEUE_SIZE) and a key of the TOML file
(queue_size). A flag overrides the variable, the variable overrides the file, and the file overrides
the default. Separate the values of a list with commas; in the file, write an array. The file may
also have the tables [[channel]], [[caller]] and [[listener]].

\b
Secrets have no flag, since every user of this machine can read the flags of a
process. They have a variable and a key:
  {", ".join(f"{setting.variable} ({setting.name})" for setting in SECRETS)}

Exit codes: 0 stopped by a signal, every stream ended; 2 bad usage or setting; 3 cannot listen;
4 the certificate cannot be loaded or, with --check, no client would accept it now; 5 stopped by a
second signal; 6 the output of --check or --show-config cannot be written; 7 the store of the history
cannot be used."""


SECTIONS: Mapping[str, Sequence[str]] = {
    "Where it listens": ("host", "port", "certificate", "key"),
    "Who may do what": (
        "token_file",
        "anonymous_subscribe",
        "anonymous_publish",
        "anonymous_inspect",
        "insecure_publish",
        "cookie",
        "jwt_key_file",
        "jwt_jwks",
        "jwt_jwks_refresh",
        "jwt_issuer",
        "jwt_audience",
        "jwt_claim",
        "token_secret_file",
        "token_lifetime",
    ),
    "Browsers and proxies": ("console", "allowed_hosts", "cors_origins", "trusted_proxies", "proxy_header"),
    "Events": ("max_event", "max_batch", "max_body", "idempotency_window"),
    "History": (
        "backend",
        "durability",
        "history_size",
        "history_age",
        "history_bytes",
        "history_total",
        "history_channels",
        "history_memory",
    ),
    "Subscribers": (
        "queue_size",
        "queue_bytes",
        "overflow",
        "send_buffer",
        "write_timeout",
        "heartbeat",
        "retry",
        "lifetime",
    ),
    "Limits": (
        "max_channels",
        "max_patterns",
        "max_connections",
        "max_connections_per_address",
        "max_connections_per_token",
        "subscribe_rate",
        "subscribe_burst",
        "publish_rate",
        "publish_burst",
        "subscribed_channels",
        "head_timeout",
        "body_timeout",
    ),
    "Stopping": ("drain_delay", "drain_timeout", "shutdown_timeout"),
    "Logs and metrics": ("log_level", "log_format", "metrics", "metrics_channels"),
    "Process": ("event_loop", "banner", "file", "show_config", "check"),
}
"""The headings of `--help`, and what is below each."""

METAVARS = {
    "host": "HOST",
    "port": "PORT",
    "certificate": "PATH",
    "key": "PATH",
    "jwt_jwks": "PATH|URL",
    "cookie": "NAME",
    "jwt_issuer": "TEXT",
    "jwt_audience": "TEXT",
    "jwt_claim": "NAME",
    "anonymous_subscribe": "PATTERN",
    "anonymous_publish": "PATTERN",
    "anonymous_inspect": "PATTERN",
    "metrics_channels": "CHANNEL",
    "allowed_hosts": "HOST",
    "cors_origins": "ORIGIN",
    "trusted_proxies": "ADDRESS",
    "subscribe_rate": "PER-SECOND",
    "publish_rate": "PER-SECOND",
    "retry": "MILLISECONDS",
    "send_buffer": "BYTES",
    "queue_bytes": "BYTES",
    "max_event": "BYTES",
    "max_body": "BYTES",
    "history_bytes": "BYTES",
    "history_total": "BYTES",
    "history_memory": "BYTES",
    "backend": "memory|sqlite:///PATH",
}
"""What the values of settings are, where their types do not tell."""


def _metavar(setting: Setting) -> str:
    """Return what a value is called in `--help`."""
    if isinstance(setting.default, enum.Enum):
        return "|".join(type(setting.default))
    if isinstance(setting.default, bool):
        return "true|false"
    if isinstance(setting.default, float):
        return "SECONDS"
    if isinstance(setting.default, int):
        return "N"
    return "PATH" if setting.name.endswith("_file") else "TEXT"


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each setting that is not secret, in the order of their declaration."""
    for setting in reversed(list(SETTINGS.values())):
        if not setting.secret:
            command = _option(setting)(command)
    return command


def _option(setting: Setting) -> Callable[[Callable[..., None]], Callable[..., None]]:
    if setting.switch:
        return click.option(setting.flag, setting.name, flag_value="true", help=setting.sentence)
    metavar = METAVARS.get(setting.name) or _metavar(setting)
    if setting.several:
        return click.option(setting.flag, setting.name, metavar=f"{metavar},...", help=setting.sentence)
    default = "true" if setting.default is True else "none" if setting.default == "" else setting.default
    text = f"{setting.sentence}  [default: {default}]"
    return click.option(setting.flag, setting.name, metavar=metavar, help=text)


@click.command(cls=StyledCommand, sections=SECTIONS, epilog=EPILOG)
@setting_options
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    envvar=ENV_PREFIX + "CONFIG",
    metavar="FILE",
    help="Read settings from a TOML file.",
)
@click.option(
    "--banner/--no-banner",
    default=None,
    envvar=ENV_PREFIX + "BANNER",
    help="Print where the server listens and what to try. By default only on a terminal.",
)
@click.option("--show-config", is_flag=True, help="Print every setting with its source, and exit.")
@click.option(
    "--check", is_flag=True, help="Check settings, keys and certificates without listening, and exit."
)
def serve(
    file: Path | None, *, show_config: bool, check: bool, banner: bool | None, **flags: str | None
) -> None:
    """Run the server until a signal stops it."""
    try:
        loaded = load(flags, file=file)
        with LogPipeline(loaded.config.log_level, loaded.config.log_format) as log:
            for name, meant in unknown_variables(os.environ).items():
                hint = "; did you mean %(meant)s?" if meant else ""
                logger.warning(f"%(name)s: no such setting, ignored{hint}", {"name": name, "meant": meant})  # noqa: G004
            if show_config:
                click.echo(shown_config(loaded), nl=False)
            elif check:
                check_all(loaded)
            else:
                sources = ActiveSources(loaded)
                run(
                    loaded.config,
                    log,
                    started=functools.partial(print_banner, config=loaded.config, shown=shows_banner(banner)),
                    forced=functools.partial(_exit_at_once, log),
                    load=functools.partial(sources.load, functools.partial(load_again, flags, file)),
                    sources=sources,
                )
    except BroadcastError as error:
        fail(error)


def shows_banner(banner: bool | None) -> bool:  # noqa: FBT001 - as click gives it
    """Return whether the banner is printed: as the user says, or where a terminal shows it."""
    return sys.stdout.isatty() if banner is None else banner


def load_again(flags: Mapping[str, str | None], file: Path | None) -> LoadedConfig:
    """Load every setting again, from the same flags, variables and file. Raises `ConfigError`."""
    # A pipe (`--config <(...)`) is empty the second time: the server would go on without credentials.
    if file is not None and file.exists() and not file.is_file():
        raise ConfigError(f"{file}: is not a file that can be read again")
    return load(flags, file=file)


def shown_config(loaded: LoadedConfig) -> str:
    """Return the configuration as TOML, each value with its source. Secrets are masked."""
    config, sources = loaded.config, loaded.sources
    names = [name for name in SETTINGS if not (config.listener and name in PLACE)]
    lines = [_line(name, SETTINGS[name].type, getattr(config, name)) for name in names]
    width = max(map(len, lines))
    settings = (f"{line:<{width}}  # {sources[name]}\n" for line, name in zip(lines, names, strict=True))
    rules = (_rule(table, rule, sources[table]) for table in RULES for rule in getattr(config, table))
    return "".join([*settings, *rules])


def _rule(table: str, rule: msgspec.Struct, source: str) -> str:
    lines = (
        f"{_line(field.name, field.type, value)}\n"
        for field in msgspec.structs.fields(rule)
        if (value := getattr(rule, field.name)) not in (None, "", ())
    )
    return f"\n[[{table}]]  # {source}\n{''.join(lines)}"


def _line(name: str, kind: object, value: object) -> str:
    return f"{name} = {_toml(shown(kind, value))}"


def _toml(value: object) -> str:
    # TOML takes JSON's strings and numbers, except surrogate pairs and an unescaped DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _exit_at_once(log: LogPipeline) -> NoReturn:
    logger.warning("stopped by a second signal: open streams were aborted")
    log.close()
    os._exit(Exit.FORCED)
