"""`sse-broadcast serve`."""

import functools
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from sse_broadcast.cli.banner import print_banner
from sse_broadcast.cli.check import check_all
from sse_broadcast.cli.common import Exit, fail
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


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each setting that is not secret, in the order of their declaration."""
    for setting in reversed(list(SETTINGS.values())):
        if not setting.secret:
            command = _option(setting)(command)
    return command


def _option(setting: Setting) -> Callable[[Callable[..., None]], Callable[..., None]]:
    if setting.switch:
        return click.option(setting.flag, setting.name, flag_value="true", help=setting.sentence)
    if setting.several:
        return click.option(setting.flag, setting.name, metavar="VALUE,...", help=setting.sentence)
    default = "true" if setting.default is True else "none" if setting.default == "" else setting.default
    text = f"{setting.sentence}  [default: {default}]"
    return click.option(setting.flag, setting.name, metavar="VALUE", help=text)


@click.command(epilog=EPILOG)
@setting_options
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    envvar=ENV_PREFIX + "CONFIG",
    metavar="FILE",
    help="Read settings from a TOML file.",
)
@click.option("--show-config", is_flag=True, help="Print every setting with its source, and exit.")
@click.option(
    "--check", is_flag=True, help="Check settings, keys and certificates without listening, and exit."
)
def serve(file: Path | None, *, show_config: bool, check: bool, **flags: str | None) -> None:
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
                    started=functools.partial(print_banner, config=loaded.config),
                    forced=functools.partial(_exit_at_once, log),
                    load=functools.partial(sources.load, functools.partial(load_again, flags, file)),
                    sources=sources,
                )
    except BroadcastError as error:
        fail(error)


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
