"""What commands share: exit codes, how errors are told, and the server's address."""

import enum
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import click

from sse_broadcast.client import DEFAULT_URL
from sse_broadcast.config import ENV_PREFIX
from sse_broadcast.errors import BroadcastError, CertificateError, ConfigError, ListenError

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class Exit(enum.IntEnum):
    """The exit codes; `--help` tells them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    LISTEN = 3
    CERTIFICATE = 4
    FORCED = 5
    INTERRUPTED = 130


def exit_for(error: BroadcastError) -> Exit:
    """Give the exit code that says which kind of error it was."""
    match error:
        case ConfigError():
            return Exit.USAGE
        case ListenError():
            return Exit.LISTEN
        case CertificateError():
            return Exit.CERTIFICATE
    return Exit.FAILED


def fail(error: BroadcastError) -> NoReturn:
    """Tell the error in one line on standard error, and exit with its code."""
    click.echo(f"sse-broadcast: {error}", err=True)
    raise SystemExit(exit_for(error))


def default_url() -> str:
    """Give where a server with this environment listens: so the image's health check finds its own."""
    port = os.environ.get(ENV_PREFIX + "PORT", "")
    return f"http://127.0.0.1:{port}" if port.isdigit() else DEFAULT_URL


def _require_http(_: click.Context, __: click.Parameter, url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # half a bracket
        usable = False
    if not usable:
        raise click.BadParameter(f"{url!r} is no http:// or https:// address")
    return url


def url_option(command: Command) -> Command:
    """Add `--url`."""
    return click.option(
        "--url",
        default=default_url,
        envvar=ENV_PREFIX + "URL",
        show_default=DEFAULT_URL,
        show_envvar=True,
        callback=_require_http,
        help="Where the server is.",
    )(command)


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine: errors become one line, Ctrl-C and a closed pipe a quiet exit."""
    import asyncio  # noqa: PLC0415 - `--help` does without

    try:
        return asyncio.run(main())
    except BroadcastError as error:
        fail(error)
    except KeyboardInterrupt:
        raise SystemExit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        close_quietly()
        raise SystemExit(Exit.DONE) from None


def close_quietly() -> None:
    """Let the interpreter's last flush of standard output go nowhere: its reader has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
