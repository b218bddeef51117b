"""`sse-broadcast serve`."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from sse_broadcast.cli.common import Exit, fail
from sse_broadcast.config import (
    ENV_PREFIX,
    RULES,
    SETTINGS,
    ChannelRule,
    Loaded,
    load,
    unknown_variables,
)
from sse_broadcast.errors import BroadcastError
from sse_broadcast.server.run import Server, run

logger = logging.getLogger(__name__)

EPILOG = f"""\b
Examples:
  sse-broadcast serve
  sse-broadcast serve --port 9000 --queue-size 200 --overflow drop-oldest
  sse-broadcast serve --config config.toml --show-config
  {ENV_PREFIX}PORT=9000 sse-broadcast serve

Every setting is also an environment variable ({ENV_PREFIX}QUEUE_SIZE) and a key of the TOML file
(queue_size). A flag beats the variable, the variable the file, the file the default.

Exit codes: 0 stopped by a signal, every stream ended; 2 bad usage or setting; 3 cannot listen;
4 the certificate cannot be loaded; 5 stopped by a second signal."""


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each setting, in the order of their declaration."""
    for setting in reversed(list(SETTINGS.values())):
        shown = json.dumps(setting.default) if setting.default == "" else setting.default
        text = f"{setting.sentence}  [default: {shown}]"
        command = click.option(setting.flag, setting.name, metavar="VALUE", help=text)(command)
    return command


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
@click.option("--show-config", is_flag=True, help="Print every setting and where it came from, and exit.")
def serve(file: Path | None, *, show_config: bool, **flags: str | None) -> None:
    """Run the server until it is told to stop."""
    try:
        loaded = load(flags, file=file)
        _start_logging(loaded)
        for name in unknown_variables(os.environ):
            logger.warning("%s: no such setting, ignored", name)
        if show_config:
            click.echo(shown_config(loaded), nl=False)
            return
        run(loaded.config, started=announce, forced=_exit_at_once)
    except BroadcastError as error:
        fail(error)


def announce(server: Server) -> None:
    """Print where the server listens, and what to try."""
    insecure = "k" if server.url.startswith("https") else ""
    click.echo(
        f"sse-broadcast listens on {server.url}, with room for {server.room} connections. Try:\n"
        f"  curl -{insecure}N {server.url}/events\n"
        f"  curl {f'-{insecure} ' if insecure else ''}-d hello {server.url}/send"
    )


def shown_config(loaded: Loaded) -> str:
    """Give the configuration as TOML, each value with where it came from."""
    lines = [f"{name} = {_toml(getattr(loaded.config, name))}" for name in SETTINGS]
    width = max(map(len, lines))
    settings = (
        f"{line:<{width}}  # {loaded.sources[name]}\n" for line, name in zip(lines, SETTINGS, strict=True)
    )
    rules = (_rule(rule, loaded.sources[RULES]) for rule in loaded.config.channel)
    return "".join([*settings, *rules])


def _rule(rule: ChannelRule, source: str) -> str:
    said = {name: value for name in rule.__struct_fields__ if (value := getattr(rule, name)) is not None}
    lines = "".join(f"{name} = {_toml(value)}\n" for name, value in said.items())
    return f"\n[[{RULES}]]  # {source}\n{lines}"


def _toml(value: object) -> str:
    # JSON's strings and numbers are TOML's, but for surrogate pairs and a bare DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _start_logging(loaded: Loaded) -> None:
    logging.basicConfig(
        level=loaded.config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def _exit_at_once() -> NoReturn:
    click.echo("sse-broadcast: a second signal, streams were cut", err=True)
    os._exit(Exit.FORCED)
