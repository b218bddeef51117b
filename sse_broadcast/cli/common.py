"""Shared by the commands: exit codes, error output, the server's address, the token."""

import contextlib
import enum
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import click

from sse_broadcast.auth import secret_sources
from sse_broadcast.auth.bearer_token import is_token
from sse_broadcast.cli.stdout import close_quietly
from sse_broadcast.cli.visible import errors_are_read, tell
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
    StoreError,
)
from sse_broadcast.unix_address import unix_path

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

TOKEN = ENV_PREFIX + "TOKEN"
TOKEN_FILE = ENV_PREFIX + "TOKEN_FILE"
"""The server's own settings: a client command beside the server sends the token that the server accepts."""

SAME_MACHINE = dict.fromkeys(("0.0.0.0", "::", "*"), "127.0.0.1")  # noqa: S104 - nothing is bound here
"""Addresses that mean every interface, and the address that reaches such a listener from this machine."""


class Exit(enum.IntEnum):
    """Exit codes, as `--help` lists them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    LISTEN = 3
    CERTIFICATE = 4
    FORCED = 5
    OUTPUT = 6
    STORE = 7
    FAULT = 8
    INTERRUPTED = 130


def exit_for(error: BroadcastError) -> Exit:
    """Return the exit code for a kind of error."""
    match error:
        case ConfigError():
            return Exit.USAGE
        case ListenError():
            return Exit.LISTEN
        case CertificateError():
            return Exit.CERTIFICATE
        case OutputError():
            return Exit.OUTPUT
        case StoreError():
            return Exit.STORE
    return Exit.FAILED


def hint_for(error: BroadcastError) -> str:
    """Return what may be done about an error, "" if nothing is known."""
    text = str(error)
    if isinstance(error, ClientError) and text.startswith("cannot reach ") and text.endswith(": refused"):
        return "hint: nothing listens there: run sse-broadcast serve, give its --url, or --wait 30 for it"
    if isinstance(error, ListenError) and "in use" in text:
        return "hint: another program listens there, perhaps another server: --port 0 chooses a free port"
    return ""


def fail(error: BroadcastError) -> NoReturn:
    """Print the error as one line on standard error, and exit with its code."""
    with contextlib.suppress(OSError):  # standard error may be a file on a full disk: the exit code remains
        tell(str(error))
        # For people: what a program reads stays one line.
        if errors_are_read() and (hint := hint_for(error)):
            tell(hint)
    if isinstance(error, OutputError):
        close_quietly()
    raise SystemExit(exit_for(error))


def default_url(endpoint: Endpoint | None = None) -> str:
    """Return the URL of the first listener in this environment that serves `endpoint`, or of any listener.

    The image's health check finds its own server by it, and every command the server beside it.
    """
    file = os.environ.get(ENV_PREFIX + "CONFIG")
    try:
        listeners = load({}, file=Path(file) if file else None).config.listeners
    except ConfigError:
        return DEFAULT_URL  # a fault in the server's file must not stop a command that was given --url
    return _url_of(next((each for each in listeners if endpoint in each.endpoints), listeners[0]))


def _url_of(listener: ListenerRule) -> str:
    if listener.path is not None:
        return listener.host
    host = SAME_MACHINE.get(listener.host, listener.host)
    scheme = "https" if listener.certificate else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.port}"


def _require_address(_: click.Context, __: click.Parameter, url: str) -> str:
    if not unix_path(url) and not _is_http(url):
        raise click.BadParameter(f"{url!r} is neither an http:// or https:// address nor unix:/path")
    return url


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # an unclosed bracket, "http://[::1"
        return False


def url_option(endpoint: Endpoint | None = None) -> Callable[[Command], Command]:
    """Add `--url`. Its default is the server beside the command that serves `endpoint`."""
    return click.option(
        "--url",
        default=lambda: default_url(endpoint),
        envvar=ENV_PREFIX + "URL",
        show_default=DEFAULT_URL,
        show_envvar=True,
        callback=_require_address,
        help="The server's address: http://, https://, or unix: and the path of its socket.",
    )


def token_option(command: Command) -> Command:
    """Add `--token-file`. The command gets its content as `token`: a token is never an argument itself."""
    return click.option(
        "--token-file",
        "token",
        metavar="FILE",
        callback=_read_token,
        help=f"A file with the token to send to the server, instead of {TOKEN}.",
    )(command)


def _read_token(_: click.Context, __: click.Parameter, file: str | None) -> str | None:
    try:
        return given_token(file, os.environ)
    except ConfigError as error:
        fail(error)


def given_token(file: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the token from `file`, or from the environment if there is no file. Raises `ConfigError`."""
    if file is not None:
        return _token_in(file, "--token-file")
    token, named = environ.get(TOKEN, ""), environ.get(TOKEN_FILE, "")
    if token and named:
        raise ConfigError(f"{TOKEN} and {TOKEN_FILE}: set only one of them")
    if named:
        return _token_in(named, TOKEN_FILE)
    return _checked(token, TOKEN) if token else None


def _token_in(file: str, source: str) -> str:
    return _checked(secret_sources.read_secret_text(file, setting=source), f"{source}: {file!r}")


def _checked(token: str, where: str) -> str:
    if not is_token(token):
        raise ConfigError(f"{where}: does not hold a token (RFC 6750)")
    return token


def run_client(
    main: Callable[[], Coroutine[Any, Any, T]],
    *,
    loop_factory: Callable[[], "asyncio.AbstractEventLoop"] | None = None,
) -> T:
    """Run a command's coroutine. An error becomes one line; Ctrl-C and a closed pipe exit quietly."""
    import asyncio  # noqa: PLC0415 - `--help` starts faster without it

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main())
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
        return ClientError(f"{error}; set {TOKEN} or --token-file", status=401)
    return error
