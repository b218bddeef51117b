"""Reload: what changes at once, what needs a restart, and that it is all or nothing."""

import asyncio
import contextlib
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from sse_broadcast.auth import authenticator as authenticator_module
from sse_broadcast.auth.jwks import Jwks
from sse_broadcast.config.schema import (
    ChannelRule,
    Config,
    Durability,
    Endpoint,
    EventLoop,
    ListenerRule,
    LogFormat,
    Overflow,
)
from sse_broadcast.config.sources import RESTART_ONLY, RULES, SETTINGS, ConfigChange
from sse_broadcast.errors import BroadcastError, ClosedError, ConfigError
from sse_broadcast.server import reload
from sse_broadcast.server.reload import RELOADER, Reloader
from sse_broadcast.server.runner import Server
from sse_broadcast.server.services import STREAM_EXPIRY
from sse_broadcast.server.transport.admission import HandshakeProtocol
from sse_broadcast.server.transport.connection import ListenerInfo
from tests.conftest import Caplog, Patch
from tests.server.blocks import opening_after_loss
from tests.support import issuing, reloading
from tests.support.asking import Answer, ask, bearer
from tests.support.certificates import write_certificate
from tests.support.credentials import AUDIENCE, ISSUER, OWN_SECRET, STATIC, caller, own, static
from tests.support.internals import hub_of
from tests.support.issuing import NEW, OLD, Issuer
from tests.support.mounting import mounted
from tests.support.reloading import Reloadable, tasks
from tests.support.signing import END, jwks, pem, private_key, public_file, token
from tests.support.sockets import PATIENCE, RawClient, until

Start = Callable[..., Awaitable[Reloadable]]

reloadable = pytest.fixture(reloading.reloadables)
issuer = pytest.fixture(issuing.issuers)

JSON = "Content-Type: application/json\r\n"
OTHER = "another-static-token.0123456789"


async def open_stream(server: Server, *, path: str = "/events/a", headers: str = "") -> RawClient:
    """Return a subscriber that has its first frames."""
    client = await RawClient.open(server.port)
    assert (await client.subscribe(path=path, headers=headers)).startswith(b"HTTP/1.1 200 OK\r\n")
    await client.chunk()
    return client


async def require_alive(server: Server, client: RawClient) -> None:
    """Assert that a subscriber of `a` gets the next event."""
    await server.broadcaster.broadcast("still here", channels=["a"])
    assert [event.data for event in await client.events(1)] == ["still here"]


# What each setting changes at once.

Probe = Callable[[Server], Coroutine[Any, Any, object]]


def asked(method: str, path: str, headers: str = "", **options: Any) -> Probe:
    """Return the status of a request."""

    async def probe(server: Server) -> object:
        return (await ask(server, method, path, headers=headers, **options)).status

    return probe


def seen(look: Callable[[Server], object]) -> Probe:
    async def probe(server: Server) -> object:
        return look(server)

    return probe


def opened(count: int, *, headers: str = "") -> Probe:
    """Return the statuses of this many subscribers that connect and stay."""

    async def probe(server: Server) -> object:
        clients = [await RawClient.open(server.port) for _ in range(count)]
        try:
            heads = [
                await client.subscribe(path=f"/events/c{number}", headers=headers)
                for number, client in enumerate(clients)
            ]
            return [int(head.split()[1]) for head in heads]
        finally:
            for client in clients:
                client.close()
            await until(lambda: server.connections == 0)

    return probe


def admitted(address: str, count: int) -> Probe:
    """Return which of several connections of an address would be accepted."""

    async def probe(server: Server) -> object:
        listener = ListenerInfo(frozenset(), loopback=False, unix=False)
        protocols = [server.admission.admit_to_handshake(listener, address) for _ in range(count)]
        for protocol in protocols:
            protocol.release()
        return [isinstance(protocol, HandshakeProtocol) for protocol in protocols]

    return probe


def both(*probes: Probe) -> Probe:
    async def probe(server: Server) -> object:
        return [await each(server) for each in probes]

    return probe


async def tracked(server: Server) -> object:
    """Return how many streams could be ended, with one open that has no token."""
    client = await open_stream(server)
    count = len(server.app[STREAM_EXPIRY])
    client.close()
    await until(lambda: server.connections == 0)
    return count


def option_of_new_subscriber(look: Callable[[Any], object]) -> Probe:
    """Return the options of a subscriber that connects now."""

    async def probe(server: Server) -> object:
        client = await open_stream(server)
        (subscriber,) = hub_of(server.broadcaster)
        client.close()
        await until(lambda: server.connections == 0)
        return look(subscriber.options)

    return probe


async def held(server: Server) -> object:
    """Return how many of three events are in the history."""
    for _ in range(3):
        await server.broadcaster.broadcast("x" * 50, channels=["a"])
    return server.broadcaster.channel("a").events


async def aged(server: Server) -> object:
    """Return how many events are in the history a little after they were published."""
    await server.broadcaster.broadcast("x", channels=["a"])
    await asyncio.sleep(0.05)
    return server.broadcaster.channel("a").events


async def minted(server: Server) -> object:
    """Return the longest lifetime of a token in seconds."""
    before = server.services.authenticator.clock()
    body = b'{"grants": {}, "lifetime": 3600}'
    made = (await ask(server, "POST", "/tokens", headers=JSON, body=body)).json
    return round(made["expires"] - before, -1)


async def origin_told(server: Server) -> object:
    answer = await ask(server, "GET", "/healthz", headers="Origin: https://app.example\r\n")
    return answer.headers.get("access-control-allow-origin")


async def slow_body(server: Server) -> object:
    client = await RawClient.open(server.port)
    try:
        await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        return (await client.answer())[0]
    finally:
        client.close()


PROXIED = {"trusted_proxies": ("127.0.0.1",), "anonymous_subscribe": ("*",)}
TWO = b'[{"message": "one"}, {"message": "two"}]'
GUARDED = {"token": STATIC}
WITH = bearer(STATIC)
TWICE = b'{"grants": {"publish": ["a"]}, "subject": "twice"}'


async def published_twice(server: Server) -> object:
    return [await asked("POST", "/send/a", WITH, body=b"x")(server) for _ in range(2)]


@dataclass(frozen=True)
class Row:
    """A value of a setting, and a probe that gives different results with and without it."""

    setting: str
    value: object
    probe: Probe
    found: tuple[object, object]
    before: Mapping[str, Any]

    def __str__(self) -> str:
        return self.setting


def row(setting: str, value: object, probe: Probe, *found: object, **before: Any) -> Row:
    return Row(setting, value, probe, (found[0], found[1]), before)


ONCE = ([200, 200], [200, 429])

ROWS = (
    row("token", OTHER, asked("GET", "/status", bearer(OTHER)), 401, 200, **GUARDED),
    row(
        "caller",
        (caller("b", inspect=("*",)),),
        asked("GET", "/status", bearer(static("b"))),
        401,
        200,
        caller=(caller("a"),),
    ),
    row("anonymous_subscribe", ("a",), asked("GET", "/events/a"), 401, 200, **GUARDED),
    row("anonymous_publish", ("a",), asked("POST", "/send/a", body=b"x"), 401, 200, **GUARDED),
    row("anonymous_inspect", ("*",), asked("GET", "/status"), 401, 200, **GUARDED),
    row("insecure_publish", True, asked("POST", "/send/a", body=b"x"), 401, 200, **GUARDED),
    row("cookie", "c", asked("GET", "/status", f"Cookie: c={STATIC}\r\n"), 401, 200, **GUARDED),
    row("token_secret", OWN_SECRET, asked("GET", "/status", bearer(own())), 401, 200, **GUARDED),
    row("token_lifetime", 600.0, minted, 3600, 600),
    row("allowed_hosts", ("box.lan",), asked("GET", "/status", host="box.lan"), 421, 200),
    row("cors_origins", ("https://app.example",), origin_told, None, "https://app.example"),
    row(
        "trusted_proxies",
        ("192.0.2.0/24",),
        both(seen(lambda server: server.services.proxies.trusts("192.0.2.7")), admitted("192.0.2.7", 2)),
        [False, [True, False]],
        [True, [True, True]],
        max_connections_per_address=1,
    ),
    row(
        "proxy_header",
        "forwarded",
        opened(2, headers="Forwarded: for=192.0.2.1\r\n"),
        [200, 200],
        [200, 429],
        max_connections_per_address=1,
        **PROXIED,
    ),
    row("queue_size", 7, option_of_new_subscriber(lambda terms: terms.queue_size), 1000, 7),
    row(
        "queue_bytes",
        2_000_000,
        option_of_new_subscriber(lambda terms: terms.queue_bytes),
        4_194_304,
        2_000_000,
    ),
    row(
        "overflow",
        Overflow.CONFLATE,
        option_of_new_subscriber(lambda terms: terms.overflow),
        "disconnect",
        "conflate",
    ),
    row("retry", 500, option_of_new_subscriber(lambda terms: terms.retry), 3000, 500),
    row(
        "channel",
        (ChannelRule(match="a", retry=9),),
        option_of_new_subscriber(lambda terms: terms.retry),
        3000,
        9,
    ),
    row("history_size", 2, held, 3, 2),
    row("history_bytes", 2000, held, 3, 2),
    row("history_age", 0.01, aged, 1, 0),
    row("max_event", 100, asked("POST", "/send", body=b"x" * 500), 200, 413),
    row("max_batch", 1, asked("POST", "/send", JSON, body=TWO), 200, 413),
    row("max_body", 10, asked("POST", "/send", JSON, body=TWO + b" " * 8000), 200, 413, max_event=200),
    row("max_channels", 1, asked("POST", "/send/a,b", body=b"x"), 200, 400),
    row("max_patterns", 1, asked("GET", "/events/a*,b*"), 200, 400),
    row("max_connections", 1, opened(2), [200, 200], [200, 503]),
    row(
        "max_connections_per_address",
        1,
        both(admitted("192.0.2.1", 2), opened(2, headers="X-Forwarded-For: 192.0.2.1\r\n")),
        [[True, True], [200, 200]],
        [[True, False], [200, 429]],
        **PROXIED,
    ),
    row("max_connections_per_token", 1, opened(2, headers=WITH), [200, 200], [200, 429], **GUARDED),
    row("subscribe_rate", 1, opened(2), [200, 200], [200, 429], subscribe_rate=0, subscribe_burst=1),
    row("subscribe_burst", 1, opened(2), [200, 200], [200, 429], subscribe_rate=1),
    row("publish_rate", 1, published_twice, *ONCE, publish_rate=0, publish_burst=1, max_batch=1, **GUARDED),
    row("publish_burst", 1, published_twice, [200, 200], [200, 429], publish_rate=1, max_batch=1, **GUARDED),
    row("subscribed_channels", 1, opened(2), [200, 200], [200, 503]),
    row("lifetime", 5.0, tracked, 0, 1),
    row("body_timeout", 0.02, slow_body, 408, 408, body_timeout=0.03),
    row("drain_delay", 1.0, seen(lambda server: server.stopping_takes), 2.0, 3.0, drain_timeout=0.0),
    row("drain_timeout", 1.0, seen(lambda server: server.stopping_takes), 2.0, 3.0, drain_timeout=0.0),
)

ELSEWHERE = {
    "token_file": "test_credential_files_are_read_again",
    "token_secret_file": "test_credential_files_are_read_again",
    "jwt_key_file": "test_credential_files_are_read_again",
    "jwt_jwks": "test_a_jwks_changes_at_once",
    "jwt_jwks_refresh": "test_a_jwks_changes_at_once",
    "jwt_issuer": "test_rules_for_jwts_change_at_once",
    "jwt_audience": "test_rules_for_jwts_change_at_once",
    "jwt_claim": "test_rules_for_jwts_change_at_once",
    "certificate": "test_a_certificate_changes_at_once",
    "key": "test_a_certificate_changes_at_once",
    "log_level": "test_sighup_reloads_the_file",
    "console": "test_the_console_is_switched_off_at_once",
}
"""Settings that no row can cover, and the tests that do."""


def test_every_setting_changes_at_once_or_needs_a_restart() -> None:
    shown = {row.setting for row in ROWS} | ELSEWHERE.keys()
    assert len(ROWS) + len(ELSEWHERE) == len(shown)
    assert shown | RESTART_ONLY == {*SETTINGS, *RULES}
    assert not shown & RESTART_ONLY
    tests = Path(__file__).read_text() + (Path(__file__).parents[1] / "cli" / "test_serve.py").read_text()
    assert all(f"async def {test}(" in tests for test in ELSEWHERE.values())


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_setting_changes_at_once(reloadable: Start, row: Row) -> None:
    """It applies to new connections and requests, the response names it, and streams stay open."""
    running = await reloadable(**row.before)
    assert await row.probe(running.server) == row.found[0]
    change = await running.change(**{row.setting: row.value})
    assert (change.changed, change.restart) == ((row.setting,), ())
    assert await row.probe(running.server) == row.found[1]


async def test_the_console_is_switched_off_at_once(reloadable: Start) -> None:
    running = await reloadable()
    client = await RawClient.open(running.server.port)
    assert (await client.ask("GET", "/"))[0] == 200
    assert (await running.change(console=False)).changed == ("console",)
    assert (await client.ask("GET", "/"))[0] == 404
    client.close()


@pytest.mark.parametrize("kind", ["token_file", "token_secret_file", "jwt_key_file"])
async def test_credential_files_are_read_again(reloadable: Start, tmp_path: Path, kind: str) -> None:
    """This holds with unchanged file names: the content is the credential."""
    file = tmp_path / "secret"
    old, new = {
        "token_file": ((STATIC, STATIC), (OTHER, OTHER)),
        "token_secret_file": (("x" * 40, own(secret="x" * 40)), ("y" * 40, own(secret="y" * 40))),
        "jwt_key_file": tuple(
            (pem(private_key("RS256", which)).decode(), token(key=private_key("RS256", which), claims=ALL))
            for which in (0, 1)
        ),
    }[kind]
    file.write_text(old[0])
    running = await reloadable(**{kind: str(file)})
    for (content, good), (_, bad) in ((old, new), (new, old)):
        file.write_text(content)
        assert await running.change() == reloading.unchanged(running.config)
        assert await asked("GET", "/status", bearer(good))(running.server) == 200
        assert await asked("GET", "/status", bearer(bad))(running.server) == 401
    other = tmp_path / "other"
    other.write_text(old[0])
    assert (await running.change(**{kind: str(other)})).changed == (kind,)
    assert await asked("GET", "/status", bearer(old[1]))(running.server) == 200


ALL = {"sub": "ann", "exp": END, "grants": {"inspect": ["*"]}}


async def test_rules_for_jwts_change_at_once(reloadable: Start, tmp_path: Path) -> None:
    running = await reloadable(jwt_key_file=public_file(tmp_path, "RS256"))
    claims = {"sub": "ann", "exp": END, "grants": {"inspect": ["*"]}, "may": {"inspect": ["*"]}}
    for name, value, others in (
        ("jwt_issuer", ISSUER, {"iss": ISSUER}),
        ("jwt_audience", AUDIENCE, {"aud": AUDIENCE}),
        ("jwt_claim", "may", {"grants": None}),
    ):
        before = token(claims=claims)
        claims |= others
        assert await asked("GET", "/status", bearer(before))(running.server) == 200
        assert (await running.change(**{name: value})).changed == (name,)
        assert await asked("GET", "/status", bearer(token(claims=claims)))(running.server) == 200
        assert name == "jwt_claim" or await asked("GET", "/status", bearer(before))(running.server) == 401


# Settings that need a restart.

OTHERS: Mapping[str, Any] = {
    "host": "localhost",
    "port": 1,
    "listener": (ListenerRule(host="127.0.0.1", endpoints=(Endpoint.SUBSCRIBE,)),),
    "backend": "sqlite:///var/lib/history.db",
    "durability": Durability.NORMAL,
    "history_memory": 5,
    "history_total": 5,
    "history_channels": 5,
    "idempotency_window": 5.0,
    "send_buffer": 5,
    "write_timeout": 5.0,
    "heartbeat": 5.0,
    "head_timeout": 5.0,
    "shutdown_timeout": 5.0,
    "event_loop": EventLoop.ASYNCIO,
    "log_format": LogFormat.JSON,
    "metrics": False,
    "metrics_channels": ("a",),
}


@pytest.mark.parametrize("name", sorted(RESTART_ONLY))
async def test_a_setting_that_needs_a_restart_is_reported_and_kept(
    reloadable: Start, caplog: Caplog, name: str
) -> None:
    """Each reload has it in a warning and in its response, and applies the other settings."""
    running = await reloadable()
    before = getattr(running.config, name)
    for size in (5, 6):
        change = await running.change(**{name: OTHERS[name]}, queue_size=size)
        assert (change.changed, change.restart) == (("queue_size",), (name,))
        assert (getattr(running.config, name), running.config.queue_size) == (before, size)
    assert caplog.messages == [f"reload: unchanged until a restart: {name}"] * 2
    assert await asked("GET", "/status")(running.server) == 200


# All or nothing.


@pytest.fixture
def authenticator() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authenticator: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authenticator.configure_trust(context)
    return context


def serial(writer: asyncio.StreamWriter) -> object:
    return writer.get_extra_info("peercert")["serialNumber"]


def bad_file(content: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "bad").write_text(content)
        return str(folder / "bad")

    return make


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("token", "short", "token: must have 16 to 8192 characters, not 5"),
        ("caller", (caller("a"), caller("a", inspect=("*",))), r"\[\[caller\]\]: 'a' appears twice"),
        ("token_file", lambda _: "/none", "token_file: '/none' cannot be read: No such file or directory"),
        ("token_file", bad_file("a b" * 9), "token_file: contains a character other than .*"),
        ("token_secret", "short", "token_secret: .*"),
        ("jwt_key_file", bad_file("-----BEGIN PUBLIC KEY-----"), "jwt_key_file: '.*/bad': .*"),
        ("jwt_jwks", bad_file("[]"), "jwt_jwks: '.*/bad' .*"),
        ("jwt_jwks", "http://127.0.0.1:9/", "jwt_jwks: 'http://127.0.0.1:9/' cannot be read: .*"),
        ("jwt_issuer", "x", "jwt_issuer: is set without jwt_key_file or jwt_jwks"),
        ("certificate", "/none", "certificate: cannot load /none, .*: no such file or directory"),
        ("certificate", bad_file("none"), "certificate: cannot load .*/bad, .*"),
        ("key", "/none", "certificate: cannot load .*, /none: no such file or directory"),
        ("queue_bytes", 5, "queue_bytes: 5 cannot hold one event of max_event, 1048576 bytes"),
    ],
)
async def test_a_bad_configuration_changes_nothing(
    reloadable: Start,
    authenticator: trustme.CA,
    trusting: ssl.SSLContext,
    tmp_path: Path,
    caplog: Caplog,
    name: str,
    value: Any,
    reason: str,
) -> None:
    """None of its other settings is applied.

    One line names the setting, file and value. Streams stay open.
    """
    caplog.set_level(logging.INFO, "sse_broadcast.reload")
    cert, key = write_certificate(authenticator, tmp_path)
    running = await reloadable(
        certificate=cert, key=key, caller=(caller("old", subscribe=("*",), inspect=("*",)),), cors_origins=()
    )
    server = running.server
    services, before = server.services, tasks()

    async def subscribe() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reading, writing = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
        writing.write(f"GET /events/a HTTP/1.1\r\nHost: x\r\n{bearer(static('old'))}\r\n".encode())
        await reading.readuntil(b"\n\n")
        return reading, writing

    streams = [await subscribe()]
    write_certificate(authenticator, tmp_path)
    given = {name: value(tmp_path) if callable(value) else value}
    others = {"queue_size": 3, "overflow": "conflate", "history_size": 1}
    caplog.clear()
    with pytest.raises(BroadcastError, match=f"^{reason}$"):
        await running.change(cors_origins=("https://x.example",), **others, **given)
    assert server.services is services
    ours = [message for message in caplog.messages if message.startswith("reload: ")]
    assert len(ours) == 1
    assert ours[0].startswith("reload: nothing changed: ")
    streams.append(await subscribe())
    old, new = (subscriber.options for subscriber in hub_of(server.broadcaster))
    assert new == old
    assert len({serial(writing) for _, writing in streams}) == 1
    for number in range(2):
        await server.broadcaster.broadcast(f"still here {number}", channels=["a"])
    assert server.broadcaster.channel("a").events == 2
    for reading, writing in streams:
        assert b"data: still here 1\n" in await reading.readuntil(b"still here 1\n")
        writing.transport.abort()
    await until(lambda: server.connections == 0 and tasks() == before)


async def test_an_unexpected_error_changes_nothing(reloadable: Start, caplog: Caplog) -> None:
    """It is logged with its traceback, since perhaps no caller waits for it. The next reload runs."""
    running = await reloadable()
    services = running.server.services

    def load() -> Config:
        raise RuntimeError("a fault of ours")

    good, running.load = running.load, load
    running.server.reloader.ask()
    await until(lambda: "reload: failed with an unexpected error" in caplog.messages)
    assert running.server.services is services
    running.load = good
    await running.change(queue_size=5)
    assert running.config.queue_size == 5


# Credentials.


async def test_streams_outlive_their_credentials(reloadable: Start) -> None:
    """The new token is accepted and the old one is not. Only a revocation ends open streams."""
    running = await reloadable(caller=(caller("old", subscribe=("*",)), caller("boss", admin=("*",))))
    server = running.server
    client = await open_stream(server, headers=bearer(static("old")))
    await running.change(caller=(caller("new", subscribe=("*",)), caller("boss", admin=("*",))))
    assert await asked("GET", "/events/a", bearer(static("old")))(server) == 401
    assert await asked("GET", "/events/a", bearer(static("new")))(server) == 200
    await require_alive(server, client)
    body = b'{"caller": "old"}'
    answer = await ask(server, "POST", "/revoke", headers=JSON + bearer(static("boss")), body=body)
    assert answer.json == {"status": "revoked", "streams": 1}
    assert (await client.events(1))[0].type == "$close"
    client.close()


async def test_a_revoked_token_stays_revoked(reloadable: Start) -> None:
    running = await reloadable(token=STATIC, token_secret=OWN_SECRET, caller=(caller("a", inspect=("*",)),))
    visitor = own(grants={"inspect": ["*"]})
    for body in (b'{"caller": "a"}', b'{"subject": "visitor"}'):
        answer = await ask(running.server, "POST", "/revoke", headers=JSON + WITH, body=body)
        assert answer.status == 200
    await running.change(queue_size=5)
    for bad in (static("a"), visitor):
        assert await asked("GET", "/status", bearer(bad))(running.server) == 401


async def test_issued_tokens_stay_valid(reloadable: Start) -> None:
    """The generated secret is kept, and used again after a configured one is removed."""
    running = await reloadable(token=STATIC)
    body = b'{"grants": {"inspect": ["*"]}}'
    made = (await ask(running.server, "POST", "/tokens", headers=JSON + WITH, body=body)).json["token"]
    for settings, status in (
        ({"queue_size": 5}, 200),
        ({"token_secret": OWN_SECRET}, 401),
        ({"token_secret": ""}, 200),
    ):
        await running.change(**settings)
        assert await asked("GET", "/status", bearer(made))(running.server) == status


async def test_the_generated_token_ends_with_the_first_configured_one(
    reloadable: Start, caplog: Caplog
) -> None:
    """The log has it, and it never comes back. Until then a reload keeps it."""
    running = await reloadable(host="0.0.0.0")
    server = running.server
    made = bearer(server.token or "")
    for settings in ({"queue_size": 5}, {"anonymous_subscribe": ("a",)}):
        await running.change(**settings)
        assert await asked("GET", "/status", made)(server) == 200
    assert caplog.messages == []
    await running.change(token=STATIC)
    assert caplog.messages == ["reload: the token generated at the start is no longer valid"]
    assert server.token is None
    assert await asked("GET", "/status", made)(server) == 401
    with pytest.raises(ConfigError, match=r"^token: no credential or grant is left"):
        await running.change(token="")
    assert await asked("GET", "/status", WITH)(server) == 200


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"token": STATIC}, {"token": ""}),
        ({"token": STATIC, "anonymous_subscribe": ("a",)}, {"token": ""}),
        ({"caller": (caller("a"),)}, {"caller": ()}),
        ({"host": "0.0.0.0", "anonymous_subscribe": ("a",)}, {"anonymous_subscribe": ()}),
        ({}, {"anonymous_subscribe": ("a",)}),
    ],
)
async def test_a_reload_neither_opens_nor_locks_a_server(
    reloadable: Start, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """A half-written file has no credentials, and a token generated now would be printed nowhere."""
    running = await reloadable(**before)
    found = [await asked(method, "/status", WITH)(running.server) for method in ("GET", "HEAD")]
    with pytest.raises(ConfigError, match=r"^token: "):
        await running.change(**after)
    assert [await asked(method, "/status", WITH)(running.server) for method in ("GET", "HEAD")] == found


async def test_a_credential_closes_an_open_server(reloadable: Start) -> None:
    """Loopback is no exception any more, and the OpenAPI document has the security scheme."""
    running = await reloadable()
    server = running.server
    client = await open_stream(server)
    before = (await ask(server, "GET", "/openapi.json")).json
    assert before["components"]["securitySchemes"] == {}
    await running.change(token=STATIC, cookie="c", anonymous_publish=("a",))
    assert await asked("GET", "/status")(server) == 401
    after = (await ask(server, "GET", "/openapi.json", headers=WITH)).json
    assert list(after["components"]["securitySchemes"]) == ["bearer", "query", "cookie"]
    assert after["paths"]["/send"]["post"]["security"][0] == {}
    await require_alive(server, client)
    client.close()


# Remote keys.

EDDSA = {"sub": "ann", "exp": END, "grants": {"inspect": ["*"], "subscribe": ["*"]}}


def of(which: int) -> str:
    """Return the header with a token of the old or the new key."""
    key = private_key("EdDSA", which)
    return bearer(token("EdDSA", EDDSA, key=key, header={"kid": ("old", "new")[which]}))


async def test_a_jwks_changes_at_once(reloadable: Start, issuer: Issuer, tmp_path: Path) -> None:
    """The new one is fetched before it applies, and the old one is fetched no more."""
    running = await reloadable(jwt_jwks=issuer.url, jwt_jwks_refresh=3600.0)
    server, before = running.server, tasks()
    assert await asked("GET", "/status", of(0))(server) == 200
    file = tmp_path / "jwks"
    file.write_bytes(jwks(NEW))
    assert (await running.change(jwt_jwks=str(file))).changed == ("jwt_jwks",)
    assert [await asked("GET", "/status", of(which))(server) for which in (0, 1)] == [401, 200]
    assert issuer.asked == 1
    change = await running.change(jwt_jwks=issuer.url, jwt_jwks_refresh=0.02)
    assert change.changed == ("jwt_jwks", "jwt_jwks_refresh")
    await issuer.until_asked(4)
    assert [await asked("GET", "/status", of(which))(server) for which in (0, 1)] == [200, 401]
    await running.change(jwt_jwks="", jwt_jwks_refresh=300.0, token=STATIC)
    await until(lambda: tasks() == before - 1)


async def test_an_unreachable_issuer_does_not_stop_a_reload(reloadable: Start, issuer: Issuer) -> None:
    """Its old keys stay. A new issuer must be reachable."""
    running = await reloadable(jwt_jwks=issuer.url)
    issuer.status = 500
    await running.change(queue_size=5)
    assert await asked("GET", "/status", of(0))(running.server) == 200
    with pytest.raises(ConfigError, match=r"^jwt_jwks: '.*\?' answered 500$"):
        await running.change(jwt_jwks=issuer.url + "?")
    assert await asked("GET", "/status", of(0))(running.server) == 200


async def test_a_request_that_waits_for_a_key_is_judged_by_the_new_configuration(
    reloadable: Start, issuer: Issuer, monkeypatch: Patch
) -> None:
    """A reload cancels the fetch it waits for. A refusal would stop an EventSource for good."""
    monkeypatch.setattr(authenticator_module, "Jwks", partial(Jwks, pause=0.0))
    running = await reloadable(jwt_jwks=issuer.url)
    server = running.server
    asked_before = issuer.asked
    issuer.body = jwks(OLD, NEW)
    issuer.open.clear()
    waiting = asyncio.create_task(asked("GET", "/events/a", of(1))(server))
    refused = asyncio.create_task(asked("GET", "/status", of(0).replace(".", "x.", 1))(server))
    await issuer.until_asked(asked_before + 1)
    issuer.open = asyncio.Event()  # The first request for the keys is never answered.
    issuer.open.set()
    await running.change(queue_size=5)
    assert (await waiting, await refused) == (200, 401)


# Certificates.


async def serial_of(server: Server, trusting: ssl.SSLContext) -> object:
    """Return the serial number of the certificate that a new connection gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
    writer.transport.abort()
    return serial(writer)


@pytest.mark.both_loops
async def test_a_certificate_changes_at_once(
    reloadable: Start, authenticator: trustme.CA, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    """It may be in the same files or in others. Open connections keep the old one."""
    cert, key = write_certificate(authenticator, tmp_path)
    running = await reloadable(certificate=cert, key=key)
    server = running.server

    async def connect() -> asyncio.StreamWriter:
        return (await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting))[1]

    writers = [await connect()]
    write_certificate(authenticator, tmp_path)
    assert (await running.change()).changed == ()
    writers.append(await connect())
    (tmp_path / "other").mkdir()
    other_cert, other_key = write_certificate(authenticator, tmp_path / "other")
    assert (await running.change(certificate=other_cert, key=other_key)).changed == ("certificate", "key")
    writers.append(await connect())
    assert len({serial(writer) for writer in writers}) == 3
    change = await running.change(certificate="", key="")
    assert (change.changed, change.restart) == ((), ("certificate", "key"))
    writers.append(await connect())
    assert serial(writers[-1]) == serial(writers[-2])
    for writer in writers:
        writer.transport.abort()
    await until(lambda: server.connections == 0)


@pytest.mark.both_loops
async def test_certificates_of_listeners_change_at_once(
    reloadable: Start, authenticator: trustme.CA, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    """All other settings of a listener need a restart, and so does TLS where there was none."""
    (tmp_path / "other").mkdir()
    cert, key = write_certificate(authenticator, tmp_path)
    other, other_key = write_certificate(authenticator, tmp_path / "other")

    def listeners(certificate: str, key: str, *endpoints: Endpoint) -> tuple[ListenerRule, ...]:
        secure = ListenerRule(host="127.0.0.1", port=0, certificate=certificate, key=key)
        return secure, ListenerRule(host="127.0.0.1", port=0, endpoints=endpoints or tuple(Endpoint))

    running = await reloadable(listener=listeners(cert, key))
    before = await serial_of(running.server, trusting)
    assert (await running.change(listener=listeners(other, other_key))).changed == ("listener",)
    assert await serial_of(running.server, trusting) != before
    for rules in (listeners(cert, key, Endpoint.PUBLISH), listeners("", "")):
        assert (await running.change(listener=rules)).restart == ("listener",)
        assert running.config.listener == listeners(other, other_key)


# Open streams and the history.


async def test_subscribers_keep_the_options_they_came_with(reloadable: Start) -> None:
    """They get their events, whatever options new subscribers of the channel have."""
    running = await reloadable(queue_size=50, retry=1000)
    server = running.server
    old = await open_stream(server)
    await running.change(queue_size=5, retry=2000, overflow="drop-newest", max_connections=2)
    new = await open_stream(server)
    terms = sorted((each.options.queue_size, each.options.retry) for each in hub_of(server.broadcaster))
    assert terms == [(5, 2000), (50, 1000)]
    for number in range(20):
        await server.broadcaster.broadcast(f"{number}", channels=["a"])
    for client in (old, new):
        assert [event.data for event in await client.events(20)] == [f"{number}" for number in range(20)]
        client.close()


@pytest.mark.both_loops
async def test_a_publish_stream_continues(reloadable: Start) -> None:
    """It keeps the rate it began with."""
    running = await reloadable(publish_rate=0)
    publisher = await RawClient.open(running.server.port)
    await publisher.begin("/send/a?stream=1")
    await publisher.send_chunk(b"one\n")
    await until(lambda: running.server.broadcaster.counts.published == 1)
    await running.change(publish_rate=1, publish_burst=1, max_batch=1, max_event=2000)
    await publisher.send_chunk(b"line\n" * 500)
    await publisher.send_chunk()
    status, body = await publisher.answer()
    assert (status, json.loads(body)["count"]) == (200, 501)
    publisher.close()


@pytest.mark.both_loops
async def test_a_body_being_read_is_published_under_the_old_configuration(reloadable: Start) -> None:
    """A reload does not refuse a publish that began before."""
    running = await reloadable(token=STATIC)
    client = await RawClient.open(running.server.port)
    head = (
        f"POST /send/a HTTP/1.1\r\nHost: x\r\n{JSON}{WITH}Content-Length: {len(TWO)}\r\nExpect: 100-continue"
    )
    await client.send(f"{head}\r\n\r\n".encode())
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(TWO[:5])
    await running.change(token=OTHER, max_batch=1, publish_rate=1, publish_burst=1)
    await client.send(TWO[5:])
    assert (await client.answer())[0] == 200
    assert await asked("POST", "/send/a", WITH, body=b"x")(running.server) == 401
    client.close()


async def test_the_history_shrinks_to_new_limits(reloadable: Start) -> None:
    """It does so without a publish. A subscriber that resumes gets a `$reset`."""
    running = await reloadable()
    server = running.server
    receipts = [await server.broadcaster.broadcast(f"{n}", channels=["a"]) for n in range(10)]
    await running.change(channel=(ChannelRule(match="a", history_size=2),))
    assert server.broadcaster.channel("a").events == 2
    client = await RawClient.open(server.port)
    await client.subscribe(path="/events/a", headers=f"Last-Event-ID: {receipts[0].id}\r\n")
    loss = '{"reason": "evicted", "channels": ["a"], "missed": null}'
    assert opening_after_loss(loss, receipts[7].id).fullmatch(await client.chunk())
    assert [event.data for event in await client.events(2)] == ["8", "9"]
    client.close()


async def test_rate_limit_buckets_are_kept_if_the_rate_is_the_same(reloadable: Start) -> None:
    """Otherwise each reload would allow a burst. With another rate they start full."""
    running = await reloadable(token=STATIC, publish_rate=1, publish_burst=2, max_batch=1, subscribe_burst=9)
    assert await published_twice(running.server) == [200, 200]
    await running.change(queue_size=5, subscribe_burst=10)
    assert await published_twice(running.server) == [429, 429]
    await running.change(publish_burst=1)
    assert await published_twice(running.server) == [200, 429]


# Several reloads.


async def test_reloads_run_one_after_another(reloadable: Start) -> None:
    """Each reads the files at its turn, so the last caller's configuration is applied."""
    running = await reloadable()
    inside, most, asked = 0, 0, []

    def load() -> Config:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.002)  # enough turns for the others to start, if they could
        inside -= 1
        return Config(**running.settings)

    running.load = load
    for size in range(10, 30):
        asked.append(asyncio.create_task(running.change(queue_size=size)))
        await asyncio.sleep(0.001)  # The first runs while the next ones ask.
    await asyncio.gather(*asked)
    assert (most, running.config.queue_size) == (1, 29)


async def test_reloads_requested_before_one_begins_share_it(reloadable: Start) -> None:
    running = await reloadable()
    loads: list[None] = []

    def load() -> Config:
        loads.append(None)
        return Config(**running.settings)

    running.load = load
    for _ in range(100):
        running.server.reloader.ask()
    await running.change(queue_size=5)
    assert running.config.queue_size == 5
    assert len(loads) == 1


def counted(reloader: Reloader, monkeypatch: Patch) -> list[None]:
    """Return a list to which each requested reload adds an item."""
    asked, reload = list[None](), reloader.reload

    async def noted() -> ConfigChange:
        asked.append(None)
        return await reload()

    monkeypatch.setattr(reloader, "reload", noted)
    return asked


async def test_requests_share_a_reload_that_has_not_begun(reloadable: Start, monkeypatch: Patch) -> None:
    """A hundred requests at once are two reloads: the running one, and one for all others."""
    running = await reloadable()
    come, loads = counted(running.server.reloader, monkeypatch), 0
    begun, may_end = threading.Event(), threading.Event()

    def load() -> Config:
        nonlocal loads
        loads += 1
        config = Config(**running.settings)
        begun.set()
        assert may_end.wait(PATIENCE)
        return config

    def post() -> asyncio.Task[Answer]:
        return asyncio.create_task(ask(running.server, "POST", "/reload"))

    running.load = load
    running.settings["queue_size"] = 5
    first = post()
    await until(begun.is_set)
    running.settings["retry"] = 1234
    others = [post() for _ in range(99)]
    await until(lambda: len(come) == 100)
    may_end.set()
    assert (await first).json["changed"] == ["queue_size"]
    assert [(await other).json["changed"] for other in others] == [["retry"]] * 99
    assert loads == 2


async def test_a_server_that_stops_does_not_reload(
    reloadable: Start, caplog: Caplog, monkeypatch: Patch
) -> None:
    """Requests are refused, a signal is ignored, and a running reload is cancelled."""
    running = await reloadable()
    server = running.server
    come = counted(server.reloader, monkeypatch)
    loading, may_end = threading.Event(), threading.Event()

    def load() -> Config:
        loading.set()
        assert may_end.wait(PATIENCE)
        return Config(**running.settings)

    running.load = load
    begun = asyncio.create_task(running.change(queue_size=5))
    await until(loading.is_set)
    asked = asyncio.create_task(ask(server, "POST", "/reload"))
    await until(lambda: len(come) == 2)
    await server.reloader.close()
    may_end.set()
    with pytest.raises(ClosedError, match=r"^the server is shutting down$"):
        await begun
    assert ((await asked).status, (await asked).detail) == (503, "the server is shutting down")
    server.reloader.ask()
    with pytest.raises(ClosedError, match=r"^the server is shutting down$"):
        await running.change(queue_size=6)
    answer = await ask(server, "POST", "/reload")
    assert (answer.status, answer.detail) == (503, "the server is shutting down")
    assert running.config.queue_size == 1000
    assert "reload: ignored, the server is shutting down" in [
        record.getMessage() for record in caplog.records
    ]


async def test_a_file_that_cannot_be_read_blocks_no_other_reload(
    reloadable: Start, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Its disk does not respond. The reload reports that nothing has changed."""
    running = await reloadable()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(reload, "READ_TIMEOUT", 0.05)
    with pytest.raises(ConfigError, match=r"^cannot read the files within 0\.05 seconds$"):
        await running.change(token_file=str(pipe))
    os.close(os.open(pipe, os.O_WRONLY))  # lets the reading thread end
    monkeypatch.undo()
    await running.change(queue_size=5, token_file="")
    assert running.config.queue_size == 5


async def test_the_supervisor_is_notified_of_the_end_of_each_reload(reloadable: Start) -> None:
    """This holds for a failed one too: systemd would wait for it."""
    running = await reloadable()
    reported: list[str] = []

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        reported.append("begun")
        try:
            yield
        finally:
            reported.append("over")

    running.server.reloader.around = around
    await running.change(queue_size=5)
    with pytest.raises(ConfigError):
        await running.change(token="short")
    assert reported == ["begun", "over"] * 2


# POST /reload.


async def test_post_reload_returns_the_changed_settings(reloadable: Start) -> None:
    """It returns names only: values may be secrets."""
    running = await reloadable(token=STATIC)
    running.settings |= {"token": OTHER, "queue_size": 5, "heartbeat": 9.0}
    answer = await ask(running.server, "POST", "/reload", headers=WITH)
    assert (answer.status, answer.json, answer.headers["cache-control"]) == (
        200,
        {"status": "reloaded", "changed": ["token", "queue_size"], "restart": ["heartbeat"]},
        "no-store",
    )
    again = await ask(running.server, "POST", "/reload", headers=bearer(OTHER))
    assert again.json == {"status": "reloaded", "changed": [], "restart": ["heartbeat"]}


async def test_post_reload_returns_why_it_failed(reloadable: Start) -> None:
    """It is a 422 with the error and the file, and never with a secret."""
    running = await reloadable(token=STATIC)
    running.settings |= {"token": "tooshort", "queue_size": 5}
    answer = await ask(running.server, "POST", "/reload", headers=WITH)
    assert (answer.status, answer.detail) == (422, "token: must have 16 to 8192 characters, not 8")
    assert running.config.queue_size == 1000


async def test_only_an_admin_may_reload(reloadable: Start) -> None:
    callers = (
        caller("boss", admin=("*",)),
        caller("other", publish=("*",), inspect=("*",), subscribe=("*",)),
    )
    running = await reloadable(caller=callers)
    for headers, status in (("", 401), (bearer(static("other")), 403), (bearer(static("boss")), 200)):
        assert (await ask(running.server, "POST", "/reload", headers=headers)).status == status
    rule = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.PUBLISH, Endpoint.INSPECT))
    shut = await reloadable(listener=(rule,))
    assert (await ask(shut.server, "POST", "/reload")).status == 404


async def test_post_reload_takes_no_body(reloadable: Start) -> None:
    """A client that sends a configuration gets an error."""
    running = await reloadable()
    answer = await ask(running.server, "POST", "/reload", body=b"queue_size = 5")
    assert (answer.status, answer.detail) == (400, "POST /reload takes no body")


@pytest.mark.both_loops
async def test_a_reload_goes_on_after_its_caller_hangs_up(reloadable: Start, monkeypatch: Patch) -> None:
    """Otherwise half of a configuration would be applied."""
    running = await reloadable()
    come = counted(running.server.reloader, monkeypatch)
    client = await RawClient.open(running.server.port)
    async with running.server.reloader.turn:
        running.settings["queue_size"] = 5
        await client.request("POST", "/reload")
        await until(lambda: len(come) == 1)
        client.reset()
        await until(lambda: running.server.connections == 0)
    await until(lambda: running.config.queue_size == 5)


async def test_a_mounted_application_reloads_its_files(tmp_path: Path) -> None:
    """It has no configuration file. Its configuration names files."""
    file = tmp_path / "token"
    file.write_text(STATIC)
    async with mounted(token_file=str(file)) as push:
        client = await RawClient.open(push.port)
        file.write_text(OTHER)
        assert (await client.ask("POST", "/push/reload", headers=WITH))[0] == 200
        assert (await client.ask("GET", "/push/status", headers=WITH))[0] == 401
        assert (await client.ask("GET", "/push/status", headers=bearer(OTHER)))[0] == 200
        client.close()
    with pytest.raises(ClosedError):
        await push.app[RELOADER].reload()


# Under load.


FILES = Path("/proc/self/fd")


def timers() -> int:
    """Return the number of scheduled timers. uvloop does not have it."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return sum(not timer.cancelled() for timer in scheduled)


@pytest.mark.both_loops
async def test_fifty_reloads_lose_no_event_and_leak_nothing(reloadable: Start, issuer: Issuer) -> None:
    """Subscribers and publishers are not affected. No task, timer or socket is left."""
    running = await reloadable(token=STATIC, jwt_jwks=issuer.url)
    server = running.server
    assert await published_twice(server) == [200, 200]
    await running.change(queue_size=999)
    before = tasks(), timers(), len(list(FILES.iterdir()))
    subscribers = [await open_stream(server, headers=WITH) for _ in range(20)]
    reading = [asyncio.create_task(client.events(1000)) for client in subscribers]

    async def publish(number: int) -> None:
        client = await RawClient.open(server.port)
        for count in range(200):
            body = f"{number}.{count}".encode()
            assert (await client.ask("POST", "/send/a", body=body, headers=WITH))[0] == 200
        client.close()

    publishing, meanwhile = asyncio.gather(*map(publish, range(5))), 0
    for turn in range(50):
        meanwhile += not publishing.done()
        await running.change(
            queue_size=1000 + turn,
            publish_rate=5000 + turn % 3,
            history_size=1000 - turn,
            caller=(caller(f"caller-{turn}"),),
            channel=(ChannelRule(match="b.*", retry=turn),) * (turn % 2),
        )
    await publishing
    assert meanwhile > 1
    found = [[event.data for event in events] for events in await asyncio.gather(*reading)]
    assert all(events == found[0] for events in found)
    for number in range(5):
        own_events = [data for data in found[0] if data.startswith(f"{number}.")]
        assert own_events == [f"{number}.{count}" for count in range(200)]
    for client in subscribers:
        client.close()
    await until(lambda: server.connections == 0)
    await until(lambda: tasks() <= before[0] and timers() <= before[1])
    assert len(list(FILES.iterdir())) <= before[2]
