"""What commands share: exit codes, how errors are told, and the server's address."""

import contextlib
import enum
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import click

from sse_broadcast.auth import secret_sources
from sse_broadcast.auth.bearer_token import is_token
from sse_broadcast.cli.stdout import close_quietly
from sse_broadcast.cli.visible import tell
from sse_broadcast.client import DEFAULT_URL
from sse_broadcast.config.schema import Endpoint, ListenerRule
from sse_broadcast.config.sources import ENV_PREFIX, load
from sse_broadcast.errors import (
    BroadcastError,
    CertificateError,
    ClientError,
    ConfigError,
    ListenError,
    OutputError,
)
from sse_broadcast.unix_address import unix_path

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

TOKEN = ENV_PREFIX + "TOKEN"
TOKEN_FILE = ENV_PREFIX + "TOKEN_FILE"
"""The server's settings of these names: what it takes is what is shown to it."""

SAME_MACHINE = dict.fromkeys(("0.0.0.0", "::", "*"), "127.0.0.1")  # noqa: S104 - nothing is bound here
"""Where a server that listens on every address is reached from beside it."""


class Exit(enum.IntEnum):
    """The exit codes; `--help` tells them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    LISTEN = 3
    CERTIFICATE = 4
    FORCED = 5
    OUTPUT = 6
    INTERRUPTED = 130


def exit_for(error: BroadcastError) -> Exit:
    """Return the exit code that says which kind of error it was."""
    match error:
        case ConfigError():
            return Exit.USAGE
        case ListenError():
            return Exit.LISTEN
        case CertificateError():
            return Exit.CERTIFICATE
        case OutputError():
            return Exit.OUTPUT
    return Exit.FAILED


def fail(error: BroadcastError) -> NoReturn:
    """Tell the error in one line on standard error, and exit with its code."""
    with contextlib.suppress(OSError):  # of a disk that is full, where the code still tells what it was
        tell(str(error))
    if isinstance(error, OutputError):
        close_quietly()
    raise SystemExit(exit_for(error))


def default_url(endpoint: Endpoint | None = None) -> str:
    """Return where a server with this environment serves an endpoint, or anything.

    So the image's health check finds its own server, and every command the one beside it.
    """
    file = os.environ.get(ENV_PREFIX + "CONFIG")
    try:
        listeners = load({}, file=Path(file) if file else None).config.listeners
    except ConfigError:
        return DEFAULT_URL
    return _url_of(next((each for each in listeners if endpoint in each.endpoints), listeners[0]))


def _url_of(listener: ListenerRule) -> str:
    if listener.path is not None:
        return listener.host
    host = SAME_MACHINE.get(listener.host, listener.host)
    scheme = "https" if listener.certificate else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.port}"


def _require_address(_: click.Context, __: click.Parameter, url: str) -> str:
    if not unix_path(url) and not _is_http(url):
        raise click.BadParameter(f"{url!r} is no http:// or https:// address, and no unix:/path")
    return url


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # half a bracket
        return False


def url_option(endpoint: Endpoint | None = None) -> Callable[[Command], Command]:
    """Add `--url`, of a server that serves the endpoint."""
    return click.option(
        "--url",
        default=lambda: default_url(endpoint),
        envvar=ENV_PREFIX + "URL",
        show_default=DEFAULT_URL,
        show_envvar=True,
        callback=_require_address,
        help="Where the server is: an http:// or https:// address, or unix: and the path of its socket.",
    )


def token_option(command: Command) -> Command:
    """Add `--token-file`; the command gets the `token`, which is never an argument itself."""
    return click.option(
        "--token-file",
        "token",
        metavar="FILE",
        callback=_read_token,
        help=f"A file with the token to show the server, instead of {TOKEN}.",
    )(command)


def _read_token(_: click.Context, __: click.Parameter, file: str | None) -> str | None:
    try:
        return given_token(file, os.environ)
    except ConfigError as error:
        fail(error)


def given_token(file: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the token of a file or, where none is named, of the environment. Raises `ConfigError`."""
    if file is not None:
        return _token_in(file, "--token-file")
    token, named = environ.get(TOKEN, ""), environ.get(TOKEN_FILE, "")
    if token and named:
        raise ConfigError(f"{TOKEN} and {TOKEN_FILE}: only one of them may be given")
    if named:
        return _token_in(named, TOKEN_FILE)
    return _checked(token, TOKEN) if token else None


def _token_in(file: str, source: str) -> str:
    return _checked(secret_sources.read_secret_text(file, setting=source), f"{source}: {file!r}")


def _checked(token: str, where: str) -> str:
    if not is_token(token):
        raise ConfigError(f"{where}: holds no token (RFC 6750)")
    return token


def run_client(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine: errors become one line, Ctrl-C and a closed pipe a quiet exit."""
    import asyncio  # noqa: PLC0415 - `--help` does without

    try:
        return asyncio.run(main())
    except BroadcastError as error:
        fail(_with_advice(error))
    except KeyboardInterrupt:
        raise SystemExit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        close_quietly()
        raise SystemExit(Exit.DONE) from None


def _with_advice(error: BroadcastError) -> BroadcastError:
    context = click.get_current_context(silent=True)
    tokenless = context is not None and context.params.get("token", "") is None
    if isinstance(error, ClientError) and error.status == 401 and tokenless:
        return ClientError(f"{error}; give one by {TOKEN} or --token-file", status=401)
    return error
