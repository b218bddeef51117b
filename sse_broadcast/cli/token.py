"""`sse-broadcast token`."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.auth.issuer import IssuedToken
from sse_broadcast.auth.principal import EVERYTHING, Action, Grants, Principal
from sse_broadcast.auth.static_tokens import MAX_TOKEN
from sse_broadcast.channels import ANY, Selector
from sse_broadcast.cli.common import Command, fail, run_client
from sse_broadcast.cli.help import StyledGroup
from sse_broadcast.cli.visible import say
from sse_broadcast.clock import utc
from sse_broadcast.config.schema import Config
from sse_broadcast.config.sources import ENV_PREFIX, load
from sse_broadcast.cursor import Age, parse_since
from sse_broadcast.errors import BroadcastError, ConfigError, CredentialError, EventError, ForbiddenError

SECRET_VARIABLE = ENV_PREFIX + "TOKEN_SECRET"


def _seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    age = parse_since(text) if text else None
    if not isinstance(age, Age) or not age.seconds:
        raise click.BadParameter(f"{text!r} is not a time such as 90s, 10m or 8h")
    return age.seconds


def _patterns(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return Selector.parse(*given).channels if given else ()
    except EventError as error:
        raise click.BadParameter(str(error)) from None


def _pattern(context: click.Context, option: click.Parameter, given: str | None) -> str | None:
    return None if given is None else _patterns(context, option, (given,))[0]


def pattern_option(flag: str, text: str) -> Callable[[Command], Command]:
    """Add an option of channels and patterns that may be repeated."""
    return click.option(
        flag, multiple=True, callback=_patterns, metavar="PATTERN", help=f"{text}. May be repeated."
    )


def config_option(command: Command) -> Command:
    """Add `--config`."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        envvar=ENV_PREFIX + "CONFIG",
        metavar="FILE",
        help="The server's TOML file.",
    )(command)


@click.group(
    cls=StyledGroup,
    epilog="""\b
Examples:
  sse-broadcast token mint --subscribe 'orders.*' --lifetime 10m
  sse-broadcast token check --file visitor.token
  sse-broadcast token mint --publish logs | sse-broadcast token check --action publish --channel logs

Both commands use the server's settings, from --config FILE and its variables. They contact no server.

Exit codes: 0 made, or valid; 1 refused; 2 bad usage or setting; 6 output cannot be written.""",
)
def token() -> None:
    """Make tokens, and check what a token allows."""


@token.command(
    epilog=f"""\b
Examples:
  {SECRET_VARIABLE}=... sse-broadcast token mint --subscribe 'orders.*'
  sse-broadcast token mint --config server.toml --subject robot --publish logs --lifetime 8h

The token is printed on standard output, its id and expiry on standard error. It is signed with the
server's token_secret, and every server with the same secret accepts it.

Exit codes: 0 made; 1 refused; 2 bad usage or setting; 6 output cannot be written."""
)
@click.option(
    "--subject",
    default="minted",
    show_default=True,
    metavar="NAME",
    help="The name of the token's bearer, for the log.",
)
@click.option(
    "--lifetime",
    callback=_seconds,
    metavar="TIME",
    help="How long the token is valid, such as 10m. The default is token_lifetime.",
)
@pattern_option("--subscribe", "A channel that the token may subscribe to")
@pattern_option("--publish", "A channel that the token may publish to")
@pattern_option("--inspect", "A channel that the token may inspect, or * for the server too")
@config_option
def mint(config_file: Path | None, subject: str, lifetime: float | None, **patterns: tuple[str, ...]) -> None:
    """Make a token and sign it with the configured token_secret."""
    grants = {Action(name): given for name, given in patterns.items() if given}
    if not grants:
        raise click.UsageError("--subscribe, --publish, --inspect: give at least one of them.")
    try:
        minted = _minted(load({}, file=config_file).config, grants, subject, lifetime)
    except BroadcastError as error:
        fail(error)
    click.echo(minted.token)
    click.echo(f"id: {minted.id}\nexpires: {utc(minted.expires)}", err=True)


def _minted(config: Config, grants: Grants, subject: str, lifetime: float | None) -> IssuedToken:
    if not (config.token_secret or config.token_secret_file):
        raise ConfigError(f"token_secret: is not set, set {SECRET_VARIABLE} or give --config FILE")
    seconds = config.token_lifetime if lifetime is None else lifetime
    if seconds > config.token_lifetime:
        raise ConfigError(
            f"--lifetime: {seconds:g} s is more than token_lifetime, {config.token_lifetime:g} s"
        )
    maker = Principal(EVERYTHING, "sse-broadcast token mint")
    return Authenticator(config).issue(grants, subject=subject, lifetime=seconds, by=maker)


@token.command(
    epilog="""\b
Examples:
  sse-broadcast token check < visitor.token
  sse-broadcast token check --file visitor.token --action subscribe --channel orders.17

The command does not know which tokens a running server has revoked.

Exit codes: 0 the token is valid and allows the action; 1 it is not or does not; 2 bad usage or
setting; 6 output cannot be written."""
)
@click.option("--file", metavar="PATH", help="Read the token from a file instead of standard input.")
@click.option(
    "--action",
    type=click.Choice([str(each) for each in Action]),
    help="Check that the token allows this action.",
)
@click.option(
    "--channel",
    callback=_pattern,
    metavar="PATTERN",
    help="The channel of the action, or a pattern for all its channels.  [default: *]",
)
@config_option
def check(config_file: Path | None, file: str | None, action: str | None, channel: str | None) -> None:
    """Print who the bearer of a token is, and what the token allows."""
    if channel is not None and action is None:
        raise click.UsageError("--channel: needs --action.")
    principal = run_client(lambda: _admitted(config_file, file))
    for line in _told(principal):
        say(line)
    if action is not None:
        _tell(principal, Action(action), channel or ANY)


async def _admitted(config_file: Path | None, file: str | None) -> Principal:
    authenticator = Authenticator(load({}, file=config_file).config)
    if not authenticator.takes_tokens:
        raise ConfigError("token: the server has no credentials configured, so it accepts no token")
    text = _read(file)
    try:
        await authenticator.start()
        return await authenticator.authenticate(text)
    finally:
        await authenticator.close()


def _read(file: str | None) -> str:
    """Return the token from a file or from standard input. Raises `ConfigError`, `CredentialError`."""
    try:
        if file is None:
            data = sys.stdin.buffer.read(MAX_TOKEN + 3)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_TOKEN + 3)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--file: {file}: cannot be read: {reason}") from None
    text = data.decode("ascii", "replace").removesuffix("\n").removesuffix("\r")
    if not text:
        raise CredentialError("token: none is given")
    return text


def _told(principal: Principal) -> Iterator[str]:
    yield f"subject: {principal.subject or 'none'}"
    yield f"id: {principal.id or 'none'}"
    yield f"expires: {'never' if principal.expires is None else _until(principal.expires)}"
    for action in Action:
        yield f"{action}: {', '.join(principal.grants.get(action, ())) or 'nothing'}"


def _until(expires: float) -> str:
    return f"{utc(expires)}, in {expires - time.time():.0f} s"


def _tell(principal: Principal, action: Action, channel: str) -> None:
    if not principal.allows(action, channel):
        fail(ForbiddenError(f"{action} {channel!r}: the token does not allow it"))
    click.echo(f"{action} {channel!r}: allowed")
