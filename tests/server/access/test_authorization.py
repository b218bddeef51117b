"""The gate: who, with what credential, doing what, gets what. The tables here are those of SECURITY.md."""

import inspect
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from aiohttp import ClientSession, ClientTimeout

from sse_broadcast.config.schema import Endpoint, ListenerRule
from sse_broadcast.server.http.client_address import is_loopback_name
from sse_broadcast.server.http.request_head import host_name
from tests.conftest import LiveServer, Serve
from tests.support.asking import Answer, ask, bearer
from tests.support.certificates import write_certificate
from tests.support.credentials import (
    AUDIENCE,
    GRANTS,
    ISSUER,
    OWN_SECRET,
    STATIC,
    altered,
    caller,
    confused,
    own,
    signed,
    static,
    unsigned,
    write_jwks,
)
from tests.support.mounting import mounted
from tests.support.signing import private_key
from tests.support.tables import table

SECURITY = (Path(__file__).parents[3] / "docs" / "SECURITY.md").read_text()

JSON = "Content-Type: application/json\r\n"


@dataclass(frozen=True)
class Doing:
    """One of the things that a caller may try."""

    method: str
    path: str
    headers: str = ""
    body: bytes = b""

    def __str__(self) -> str:
        return f"`{self.method} {self.path}`"

    async def at(self, server: LiveServer | Path, headers: str = "", **others: Any) -> Answer:
        """Do it."""
        headers = self.headers + headers
        return await ask(server, self.method, self.path, headers=headers, body=self.body, **others)


SUBSCRIBE = Doing("GET", "/events/a")
PUBLISH = Doing("POST", "/send/a", body=b"x")
INSPECT = Doing("GET", "/channels/a")
STATUS = Doing("GET", "/status")
TOKENS = Doing("POST", "/tokens", JSON, b'{"grants": {}}')
REVOKE = Doing("POST", "/revoke", JSON, b'{"id": "nobody"}')
DOINGS = (SUBSCRIBE, PUBLISH, INSPECT, STATUS, TOKENS, REVOKE)

ALL = (200,) * 6
ANONYMOUS = REFUSED = (401,) * 6
FORBIDDEN = (403,) * 6
FOR_B = {action: ["b"] for action in GRANTS}
EVIL = "evil.example"


ALIKE = (
    (Doing("GET", "/metrics"), STATUS, 200),
    (Doing("GET", "/subscribers"), STATUS, 200),
    (Doing("GET", "/subscribers/0"), STATUS, 404),
    (Doing("DELETE", "/subscribers/0"), REVOKE, 404),
    (Doing("POST", "/reload"), REVOKE, 200),
    (Doing("POST", "/events", JSON, b'{"channel": "a"}'), SUBSCRIBE, 200),
    (Doing("HEAD", "/events/a"), SUBSCRIBE, 200),
)
"""What gets the same as another, and what it gets if that gets 200: there is no such reader."""


async def require_alike(server: LiveServer | Path, headers: str, gets: tuple[int, ...]) -> None:
    """Hold what has no column of its own to that of what is like it."""
    for doing, like, allowed in ALIKE:
        expected = gets[DOINGS.index(like)]
        assert (await doing.at(server, headers)).status == (allowed if expected == 200 else expected), doing


async def statuses(server: LiveServer | Path, headers: str = "") -> tuple[int, ...]:
    """Do all of it, and give what each got."""
    return tuple([(await doing.at(server, headers)).status for doing in DOINGS])


# Who, with what credential, doing what, gets what.

Credential = Callable[[LiveServer], str | Awaitable[str]]
"""Makes a token that is shown to this server."""


async def mint(server: LiveServer, **grants: Sequence[str]) -> tuple[str, str]:
    """Have a token made, and give it with its id."""
    body = json.dumps({"grants": grants}).encode()
    made = (await ask(server, "POST", "/tokens", headers=JSON + bearer(STATIC), body=body)).json
    return made["token"], made["id"]


async def revoke(server: LiveServer, **whom: str) -> None:
    body = json.dumps(whom).encode()
    assert (await ask(server, "POST", "/revoke", headers=JSON + bearer(STATIC), body=body)).status == 200


async def minted(server: LiveServer) -> str:
    return (await mint(server, subscribe=["a"], publish=["a"], inspect=["a"]))[0]


async def minted_and_revoked(server: LiveServer) -> str:
    token, id = await mint(server, subscribe=["a"])
    await revoke(server, id=id)
    return token


def of(name: str) -> Credential:
    """Return the static token of a caller."""
    return lambda _: static(name)


def but_revoked(credential: Credential, **whom: str) -> Credential:
    async def made(server: LiveServer) -> str:
        token = credential(server)
        text = await token if inspect.isawaitable(token) else token
        await revoke(server, **whom)
        return text

    return made


async def issued_anew(server: LiveServer) -> str:
    await revoke(server, subject="ada")
    return signed(iat=time.time())


CALLERS = (
    caller("everyone", subscribe=("*",), publish=("*",), inspect=("*",), admin=("*",)),
    caller("subscriber", subscribe=("a",)),
    caller("publisher", publish=("a",)),
    caller("inspector", inspect=("a",)),
    caller("watcher", inspect=("*",)),
    caller("maker", admin=("*",)),
    caller("elsewhere", subscribe=("b", "a.*"), publish=("b", "a.*"), inspect=("b", "a.*")),
)


@dataclass(frozen=True)
class Row:
    """A credential, and what it gets for each of the doings."""

    who: str
    credential: Credential | None
    gets: tuple[int, ...]


ROWS = (
    Row("none", None, ANONYMOUS),
    Row("static: `token`", lambda _: STATIC, ALL),
    Row("static: everything, everywhere", of("everyone"), ALL),
    Row('static: `subscribe = ["a"]`', of("subscriber"), (200, 403, 403, 403, 403, 403)),
    Row('static: `publish = ["a"]`', of("publisher"), (403, 200, 403, 403, 403, 403)),
    Row('static: `inspect = ["a"]`', of("inspector"), (403, 403, 200, 403, 403, 403)),
    Row('static: `inspect = ["*"]`', of("watcher"), (403, 403, 200, 200, 403, 403)),
    Row('static: `admin = ["*"]`', of("maker"), (403, 403, 403, 403, 200, 200)),
    Row("static: for `b` and `a.*`, not for `a`", of("elsewhere"), FORBIDDEN),
    Row("static: of nobody", of("nobody"), REFUSED),
    Row("static: truncated", lambda _: STATIC[:-1], REFUSED),
    Row("static: revoked", but_revoked(of("everyone"), caller="everyone"), REFUSED),
    Row("static: a subject of its name revoked", but_revoked(of("everyone"), subject="everyone"), ALL),
    Row("JWT: RS256", lambda _: signed("RS256"), ALL),
    Row("JWT: ES256", lambda _: signed("ES256"), ALL),
    Row("JWT: EdDSA", lambda _: signed("EdDSA"), ALL),
    Row("JWT: HS256", lambda _: signed("HS256"), ALL),
    Row("JWT: for `b`, not for `a`", lambda _: signed(grants=FOR_B), FORBIDDEN),
    Row("JWT: for nothing", lambda _: signed(grants={}), FORBIDDEN),
    Row("JWT: says nothing of grants", lambda _: signed(grants=None), REFUSED),
    Row("JWT: expired", lambda _: signed(exp=time.time() - 1), REFUSED),
    Row("JWT: never expires", lambda _: signed(exp=None), REFUSED),
    Row("JWT: not yet valid", lambda _: signed(nbf=time.time() + 3600), REFUSED),
    Row("JWT: issued in the future", lambda _: signed(iat=time.time() + 3600), REFUSED),
    Row("JWT: for another audience", lambda _: signed(aud="another.example"), REFUSED),
    Row("JWT: for no audience", lambda _: signed(aud=None), REFUSED),
    Row("JWT: of another issuer", lambda _: signed(iss="https://another.example"), REFUSED),
    Row("JWT: of no issuer", lambda _: signed(iss=None), REFUSED),
    Row("JWT: signed with another key", lambda _: signed(key=private_key("RS256", 1)), REFUSED),
    Row("JWT: names a key that is not known", lambda _: signed(header={"kid": "another"}), REFUSED),
    Row("JWT: names the key of another algorithm", lambda _: signed(header={"kid": "ES256"}), REFUSED),
    Row("JWT: `alg` is `none`", lambda _: unsigned(), REFUSED),
    Row("JWT: HS256, with the public key for a secret", lambda _: confused(), REFUSED),
    Row("JWT: says where its key is (`jku`)", lambda _: signed(header={"jku": ISSUER}), REFUSED),
    Row("JWT: altered", lambda _: altered(signed(), sub="eve"), REFUSED),
    Row("JWT: truncated", lambda _: signed()[:-8], REFUSED),
    Row("JWT: without its signature", lambda _: signed().rpartition(".")[0] + ".", REFUSED),
    Row("JWT: its subject revoked", but_revoked(lambda _: signed(), subject="ada"), REFUSED),
    Row("JWT: its subject revoked, then issued anew", issued_anew, ALL),
    Row("JWT: its id revoked", but_revoked(lambda _: signed(jti="one"), id="one"), REFUSED),
    Row("minted here, for `a`", minted, (200, 200, 200, 403, 403, 403)),
    Row("minted here: expired", lambda _: own(exp=time.time() - 1), REFUSED),
    Row("minted with another secret", lambda _: own(secret=OWN_SECRET + "!"), REFUSED),
    Row("minted here: its subject revoked", but_revoked(minted, subject="visitor"), REFUSED),
    Row("minted here: its id revoked", minted_and_revoked, REFUSED),
)


def test_the_table_of_credentials_is_in_the_documents() -> None:
    assert table(["credential", *DOINGS], [(row.who, *row.gets) for row in ROWS]) in SECURITY


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.who)
async def test_who_gets_what_with_which_credential(serve: Serve, tmp_path: Path, row: Row) -> None:
    """Every credential with every action: 401 for one that is not good, 403 for one that is too narrow."""
    server = await serve(
        token=STATIC,
        caller=CALLERS,
        jwt_jwks=write_jwks(tmp_path),
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        token_secret=OWN_SECRET,
    )
    headers = ""
    if row.credential is not None:
        token = row.credential(server)
        headers = bearer(await token if inspect.isawaitable(token) else token)
    assert await statuses(server, headers) == row.gets
    await require_alike(server, headers, row.gets)


IN_HEADER = "Authorization: Bearer ..."
IN_URL = "access_token= in the URL if you cannot send headers"


async def test_a_refusal_says_what_would_help(serve: Serve) -> None:
    """In its challenge (RFC 6750, 3) and in words: no token, a bad one, one that is too narrow."""
    server = await serve(caller=(caller("subscriber", subscribe=("a",)),))
    found = [await PUBLISH.at(server, headers) for headers in ("", bearer("x"), bearer(static("subscriber")))]
    challenge = 'Bearer realm="sse-broadcast"'
    assert [(answer.status, answer.headers["www-authenticate"], answer.detail) for answer in found] == [
        (401, challenge, "publish: needs a token (Authorization: Bearer ...)"),
        (401, f'{challenge}, error="invalid_token"', "token: is not known"),
        (403, f'{challenge}, error="insufficient_scope"', "publish: the token does not allow it"),
    ]
    assert all(answer.headers["content-type"] == "application/problem+json" for answer in found)


@pytest.mark.parametrize(
    ("doing", "detail"),
    [
        (SUBSCRIBE, f"subscribe: needs a token ({IN_HEADER}, or {IN_URL})"),
        (Doing("GET", "/events/*"), f"subscribe: needs a token ({IN_HEADER}, or {IN_URL})"),
        (INSPECT, f"inspect: needs a token ({IN_HEADER})"),
        (TOKENS, f"admin '*': needs a token ({IN_HEADER})"),
    ],
)
async def test_whoever_shows_no_token_is_told_where_it_goes(serve: Serve, doing: Doing, detail: str) -> None:
    """To subscribe, into the URL too: an EventSource can send no header."""
    server = await serve(caller=(caller("reader", subscribe=("a",)),))
    answer = await doing.at(server)
    assert (answer.status, answer.detail) == (401, detail)


async def test_a_channel_that_needs_a_token_is_named(serve: Serve) -> None:
    """Where others may be read without one."""
    server = await serve(caller=(caller("reader", subscribe=("a",)),), anonymous_subscribe=("b",))
    for doing in (SUBSCRIBE, Doing("POST", "/events", JSON, b'{"channels": ["b", "a"]}')):
        answer = await doing.at(server)
        detail = f"subscribe 'a': needs a token ({IN_HEADER}, or {IN_URL})"
        assert (answer.status, answer.detail) == (401, detail)


@pytest.mark.parametrize(
    ("granted", "asked", "status"),
    [
        (("a", "b"), "a,b", 200),
        (("a",), "a,b", 403),
        (("a",), "b,a", 403),
        (("a",), "a*", 403),
        (("a.*",), "a.*", 200),
        (("a.*",), "a.b.*", 200),
        (("a.*",), "a.1,a.2", 200),
        (("a.*",), "*", 403),
        (("a.*",), "a", 403),
        (("*",), "*", 200),
        (("*.x",), "a*.x", 200),
        (("*.x",), "a.*", 403),
    ],
)
async def test_a_reader_gets_all_that_it_asks_for_or_nothing(
    serve: Serve, granted: tuple[str, ...], asked: str, status: int
) -> None:
    """Each channel and all that a pattern matches must be within one that is granted."""
    server = await serve(caller=(caller("reader", subscribe=granted),))
    for method in ("GET", "HEAD"):
        assert (
            await ask(server, method, f"/events/{asked}", headers=bearer(static("reader")))
        ).status == status
    query = asked.replace(",", "&channel=")
    for name in ("channel", "topic", "stream"):
        path = f"/events?{name}={query}"
        assert (await ask(server, "GET", path, headers=bearer(static("reader")))).status == status
    body = json.dumps({"channels": asked.split(",")}).encode()
    answer = await ask(server, "POST", "/events", headers=JSON + bearer(static("reader")), body=body)
    assert answer.status == status


@pytest.mark.parametrize(
    ("path", "kind", "body", "status"),
    [
        ("/send/a", "text/plain", "x", 200),
        ("/send/a?stream=1", "text/plain", "x", 200),
        ("/send/a,b", "text/plain", "x", 403),
        ("/send/b,a", "text/plain", "x", 403),
        ("/send", "text/plain", "x", 403),
        ("/send?channel=a", "text/plain", "x", 200),
        ("/send?channel=a&channel=b", "text/plain", "x", 403),
        ("/send", "application/json", '{"message": "x", "channel": "a"}', 200),
        ("/send", "application/json", '{"message": "x", "channel": "b"}', 403),
        ("/send", "application/json", '{"message": "x", "channels": ["a", "b"]}', 403),
        ("/send", "application/json", '[{"message": "x", "channel": "a"}, {"message": "x"}]', 403),
        ("/send", "application/x-ndjson", '{"message": "x", "channel": "a"}\n{"message": "x"}', 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_publisher_may_do_all_that_it_asks_for_or_nothing_is_published(
    serve: Serve, method: str, path: str, kind: str, body: str, status: int
) -> None:
    """However the channels are named, and in the last line of a batch too."""
    server = await serve(caller=(caller("publisher", publish=("a",)),))
    headers = f"Content-Type: {kind}\r\n{bearer(static('publisher'))}"
    answer = await ask(server, method, path, headers=headers, body=body.encode())
    assert answer.status == status
    assert server.broadcaster.counts.published == (status == 200)


async def test_a_publisher_who_may_publish_nowhere_is_not_listened_to(serve: Serve) -> None:
    """It is refused by its head: its body need not come, and nothing else is looked at."""
    server = await serve(caller=(caller("reader", subscribe=("*",)),))
    headers = f"Host: x\r\nContent-Length: 1000000\r\n{bearer(static('reader'))}"
    client = await server.connect()
    await client.send(f"POST /send/%20 HTTP/1.1\r\n{headers}\r\n".encode())
    assert await client.refusal() == (403, "publish: the token does not allow it")


async def test_a_subscriber_who_may_subscribe_nowhere_is_not_listened_to(serve: Serve) -> None:
    """It is refused by its head, whatever its body would be, and whatever is wrong with its query."""
    server = await serve(caller=(caller("publisher", publish=("*",)),))
    for first in ("POST /events", "POST /events?x=1", "GET /events", "GET /events?format=x"):
        client = await server.connect()
        headers = f"Host: x\r\nContent-Length: 1000000\r\n{bearer(static('publisher'))}"
        await client.send(f"{first} HTTP/1.1\r\n{headers}\r\n".encode())
        assert await client.refusal() == (403, "subscribe: the token does not allow it")


async def test_a_token_in_the_url_may_subscribe_by_a_body(serve: Serve) -> None:
    """It is all that may be there; in the body it is no member."""
    server = await serve(caller=(caller("reader", subscribe=("a",)),))
    body = b'{"channel": "a"}'
    path = f"/events?access_token={static('reader')}"
    assert (await ask(server, "POST", path, headers=JSON, body=body)).status == 200
    assert (await ask(server, "POST", f"{path}&channel=a", headers=JSON, body=body)).status == 400


async def test_only_channels_that_one_may_ask_about_are_listed(serve: Serve) -> None:
    server = await serve(caller=(caller("inspector", inspect=("a.*",)),))
    for channel in ("a.1", "a.2", "b", "secret"):
        await server.broadcaster.broadcast("x", channels=[channel])
    headers = bearer(static("inspector"))
    page = (await ask(server, "GET", "/channels?limit=1", headers=headers)).json
    assert ([each["channel"] for each in page["channels"]], page["next"]) == (["a.1"], "a.1")
    page = (await ask(server, "GET", "/channels?after=a.1", headers=headers)).json
    assert ([each["channel"] for each in page["channels"]], page["next"]) == (["a.2"], None)


# Where it came in.


@pytest.fixture
def socket_path() -> Iterator[Path]:
    # Not below tmp_path: its name may be longer than an address can be.
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "s"


@dataclass(frozen=True)
class Mode:
    """A server without any credential configured, where it is called, and what that gets."""

    called: str
    shown: str
    gets: tuple[int, ...]
    settings: dict[str, Any]
    headers: str = ""


ONLY_INSPECT = (401, 401, 200, 200, 401, 401)
ONLY_SERVED = (200, 404, 404, 404, 404, 404)
ONLY_PUBLISH = (401, 200, 401, 401, 401, 401)
INSECURE = (200, 200, 401, 401, 401, 401)
ELSEWHERE = {"host": "0.0.0.0"}
UNKNOWN = bearer("a-token-that-nobody-has-given")
SUBSCRIBER = (200, 401, 401, 401, 401, 401)
BY_PROXY = "X-Forwarded-For: 192.0.2.1\r\n"

TOKEN = {"token": STATIC}

MODES = (
    Mode("loopback", "nothing", ALL, {}),
    Mode("loopback", "any token: it is not looked at", ALL, {}, UNKNOWN),
    Mode("loopback, `insecure_publish`", "nothing", ALL, {"insecure_publish": True}),
    Mode("loopback, by a proxy that says so", "nothing", SUBSCRIBER, {}, BY_PROXY),
    Mode("a UNIX socket", "nothing", ALL, {"listener": "unix"}),
    Mode("a UNIX socket, by a proxy that says so", "nothing", SUBSCRIBER, {"listener": "unix"}, BY_PROXY),
    Mode("another address", "nothing", SUBSCRIBER, ELSEWHERE),
    Mode("another address", "the token it printed", ALL, ELSEWHERE, "printed"),
    Mode("another address", "any other token", REFUSED, ELSEWHERE, UNKNOWN),
    Mode("another address, `insecure_publish`", "nothing", INSECURE, {**ELSEWHERE, "insecure_publish": True}),
    Mode('another address, `endpoints = ["subscribe"]`', "nothing", ONLY_SERVED, {"listener": "subscribe"}),
    Mode('any, `anonymous_subscribe = ["a"]`', "nothing", SUBSCRIBER, {"anonymous_subscribe": ("a",)}),
    Mode('any, `anonymous_subscribe = ["b"]`', "nothing", ANONYMOUS, {"anonymous_subscribe": ("b",)}),
    Mode('any, `anonymous_publish = ["a"]`', "nothing", ONLY_PUBLISH, {"anonymous_publish": ("a",)}),
    Mode('any, `anonymous_inspect = ["*"]`', "nothing", ONLY_INSPECT, {"anonymous_inspect": ("*",)}),
    Mode("any, `token`", "nothing", ANONYMOUS, {"token": STATIC}),
    Mode("a UNIX socket, `token`", "nothing", ANONYMOUS, {"token": STATIC, "listener": "unix"}),
    Mode("any, `token`, `insecure_publish`", "nothing", ONLY_PUBLISH, {**TOKEN, "insecure_publish": True}),
)


def test_the_table_of_modes_is_in_the_documents() -> None:
    assert table(["called by", "with", *DOINGS], [(m.called, m.shown, *m.gets) for m in MODES]) in SECURITY


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.called}, with {mode.shown}")
async def test_who_gets_what_by_which_way(serve: Serve, socket_path: Path, mode: Mode) -> None:
    """Open to this machine, to others for reading alone, and health to everyone."""
    listeners = {
        "unix": ListenerRule(host=f"unix:{socket_path}"),
        "subscribe": ListenerRule(host="0.0.0.0", port=0, endpoints=(Endpoint.SUBSCRIBE,)),
    }
    kind = mode.settings.get("listener")
    server = await serve(**mode.settings | ({"listener": (listeners[kind],)} if kind else {}))
    called = socket_path if kind == "unix" else server
    headers = bearer(server.token or "") if mode.headers == "printed" else mode.headers
    assert await statuses(called, headers) == mode.gets
    await require_alike(called, headers, mode.gets)
    for path in ("/healthz", "/readyz"):
        assert (await ask(called, "GET", path, headers=headers, host=EVIL)).status == 200


@pytest.mark.parametrize(
    "header", ["Forwarded: for=192.0.2.1", "x-forwarded-for: 192.0.2.1", "Via: 1.1 proxy", "X-Real-IP:"]
)
async def test_whoever_a_proxy_brings_is_not_on_this_machine(server: LiveServer, header: str) -> None:
    """Any of the headers that proxies write will do; a web page that writes one has gained nothing."""
    assert await statuses(server, f"{header}\r\n") == SUBSCRIBER
    for said, host, status in ((f"Origin: {FOREIGN}\r\n", "localhost", 403), ("", "evil.example", 421)):
        assert (await SUBSCRIBE.at(server, f"{header}\r\n{said}", host=host)).status == status


async def test_an_anonymous_grant_closes_what_insecure_publish_leaves_open(serve: Serve) -> None:
    """What anyone may do was said: the loopback is no exception from it."""
    server = await serve(anonymous_publish=("b",), insecure_publish=True)
    assert await statuses(server) == (401, 200, 401, 401, 401, 401)


@pytest.mark.parametrize(("host", "makes"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
async def test_only_a_server_that_others_reach_makes_a_token(serve: Serve, host: str, *, makes: bool) -> None:
    """And none where one is configured."""
    assert ((await serve(host=host)).token is not None) is makes
    assert (await serve(host=host, token=STATIC)).token is None


async def test_every_token_that_is_made_is_another(serve: Serve) -> None:
    """Of 256 bits."""
    tokens = {(await serve(**ELSEWHERE)).token for _ in range(3)}
    assert len(tokens) == 3
    assert all(token and len(token) == 43 for token in tokens)


async def test_each_listener_serves_its_own_endpoints(serve: Serve, socket_path: Path) -> None:
    """What is elsewhere is not there, whatever the credential; health is everywhere."""
    public = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.SUBSCRIBE,))
    private = ListenerRule(host=f"unix:{socket_path}", endpoints=(Endpoint.PUBLISH, Endpoint.ADMIN))
    server = await serve(listener=(public, private), token=STATIC)
    assert await statuses(server, bearer(STATIC)) == (200, 404, 404, 404, 404, 404)
    assert await statuses(socket_path, bearer(STATIC)) == (404, 200, 404, 404, 200, 200)
    assert await statuses(server) == (401, 404, 404, 404, 404, 404)
    for called in (server, socket_path):
        assert (await ask(called, "GET", "/healthz")).status == 200


async def test_a_mounted_application_is_open_to_the_loopback_too() -> None:
    """It is asked by what address it was called, since the listening socket is another's."""
    async with mounted() as push:
        client = await push.connect()
        assert (await client.ask("POST", "/push/send", body=b"x"))[0] == 200
        await client.send(b"POST /push/send HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1\r\n\r\nx")
        assert (await client.answer())[0] == 421
        client.close()


# Where a token can be.


@dataclass(frozen=True)
class Shown:
    """A token in some place of a request, and what becomes of that."""

    what: str
    doing: Doing
    gets: int
    headers: str = ""
    path: str | None = None


COOKIE = "visitor"
GOOD, BAD = static("reader"), "not-good-0123456789"
APP, FOREIGN = "https://app.example", "https://evil.example"
OURS = "http://localhost"


def cookie(token: str, origin: str | None = None) -> str:
    said = "" if origin is None else f"Origin: {origin}\r\n"
    return f"Cookie: theme=dark; {COOKIE}={token}\r\n{said}"


def query(token: str) -> str:
    return f"/events/a?access_token={token}"


STOLEN, RIDING = cookie(GOOD, FOREIGN), cookie(BAD, FOREIGN)

SHOWN = (
    Shown("`Authorization: Bearer`", SUBSCRIBE, 200, bearer(GOOD)),
    Shown("`Authorization: bearer`, in any case", SUBSCRIBE, 200, f"Authorization: bEARER {GOOD}\r\n"),
    Shown("`Authorization: Bearer`, bad", SUBSCRIBE, 401, bearer(BAD)),
    Shown("`Authorization: Bearer`, empty", SUBSCRIBE, 401, "Authorization: Bearer\r\n"),
    Shown("`Authorization: Basic`", SUBSCRIBE, 401, "Authorization: Basic cmVhZGVyOnJlYWRlcg==\r\n"),
    Shown("`Authorization`, twice", SUBSCRIBE, 400, bearer(GOOD) + bearer(GOOD)),
    Shown("`access_token=`", SUBSCRIBE, 200, path=query(GOOD)),
    Shown("`access_token=`, bad", SUBSCRIBE, 401, path=query(BAD)),
    Shown("`access_token=`, empty", SUBSCRIBE, 401, path=query("")),
    Shown("`access_token=`, twice", SUBSCRIBE, 400, path=query(f"{GOOD}&access_token={GOOD}")),
    Shown("`access_token=`", PUBLISH, 400, path=f"/send/a?access_token={GOOD}"),
    Shown("`access_token=`", INSPECT, 400, path=f"/channels/a?access_token={GOOD}"),
    Shown("`access_token=`", STATUS, 400, path=f"/status?access_token={GOOD}"),
    Shown("`access_token=`", TOKENS, 400, path=f"/tokens?access_token={GOOD}"),
    Shown("`access_token=`", REVOKE, 400, path=f"/revoke?access_token={GOOD}"),
    Shown("the cookie", SUBSCRIBE, 200, cookie(GOOD)),
    Shown("the cookie, bad", SUBSCRIBE, 401, cookie(BAD)),
    Shown("the cookie, empty", SUBSCRIBE, 401, cookie("")),
    Shown("the cookie, twice", SUBSCRIBE, 400, f"Cookie: {COOKIE}={GOOD}; {COOKIE}={BAD}\r\n"),
    Shown("the cookie, in two headers", SUBSCRIBE, 400, cookie(GOOD) + cookie(GOOD)),
    Shown("the cookie, in the second of two headers", SUBSCRIBE, 200, "Cookie: a=b\r\n" + cookie(GOOD)),
    Shown("a cookie of another name", SUBSCRIBE, 401, f"Cookie: session={GOOD}\r\n"),
    Shown("the cookie, from a page of our own origin", SUBSCRIBE, 200, cookie(GOOD, OURS)),
    Shown("the cookie, from a page of an allowed origin", SUBSCRIBE, 200, cookie(GOOD, APP)),
    Shown("the cookie, from a foreign page, which gets nothing to read", SUBSCRIBE, 200, STOLEN),
    Shown("the cookie, from a page of our own origin", PUBLISH, 200, cookie(GOOD, OURS)),
    Shown("the cookie, from a page of an allowed origin", PUBLISH, 200, cookie(GOOD, APP)),
    Shown("the cookie, from a foreign page", PUBLISH, 403, cookie(GOOD, FOREIGN)),
    Shown("the cookie, from a page of no origin (`null`)", PUBLISH, 403, cookie(GOOD, "null")),
    Shown("the cookie, without `Origin`", PUBLISH, 403, cookie(GOOD)),
    Shown("the cookie, from a page of another port", PUBLISH, 403, cookie(GOOD, f"{OURS}:8080")),
    Shown("the cookie, from a foreign page", TOKENS, 403, cookie(STATIC, FOREIGN)),
    Shown("the cookie, from a foreign page", REVOKE, 403, cookie(STATIC, FOREIGN)),
    Shown("the cookie, from a page of our own origin", TOKENS, 200, cookie(STATIC, OURS)),
    Shown("`Authorization` and `access_token=`, both good", SUBSCRIBE, 400, bearer(GOOD), query(GOOD)),
    Shown("`Authorization`, good; the cookie, bad", SUBSCRIBE, 200, bearer(GOOD) + cookie(BAD)),
    Shown("`Authorization`, bad; the cookie, good", SUBSCRIBE, 401, bearer(BAD) + cookie(GOOD)),
    Shown("`Authorization`, good; the cookie, from a foreign page", PUBLISH, 200, bearer(GOOD) + RIDING),
    Shown("`access_token=`, good; the cookie, bad", SUBSCRIBE, 200, cookie(BAD), query(GOOD)),
    Shown("`access_token=`, bad; the cookie, good", SUBSCRIBE, 401, cookie(GOOD), query(BAD)),
)


def test_the_table_of_places_is_in_the_documents() -> None:
    assert table(["where the token is", "of", "gets"], [(s.what, s.doing, s.gets) for s in SHOWN]) in SECURITY


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{shown.doing}, {shown.what}")
async def test_where_a_token_can_be(serve: Serve, shown: Shown) -> None:
    """The first place that has one counts, good or bad: never the next, and never nobody."""
    reader = caller("reader", subscribe=("a",), publish=("a",), inspect=("*",))
    server = await serve(caller=(reader,), token=STATIC, cookie=COOKIE, cors_origins=(APP,))
    doing = Doing(shown.doing.method, shown.path or shown.doing.path, shown.doing.headers, shown.doing.body)
    answer = await doing.at(server, shown.headers)
    assert answer.status == shown.gets
    assert ("access-control-allow-origin" in answer.headers) == (APP in shown.headers)
    assert server.broadcaster.counts.published == (
        answer.status == 200 and doing.method == "POST" and "send" in doing.path
    )


async def test_a_bad_token_is_an_error_where_none_is_needed(serve: Serve) -> None:
    """Whoever shows one means to be somebody: an answer for nobody would hide that it is not good."""
    server = await serve(token=STATIC, anonymous_subscribe=("*",), cookie=COOKIE)
    assert (await SUBSCRIBE.at(server)).status == 200
    for headers in (bearer(BAD), cookie(BAD)):
        assert (await SUBSCRIBE.at(server, headers)).status == 401
    assert (await ask(server, "GET", query(BAD))).status == 401


async def test_a_cookie_is_looked_at_only_where_one_is_configured(serve: Serve) -> None:
    """By default none is a credential."""
    server = await serve(token=STATIC)
    assert (await SUBSCRIBE.at(server, cookie(STATIC))).status == 401


@pytest.mark.parametrize("text", [f'"{GOOD}"', f" {GOOD} "])
async def test_a_cookie_may_have_quotes_and_space_around_it(serve: Serve, text: str) -> None:
    """As RFC 6265 has it."""
    server = await serve(caller=(caller("reader", subscribe=("a",)),), cookie=COOKIE)
    assert (await SUBSCRIBE.at(server, cookie(text))).status == 200


@pytest.mark.parametrize("token", ["\udcff" * 20, "é" * 20, "a b" * 10, "a\tb" * 10, "%00" * 10, "a,b" * 10])
async def test_what_no_token_can_be_is_refused_as_one(serve: Serve, token: str) -> None:
    """In any of the places; and nothing of it is said again."""
    server = await serve(token=STATIC, cookie=COOKIE)
    for headers in (bearer(token), cookie(token)):
        answer = await SUBSCRIBE.at(server, headers)
        assert answer.status == 401
        assert answer.detail in {"token: is not known", "token: contains a character that is not ASCII"}
    if token.isprintable() and " " not in token:
        assert (await ask(server, "GET", query(quote(token)))).status == 401


async def test_over_tls_a_page_without_tls_is_foreign(serve: Serve, tmp_path: Path) -> None:
    """Anyone between could have written it; the other way round it is a proxy that speaks TLS for us."""
    authenticator = trustme.CA()
    certificate, key = write_certificate(authenticator, tmp_path)
    plain = await serve(token=STATIC, cookie=COOKIE)
    secure = await serve(token=STATIC, cookie=COOKIE, certificate=certificate, key=key)
    found = []
    async with ClientSession(timeout=ClientTimeout(30)) as session:
        for server in (plain, secure):
            own = server.url.partition("://")[2]
            for scheme in ("http", "https"):
                headers = {"Cookie": f"{COOKIE}={STATIC}", "Origin": f"{scheme}://{own}"}
                async with session.post(f"{server.url}/send", data="x", headers=headers, ssl=False) as answer:
                    found.append(answer.status)
    assert found == [200, 200, 403, 200]


# Web pages, where nothing else stands between them and a server of this machine.


@dataclass(frozen=True)
class Page:
    """A Host and an Origin, and what an open server makes of them."""

    called: str
    host: str | None
    origin: str | None
    gets: int
    settings: dict[str, Any]


def page(
    called: str, gets: int, *, host: str | None = "localhost:8000", origin: str | None = None, **settings: Any
) -> Page:
    return Page(called, host, origin, gets, settings)


PAGES = (
    page("`Host: 127.0.0.1:8000`", 200, host="127.0.0.1:8000"),
    page("`Host: 127.1.2.3`", 200, host="127.1.2.3"),
    page("`Host: [::1]:8000`", 200, host="[::1]:8000"),
    page("`Host: LocalHost.:8000`", 200, host="LocalHost.:8000"),
    page("`Host: app.localhost`", 200, host="app.localhost"),
    page("`Host: evil.example`, by DNS rebinding", 421, host=EVIL),
    page("`Host: localhost.evil.example`", 421, host="localhost.evil.example"),
    page("`Host: evil-localhost`", 421, host="evil-localhost"),
    page("`Host: 127.0.0.1.evil.example`", 421, host="127.0.0.1.evil.example"),
    page("`Host: 192.168.0.1`", 421, host="192.168.0.1"),
    page("`Host:`", 421, host=""),
    page("`Host: box.lan`, one of `allowed_hosts`", 200, host="box.lan:8000", allowed_hosts=("box.lan",)),
    page("`Origin: http://localhost:8000`, our own", 200, origin="http://localhost:8000"),
    page("`Origin: http://localhost:3000`", 403, origin="http://localhost:3000"),
    page("`Origin: http://127.0.0.1:8000`, which is another", 403, origin="http://127.0.0.1:8000"),
    page("`Origin: https://evil.example`", 403, origin="https://evil.example"),
    page("`Origin: null`", 403, origin="null"),
    page("`Origin: https://app.example`, one of `cors_origins`", 200, origin=APP, cors_origins=(APP,)),
    page("Host and Origin of evil.example, by DNS rebinding", 421, host=EVIL, origin=f"http://{EVIL}"),
    page(
        "any of these, where credentials are configured, with a good one",
        200,
        host=EVIL,
        origin=FOREIGN,
        token=STATIC,
    ),
)


def test_the_table_of_pages_is_in_the_documents() -> None:
    assert table(["request", "gets"], [(page.called, page.gets) for page in PAGES]) in SECURITY


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.called)
async def test_which_web_pages_an_open_server_takes_requests_of(serve: Serve, page: Page) -> None:
    """None that is not its own: not by its address, and not under another name. Nothing is published."""
    server = await serve(**page.settings)
    headers = bearer(page.settings.get("token", "any"))
    headers += "" if page.origin is None else f"Origin: {page.origin}\r\n"
    for doing in DOINGS:
        answer = await doing.at(server, headers, host=page.host)
        assert answer.status == page.gets, doing
    assert server.broadcaster.counts.published == (page.gets == 200)


async def test_a_request_without_a_host_is_refused(server: LiveServer) -> None:
    """HTTP/1.0 may have none, and no browser speaks that."""
    assert (await PUBLISH.at(server, host=None, version="1.0")).status == 421
    assert (await PUBLISH.at(server, host=None)).status == 400
    assert server.broadcaster.counts.published == 0


async def test_a_unix_socket_has_no_name_to_be_called_by(serve: Serve, socket_path: Path) -> None:
    """Any Host will do, since no web page reaches it by itself; a foreign Origin will not."""
    await serve(listener=(ListenerRule(host=f"unix:{socket_path}"),))
    assert (await PUBLISH.at(socket_path, host="anything.example")).status == 200
    assert (await PUBLISH.at(socket_path, f"Origin: {FOREIGN}\r\n")).status == 403


async def test_what_is_refused_is_told(server: LiveServer) -> None:
    assert (await STATUS.at(server, host="evil.example:8000")).detail == (
        "Host: 'evil.example:8000' is not this server's; add it to allowed_hosts, or set a token"
    )
    assert (await STATUS.at(server, "Origin: null\r\n")).detail == (
        "Origin: 'null' is not allowed; add it to cors_origins to allow it"
    )


@pytest.mark.parametrize(
    ("host", "name", "loopback"),
    [
        ("localhost", "localhost", True),
        ("LOCALHOST:80", "localhost", True),
        ("localhost.", "localhost", True),
        ("a.localhost:1", "a.localhost", True),
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("127.255.0.1", "127.255.0.1", True),
        ("[::1]:8000", "[::1]", True),
        ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", False),
        ("128.0.0.1", "128.0.0.1", False),
        ("0.0.0.0", "0.0.0.0", False),
        ("[::]", "[::]", False),
        ("127.1", "127.1", False),
        ("2130706433", "2130706433", False),
        ("notlocalhost", "notlocalhost", False),
        ("", "", False),
        ("\udcff", "\udcff", False),
    ],
)
def test_a_host_is_this_machines_or_not(host: str, name: str, *, loopback: bool) -> None:
    """By its name alone, however it is written; nothing is looked up."""
    assert host_name(host) == name
    assert is_loopback_name(name) is loopback
