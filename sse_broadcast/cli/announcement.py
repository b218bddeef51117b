"""What `sse-broadcast serve` says once it listens."""

import shlex
from collections.abc import Iterable

import click

from sse_broadcast.auth.access import Action
from sse_broadcast.config import UNIX, Endpoint
from sse_broadcast.server.listener import Listener
from sse_broadcast.server.run import Server

TRIES = {
    Action.SUBSCRIBE: ("N", [], "/events"),
    Action.PUBLISH: ("", ["-d", "hello"], "/send"),
    Action.INSPECT: ("", [], "/status"),
    Action.ADMIN: ("", ["-d", '{"grants": {"subscribe": ["*"]}}'], "/tokens"),
}
"""What there is to try: curl's flag, its options, and the path."""

BEYOND = (Action.PUBLISH, Action.INSPECT, Action.ADMIN)
"""What needs a token where subscribing needs none. The first that is served is shown, and what is open
before it."""

MADE = "The token is for everything, and new at each start; token_file has the server take one that stays."

FORCED = "Whoever reaches it may publish, to every channel (insecure_publish)."


def announce(server: Server) -> None:
    """Print where the server listens, and what to try: there is the token that it made, and nowhere else."""
    click.echo("\n".join([*_where(server), *_tries(server), *_remarks(server)]))


def _where(server: Server) -> list[str]:
    places = [_named(listener) for listener in server.listeners]
    if len(places) == 1:
        return [f"sse-broadcast listens on {places[0]}, with room for {server.room} connections. Try:"]
    first = f"sse-broadcast listens, with room for {server.room} connections, on"
    return [first, *(f"  {place}" for place in places), "Try:"]


def _named(listener: Listener) -> str:
    endpoints = listener.rule.endpoints
    return listener.url if set(endpoints) == set(Endpoint) else f"{listener.url} ({', '.join(endpoints)})"


def _tries(server: Server) -> list[str]:
    lines = [_try(server, Action.SUBSCRIBE, server.listeners)]
    # A token that was made is shown where it is needed.
    guarded = [listener for listener in server.listeners if server.token is None or not listener.local]
    for action in BEYOND:
        line = _try(server, action, guarded)
        lines.append(line)
        if line is not None and (server.token or "") in line:
            break
    return [f"  {line}" for line in lines if line is not None]


def _try(server: Server, action: Action, listeners: Iterable[Listener]) -> str | None:
    listener = next((each for each in listeners if Endpoint(action) in each.rule.endpoints), None)
    if listener is None:
        return None
    credential = []
    if not server.is_open(listener, action):
        if server.token is not None and action is Action.SUBSCRIBE:
            return None  # it would be shown twice
        credential = ["-H", _bearer(server.token)]
    return " ".join(["curl", *_line(listener, action, credential)])


def _bearer(token: str | None) -> str:
    return '"Authorization: Bearer $TOKEN"' if token is None else f"'Authorization: Bearer {token}'"


def _line(listener: Listener, action: Action, credential: list[str]) -> list[str]:
    flag, options, path = TRIES[action]
    scheme = "https" if listener.rule.certificate else "http"
    flags = ("k" if listener.rule.certificate else "") + flag
    words = [f"-{flags}"] if flags else []
    if listener.url.startswith(UNIX):
        words += ["--unix-socket", shlex.quote(listener.url.removeprefix(UNIX))]
    url = f"{scheme}://localhost" if listener.url.startswith(UNIX) else listener.url
    return [*words, *credential, *map(shlex.quote, options), f"{url}{path}"]


def _remarks(server: Server) -> list[str]:
    remarks = [MADE] if server.token is not None else []
    return [*remarks, FORCED] if server.forced else remarks
