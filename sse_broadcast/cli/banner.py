"""Banner: the lines that `sse-broadcast serve` prints once it listens."""

import asyncio
import logging
import shlex
from collections.abc import Mapping, Sequence

import click

from sse_broadcast.auth.principal import EVERYTHING, Action, Grants
from sse_broadcast.channels import ANY, DEFAULT_CHANNEL
from sse_broadcast.cli.certificate_info import certificate_info_of
from sse_broadcast.cli.common import SAME_MACHINE
from sse_broadcast.cli.stdout import close_quietly
from sse_broadcast.config.schema import Config, Endpoint, ListenerRule
from sse_broadcast.errors import CertificateError, OutputError
from sse_broadcast.quantity import Quantity
from sse_broadcast.server.runner import Server
from sse_broadcast.server.transport.listener import Listener
from sse_broadcast.server.transport.reserve import MAX_LET_IN
from sse_broadcast.server.transport.tls import tls_fault
from sse_broadcast.version import __version__

logger = logging.getLogger("sse_broadcast.process")

JSON_HEADER_FLAGS = ["-H", "Content-Type: application/json"]

TRIES = {
    Action.SUBSCRIBE: (["-N"], DEFAULT_CHANNEL, [], "/events"),
    Action.PUBLISH: ([], DEFAULT_CHANNEL, ["-d", "hello"], "/send"),
    Action.INSPECT: ([], ANY, [], "/status"),
    Action.ADMIN: ([], ANY, [*JSON_HEADER_FLAGS, "-d", '{"grants": {"subscribe": ["*"]}}'], "/tokens"),
}
"""The curl command for each action: its flags, the channel, its options, and the path."""

Reached = tuple[list[str], str]
"""The curl options for a listener, from this machine, and its URL without a path."""

BEYOND = (Action.PUBLISH, Action.INSPECT, Action.ADMIN)
"""Actions shown after `SUBSCRIBE`, up to the first one that needs a token."""

DOINGS = {Action.SUBSCRIBE: "subscribe to", Action.PUBLISH: "publish to", Action.INSPECT: "ask about"}

NEEDED = "Everything else needs a token."

MADE = "Everything else needs the token below. It changes at each start; to keep one, set token_file."

FORCED = "Every client may publish without a token (insecure_publish)."


def print_banner(server: Server, config: Config, *, shown: bool) -> None:
    """Log that the server started, and print the addresses, the limits and commands to try if `shown`.

    A token made at this start appears in the commands. Without them, it is in a log line of its own.
    """
    if shown:
        _print(server, config)
    version, urls = __version__, ", ".join(server.urls)
    logger.info("started: version %(version)s listens on %(urls)s", {"version": version, "urls": urls})
    if server.token and not shown:
        # The one time that a token is logged: nobody would ever know it. A warning, since most set their own.
        logger.warning(
            "no token is configured: made one for this run; to keep one, set token_file: %(token)s",
            {"token": server.token},
        )


def _print(server: Server, config: Config) -> None:
    lines = [_where(server), _on(config), _limits(config), _open(server, config), "Try:", *_tries(server)]
    # The server is already listening: a closed or full standard output must not stop it.
    try:
        click.echo("\n".join(lines))
    except (BrokenPipeError, OutputError) as error:
        logger.warning("standard output: cannot be written: %(reason)s", {"reason": tls_fault(error)})
        close_quietly()


def _where(server: Server) -> str:
    places = ", ".join(map(_named, server.listeners))
    return f"sse-broadcast listens on {places}, with {room_for(server.room, server.private_share)}."


def room_for(connections: int, private: int) -> str:
    """Return the connection limit as text, with the share that only private listeners may use."""
    share = f", {private} of them only for private listeners" if private else ""
    return (
        f"room for {Quantity(connections, 'connection')}{share}, and {MAX_LET_IN} more for callers with admin"
    )


def _named(listener: Listener) -> str:
    endpoints = listener.rule.endpoints
    return listener.url if set(endpoints) == set(Endpoint) else f"{listener.url} ({', '.join(endpoints)})"


def _on(config: Config) -> str:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    events = Quantity(config.history_size, "event")
    place = "in memory" if config.store_path is None else f"in {config.store_path}, {config.durability}"
    history = f"a history of {events} and {config.history_age:g} s a channel {place}"
    metrics = "metrics" if config.metrics else "no metrics"
    version = __version__
    return f"Version {version} on {loop}: {history}, {metrics}, log level {config.log_level}."


def _limits(config: Config) -> str:
    waiting = (
        f"{Quantity(config.queue_size, 'event')} or {_size(config.queue_bytes)} waiting for a subscriber"
    )
    most = config.max_connections_per_address
    of_one = Quantity(most, "connection") if most else "any number of connections"
    return (
        f"Limits: {_size(config.max_event)} an event; {waiting}, then {config.overflow}; {of_one} an address."
    )


def _size(count: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if not count % unit:
            return f"{count // unit} {name}"
    return f"{count} bytes"


def _open(server: Server, config: Config) -> str:
    shut = [listener for listener in server.listeners if server.anonymous_on(listener).grants != EVERYTHING]
    parts = []
    if len(shut) < len(server.listeners):
        parts.append("to programs on this machine: everything")
    if shut:
        parts.append(f"to everyone: {_doings(server.anonymous_on(shut[0]).grants, shut)}")
    forced = [FORCED] if config.insecure_publish else []
    needed = [MADE] if server.token else [NEEDED] if config.has_credentials else []
    return " ".join([f"Open {'; '.join(parts)}.", *forced, *needed])


def _doings(granted: Grants, listeners: Sequence[Listener]) -> str:
    served = {endpoint for listener in listeners for endpoint in listener.rule.endpoints}
    told = [
        f"{DOINGS[action]} {', '.join(patterns)}"
        for action, patterns in granted.items()
        if Endpoint(action) in served
    ]
    return " and ".join(told) or "nothing"


def _tries(server: Server) -> list[str]:
    reached = {listener: _reached(listener) for listener in server.listeners}
    lines = [_try(server, Action.SUBSCRIBE, reached)]
    # A generated token is shown where it is required. On a local listener this machine's programs need none.
    guarded = {each: how for each, how in reached.items() if server.token is None or not each.local}
    for action in BEYOND:
        line = _try(server, action, guarded)
        lines.append(line)
        if line is not None and (server.token or "") in line:
            break
    return [f"  {line}" for line in lines if line is not None]


def _try(server: Server, action: Action, reached: Mapping[Listener, Reached]) -> str | None:
    flags, channel, options, path = TRIES[action]
    listener = next((each for each in reached if Endpoint(action) in each.rule.endpoints), None)
    if listener is None:
        return None
    credential = []
    if not server.anonymous_on(listener).allows(action, channel):
        if server.token is not None and action is Action.SUBSCRIBE:
            return None  # the next command shows the token: one command with it is enough
        credential = ["-H", _bearer(server.token)]
    words, url = reached[listener]
    return " ".join(["curl", *flags, *words, *credential, *map(shlex.quote, options), f"{url}{path}"])


def _bearer(token: str | None) -> str:
    return '"Authorization: Bearer $TOKEN"' if token is None else f"'Authorization: Bearer {token}'"


def _reached(listener: Listener) -> Reached:
    words, host, port = [], listener.rule.host, f":{listener.port}"
    if listener.rule.path is not None:
        words, host, port = ["--unix-socket", shlex.quote(listener.rule.path)], "localhost", ""
    elif host in SAME_MACHINE:
        host = "localhost"
    if not listener.rule.certificate:
        return words, f"http://{_bracketed(host)}{port}"
    options, name = _trusting(listener.rule, host, port)
    return [*options, *words], f"https://{_bracketed(name)}{port}"


def _trusting(rule: ListenerRule, host: str, port: str) -> tuple[list[str], str]:
    """Return the curl options that verify the certificate, and the host name that it is valid for."""
    # The command may send a token, so curl verifies the server. --connect-to reaches the listener under a
    # name from the certificate, which need not resolve to this machine.
    try:
        name = certificate_info_of(rule.certificate, rule.key).name_for(host)
    except CertificateError as error:
        logger.warning("%(fault)s", {"fault": error})
        return ["-k"], host
    trust = ["--cacert", shlex.quote(rule.certificate)]
    if name == host or not port:
        return trust, name
    return [*trust, "--connect-to", f"::{_bracketed(host)}{port}"], name


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
