"""JWKS: keys of an issuer that change."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from sse_broadcast.auth import jwks as module
from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.auth.jwks import Jwks, fetch
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import ConfigError, CredentialError
from tests.support.issuing import NEW, OLD, Issuer, issuers
from tests.support.raising import exactly
from tests.support.signing import CLAIMS, NOW, jwk, jwks, private_key, token
from tests.support.sockets import PATIENCE

issuer = pytest.fixture(issuers)


Open = Callable[..., Awaitable[Jwks]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jwks"


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def start(source: str, **options: Any) -> Jwks:
            keys = Jwks(source, **{"refresh": 3600.0, **options})
            stack.push_async_callback(keys.close)
            await keys.start()
            return keys

        yield start


def ids(keys: Jwks) -> list[str | None]:
    return [key.kid for key in keys.keys]


async def test_the_keys_of_a_url_are_there_after_the_first_fetch(issuer: Issuer, opened: Open) -> None:
    assert ids(Jwks(issuer.url, refresh=3600.0)) == []
    assert ids(await opened(issuer.url)) == ["old"]
    assert issuer.asked == 1


async def test_the_keys_of_a_file_are_there_at_once(file: Path, opened: Open) -> None:
    file.write_bytes(jwks(OLD, jwk("HS256", kid="secret")))
    assert ids(Jwks(str(file), refresh=3600.0)) == ["old", "secret"]
    assert ids(await opened(str(file))) == ["old", "secret"]


async def test_symmetric_keys_of_a_url_are_left_out(issuer: Issuer, opened: Open) -> None:
    """Everyone who can fetch them could sign."""
    issuer.body = jwks(OLD, jwk("HS256", kid="secret"))
    assert ids(await opened(issuer.url)) == ["old"]


async def test_keys_are_fetched_at_intervals(issuer: Issuer, opened: Open) -> None:
    keys = await opened(issuer.url, refresh=0.01)
    issuer.body = jwks(NEW)
    asked = issuer.asked
    await issuer.until_asked(asked + 2)  # The first of them may have been answered before.
    assert ids(keys) == ["new"]


async def test_a_file_is_read_at_intervals(file: Path, opened: Open) -> None:
    file.write_bytes(jwks(OLD))
    keys = await opened(str(file), refresh=0.01)
    file.write_bytes(jwks(NEW))
    async with asyncio.timeout(PATIENCE):
        while ids(keys) != ["new"]:
            await asyncio.sleep(0.01)


async def test_an_unknown_key_causes_a_fetch(issuer: Issuer, opened: Open) -> None:
    """It does not wait for the interval, but for the pause since the last fetch."""
    keys = await opened(issuer.url, pause=0.0)
    issuer.body = jwks(NEW)
    await keys.refresh()
    assert ids(keys) == ["new"]
    assert issuer.asked == 2


async def test_unknown_keys_cause_one_fetch_per_pause(issuer: Issuer, opened: Open) -> None:
    """Any client can name an unknown key, and the issuer must not get a request for each."""
    keys = await opened(issuer.url)
    issuer.body = jwks(NEW)
    for _ in range(100):
        await keys.refresh()
    assert (issuer.asked, ids(keys)) == (1, ["old"])


async def test_all_requests_for_an_unknown_key_share_a_fetch(issuer: Issuer, opened: Open) -> None:
    keys = await opened(issuer.url, pause=0.0)
    issuer.body = jwks(NEW)
    issuer.open.clear()
    waiting = [asyncio.create_task(keys.refresh()) for _ in range(200)]
    await issuer.until_asked(2)
    waiting += [asyncio.create_task(keys.refresh()) for _ in range(200)]
    await asyncio.sleep(0)
    issuer.open.set()
    await asyncio.gather(*waiting)
    assert (issuer.asked, ids(keys)) == (2, ["new"])


async def test_a_request_for_an_unknown_key_waits_for_a_running_fetch(issuer: Issuer) -> None:
    """This holds within the pause too: that fetch may bring the key."""
    issuer.open.clear()
    keys = Jwks(issuer.url, refresh=3600.0)
    starting = asyncio.create_task(keys.start())
    await issuer.until_asked(1)
    waiting = asyncio.create_task(keys.refresh())
    await asyncio.sleep(0)
    issuer.open.set()
    await waiting
    assert (issuer.asked, ids(keys)) == (1, ["old"])
    await starting
    await keys.close()


async def test_a_cancelled_request_leaves_the_fetch_to_the_others(issuer: Issuer, opened: Open) -> None:
    """A client that hangs up cancels its own request only."""
    keys = await opened(issuer.url, pause=0.0)
    issuer.body = jwks(NEW)
    issuer.open.clear()
    first, second = asyncio.create_task(keys.refresh()), asyncio.create_task(keys.refresh())
    await issuer.until_asked(2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    issuer.open.set()
    await second
    assert ids(keys) == ["new"]


NO_KEY = "has no key that can verify tokens (RS256, ES256, EdDSA)"
NO_JSON = "JSON is malformed: invalid character (byte 0)"
ZIPPED = b"\x1f\x8b\x08" + b"\x00" * 20

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an error": ({"status": 503}, "answered 503"),
    "nothing": ({"status": 204, "body": b""}, "answered 204"),
    "a redirect": ({"status": 302, "headers": {"Location": "/jwks"}}, "answered 302"),
    "no JSON": ({"body": b"<html>"}, NO_JSON),
    "no JWKS": ({"body": b"{}"}, "Object missing required field `keys`"),
    "no keys": ({"body": jwks()}, NO_KEY),
    "no key for tokens": ({"body": jwks(jwk("HS256"), jwk("RS256", use="enc"))}, NO_KEY),
    "too much": ({"body": jwks(*[OLD] * 99) + b" " * 65_536}, "has more than 65536 bytes"),
    "compressed": ({"headers": {"Content-Encoding": "gzip"}, "body": ZIPPED}, NO_JSON),
}
"""Responses of an issuer, and the error for each."""


@pytest.mark.parametrize("kind", BAD)
async def test_a_failed_fetch_keeps_the_keys(
    issuer: Issuer, opened: Open, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The outage is logged once, and its end."""
    caplog.set_level(logging.INFO, "sse_broadcast.keys")
    keys = await opened(issuer.url, pause=0.0)
    answer, problem = BAD[kind]
    for name, value in answer.items():
        setattr(issuer, name, value)
    for _ in range(3):
        await keys.refresh()
    assert ids(keys) == ["old"]
    issuer.status, issuer.headers, issuer.body = 200, {}, jwks(NEW)
    for _ in range(2):
        await keys.refresh()
    assert ids(keys) == ["new"]
    assert caplog.messages == [
        f"jwt_jwks: '{issuer.url}' {problem}; the present keys stay in use",
        f"jwt_jwks: '{issuer.url}' can be read again",
    ]


async def test_an_unreachable_issuer_is_retried_soon(issuer: Issuer, opened: Open) -> None:
    """The server starts all the same, and the retry does not wait for the interval."""
    issuer.status = 503
    keys = await opened(issuer.url, pause=0.01)
    assert ids(keys) == []
    issuer.status = 200
    asked = issuer.asked
    await issuer.until_asked(asked + 1)
    async with asyncio.timeout(PATIENCE):
        while ids(keys) != ["old"]:
            await asyncio.sleep(0.01)


async def test_an_unreachable_server_is_a_failed_fetch(
    opened: Open, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    keys = await opened(f"http://127.0.0.1:{unused_tcp_port}/jwks")
    assert ids(keys) == []
    (said,) = caplog.messages
    assert said.startswith(
        f"jwt_jwks: 'http://127.0.0.1:{unused_tcp_port}/jwks' cannot be read: Cannot connect"
    )


@pytest.mark.parametrize("kind", [*BAD, "no HTTP", "nobody"])
async def test_no_secret_of_a_url_is_logged(
    issuer: Issuer, opened: Open, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """aiohttp's errors have the whole URL."""
    caplog.set_level(logging.DEBUG, "sse_broadcast.keys")
    url = issuer.url
    server = await asyncio.start_server(talk_nonsense, "127.0.0.1", 0)
    async with server:
        if kind in {"no HTTP", "nobody"}:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
        if kind == "nobody":
            server.close()
        for name, value in BAD.get(kind, ({}, ""))[0].items():
            setattr(issuer, name, value)
        keys = await opened(f"{url}?key=s3cret")
        assert keys.fault is not None
        assert f"{url}?(not shown)" in caplog.text
        assert "s3cret" not in f"{caplog.text} {keys.fault}"


async def talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Respond with bytes that are not HTTP."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\x01\r\n\r\n")
    writer.close()


async def test_a_fetch_has_a_timeout(
    issuer: Issuer, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    issuer.open.clear()
    keys = await opened(issuer.url)
    assert ids(keys) == []
    assert caplog.messages == [
        f"jwt_jwks: '{issuer.url}' did not answer within 0.05 s; the present keys stay in use"
    ]


async def test_a_host_name_is_resolved_by_the_loops_executor(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python resolves it on uvloop too, whose own threads would delay the exit."""
    asked = socket.getaddrinfo

    def answer(host: str, *args: Any, **options: Any) -> object:
        return asked("127.0.0.1" if host == "keys.example" else host, *args, **options)

    def fetched() -> bytes:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(fetch(issuer.url.replace("127.0.0.1", "keys.example")))

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert await asyncio.to_thread(fetched) == jwks(OLD)


async def test_an_endless_response_is_cut_off(issuer: Issuer) -> None:
    """Its size is limited, with or without a length."""
    endless = web.Application()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 8192)

    endless.router.add_get("/", drip)
    runner = web.AppRunner(endless, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        with pytest.raises(ConfigError) as raised:
            await fetch(f"http://127.0.0.1:{site.port}/")
        assert str(raised.value).endswith(" has more than 65536 bytes")
    finally:
        await runner.cleanup()


async def test_a_missing_file_keeps_its_keys(
    file: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(jwks(OLD))
    keys = await opened(str(file))
    file.unlink()
    await keys.refresh()
    assert ids(keys) == ["old"]
    assert caplog.messages == [
        f"jwt_jwks: '{file}' cannot be read: No such file or directory; the present keys stay in use"
    ]


async def test_closing_ends_the_fetches(issuer: Issuer) -> None:
    """No task is left, and nothing is fetched any more."""
    keys = Jwks(issuer.url, refresh=3600.0, pause=0.0)
    await keys.start()
    await keys.close()
    assert not [task for task in asyncio.all_tasks() if "Jwks." in repr(task)]
    await keys.refresh()
    assert (issuer.asked, ids(keys)) == (1, ["old"])
    await keys.close()


async def test_closing_cancels_a_running_fetch(issuer: Issuer) -> None:
    keys = Jwks(issuer.url, refresh=3600.0, pause=0.0)
    await keys.start()
    issuer.open.clear()
    waiting = asyncio.create_task(keys.refresh())
    await issuer.until_asked(2)
    await keys.close()
    await waiting
    assert not [task for task in asyncio.all_tasks() if "Jwks." in repr(task)]
    assert ids(keys) == ["old"]
    issuer.open.set()


MUST = "must start with https:// (http:// only for this machine)"


UNSAFE = ["http://id.example.com/jwks", "http://127.0.0.1.example.com/", "http://localhost.example.com/"]
UNSAFE += ["http://10.0.0.1/", "http://0.0.0.0/", "http://2130706433/", "http://[::ffff:10.0.0.1]/"]
UNSAFE += ["ftp://localhost/", "file:///etc/passwd", "https://", "https:///jwks"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        *((url, f"{url!r} {MUST}") for url in UNSAFE),
        ("https://[half", "'https://[half' is not a URL"),
        ("https://ann:secret@id.example.com/", "a URL with a user or a password is not allowed"),
        ("https://secret@id.example.com/", "a URL with a user or a password is not allowed"),
    ],
)
def test_an_unsafe_or_malformed_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=exactly(f"jwt_jwks: {problem}")):
        Jwks(url, refresh=3600.0)


@pytest.mark.parametrize(
    "url",
    ["https://a.example/jwks", "http://localhost:1/", "http://127.9.9.9/", "http://[::1]:1/", "HTTPS://a/"],
)
def test_accepted_urls(url: str) -> None:
    assert Jwks(url, refresh=3600.0).keys == ()


async def test_a_file_without_keys_is_refused_at_the_start(file: Path) -> None:
    """An issuer may recover, a file does not."""
    file.write_bytes(b"{}")
    with pytest.raises(ConfigError) as raised:
        Jwks(str(file), refresh=3600.0)
    assert str(raised.value) == f"jwt_jwks: '{file}' Object missing required field `keys`"


@pytest.fixture
async def authenticator(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Authenticator]:
    """Start an authenticator for the tokens of an issuer, and close it with the test."""
    monkeypatch.setattr(module.Jwks.__init__, "__kwdefaults__", {"pause": 0.0})
    authenticator = Authenticator(Config(jwt_jwks=issuer.url), clock=lambda: NOW)
    await authenticator.start()
    yield authenticator
    await authenticator.close()


def new_token() -> str:
    return token("EdDSA", CLAIMS, key=private_key("EdDSA", 1), header={"kid": "new"})


async def test_a_token_of_a_new_key_is_accepted_once_the_key_is_published(
    issuer: Issuer, authenticator: Authenticator
) -> None:
    with pytest.raises(CredentialError):
        await authenticator.authenticate(new_token())
    assert (await authenticator.authenticate(token("EdDSA", header={"kid": "old"}))).subject == "ann"
    issuer.body = jwks(OLD, NEW)
    assert (await authenticator.authenticate(new_token())).subject == "ann"
    assert (await authenticator.authenticate(token("EdDSA", header={"kid": "old"}))).subject == "ann"


async def test_many_tokens_of_a_new_key_cause_one_fetch(issuer: Issuer, authenticator: Authenticator) -> None:
    issuer.body = jwks(NEW)
    issuer.open.clear()
    asked = issuer.asked
    waiting = [asyncio.create_task(authenticator.authenticate(new_token())) for _ in range(200)]
    await issuer.until_asked(asked + 1)
    issuer.open.set()
    assert {principal.subject for principal in await asyncio.gather(*waiting)} == {"ann"}
    assert issuer.asked == asked + 1


async def test_an_outage_of_the_issuer_does_not_affect_known_keys(
    issuer: Issuer, authenticator: Authenticator
) -> None:
    """Their tokens are accepted without waiting."""
    issuer.open.clear()
    stranger = asyncio.create_task(authenticator.authenticate(new_token()))
    await issuer.until_asked(2)
    assert (await authenticator.authenticate(token("EdDSA", header={"kid": "old"}))).subject == "ann"
    assert not stranger.done()
    issuer.status = 503
    issuer.open.set()
    with pytest.raises(CredentialError, match=exactly("token: is signed with an unknown key")):
        await stranger
    assert (await authenticator.authenticate(token("EdDSA", header={"kid": "old"}))).subject == "ann"


async def test_known_keys_are_valid_until_others_are_fetched(issuer: Issuer, opened: Open) -> None:
    (known,) = (await opened(issuer.url)).keys
    issuer.body, issuer.status = jwks(NEW), 500
    keys = await opened(issuer.url, known=(known,))
    assert ids(keys) == ["old"]
    assert str(keys.fault) == f"jwt_jwks: {issuer.url!r} answered 500"
    issuer.status = 200
    other = await opened(issuer.url, known=(known,))
    assert (ids(other), other.fault) == (["new"], None)
