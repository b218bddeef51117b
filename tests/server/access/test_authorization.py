"""Authorization: the result of each action with each credential. The tables here are those of SECURITY.md."""

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
class Action:
    """An action that a caller may try."""

    method: str
    path: str
    headers: str = ""
    body: bytes = b""

    def __str__(self) -> str:
        return f"`{self.method} {self.path}`"

    async def at(self, server: LiveServer | Path, headers: str = "", **others: Any) -> Answer:
        """Do the action."""
        headers = self.headers + headers
        return await ask(server, self.method, self.path, headers=headers, body=self.body, **others)


SUBSCRIBE = Action("GET", "/events/a")
PUBLISH = Action("POST", "/send/a", body=b"x")
INSPECT = Action("GET", "/channels/a")
STATUS = Action("GET", "/status")
TOKENS = Action("POST", "/tokens", JSON, b'{"grants": {}}')
REVOKE = Action("POST", "/revoke", JSON, b'{"id": "nobody"}')
ACTIONS = (SUBSCRIBE, PUBLISH, INSPECT, STATUS, TOKENS, REVOKE)

ALL = (200,) * 6
ANONYMOUS = REFUSED = (401,) * 6
FORBIDDEN = (403,) * 6
FOR_B = {action: ["b"] for action in GRANTS}
EVIL = "evil.example"


ALIKE = (
    (Action("GET", "/metrics"), STATUS, 200),
    (Action("GET", "/subscribers"), STATUS, 200),
    (Action("GET", "/subscribers/0"), STATUS, 404),
    (Action("DELETE", "/subscribers/0"), REVOKE, 404),
    (Action("POST", "/reload"), REVOKE, 200),
    (Action("POST", "/events", JSON, b'{"channel": "a"}'), SUBSCRIBE, 200),
    (Action("HEAD", "/events/a"), SUBSCRIBE, 200),
)
"""Actions with the status of another one, and their status if that is 200: there is no such subscriber."""


async def require_alike(server: LiveServer | Path, headers: str, gets: tuple[int, ...]) -> None:
    """Assert that actions without a column of their own have the status of a similar one."""
    for action, like, allowed in ALIKE:
        expected = gets[ACTIONS.index(like)]
        assert (await action.at(server, headers)).status == (allowed if expected == 200 else expected), action


async def statuses(server: LiveServer | Path, headers: str = "") -> tuple[int, ...]:
    """Do all actions, and return the status of each."""
    return tuple([(await action.at(server, headers)).status for action in ACTIONS])


# Credentials and actions.

Credential = Callable[[LiveServer], str | Awaitable[str]]
"""Makes a token that is shown to this server."""


async def mint(server: LiveServer, **grants: Sequence[str]) -> tuple[str, str]:
    """Issue a token, and return it with its id."""
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
    """A credential, and the status of each action with it."""

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
    assert table(["credential", *ACTIONS], [(row.who, *row.gets) for row in ROWS]) in SECURITY


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.who)
async def test_each_credential_allows_its_actions(serve: Serve, tmp_path: Path, row: Row) -> None:
    """A bad credential is a 401, one without the permission is a 403."""
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


async def test_a_refusal_has_a_challenge_and_an_explanation(serve: Serve) -> None:
    """RFC 6750, 3: it tells apart no token, a bad one, and one without the permission."""
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
    ("action", "detail"),
    [
        (SUBSCRIBE, f"subscribe: needs a token ({IN_HEADER}, or {IN_URL})"),
        (Action("GET", "/events/*"), f"subscribe: needs a token ({IN_HEADER}, or {IN_URL})"),
        (INSPECT, f"inspect: needs a token ({IN_HEADER})"),
        (TOKENS, f"admin '*': needs a token ({IN_HEADER})"),
    ],
)
async def test_a_refusal_without_a_token_names_its_places(serve: Serve, action: Action, detail: str) -> None:
    """For a subscription the URL is one of the places: an EventSource can send no header."""
    server = await serve(caller=(caller("reader", subscribe=("a",)),))
    answer = await action.at(server)
    assert (answer.status, answer.detail) == (401, detail)


async def test_a_channel_that_needs_a_token_is_named(serve: Serve) -> None:
    """Other channels may be read without one."""
    server = await serve(caller=(caller("reader", subscribe=("a",)),), anonymous_subscribe=("b",))
    for action in (SUBSCRIBE, Action("POST", "/events", JSON, b'{"channels": ["b", "a"]}')):
        answer = await action.at(server)
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
async def test_a_subscription_is_granted_whole_or_not_at_all(
    serve: Serve, granted: tuple[str, ...], asked: str, status: int
) -> None:
    """Each channel, and all that a pattern matches, must be within a granted one."""
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
async def test_a_publish_is_granted_whole_or_not_at_all(
    serve: Serve, method: str, path: str, kind: str, body: str, status: int
) -> None:
    """Channels may be in the path, the query or the last line of a batch."""
    server = await serve(caller=(caller("publisher", publish=("a",)),))
    headers = f"Content-Type: {kind}\r\n{bearer(static('publisher'))}"
    answer = await ask(server, method, path, headers=headers, body=body.encode())
    assert answer.status == status
    assert server.broadcaster.counts.published == (status == 200)


async def test_a_publisher_without_channels_is_refused_by_its_head(serve: Serve) -> None:
    """Its body is not read, and nothing else is checked."""
    server = await serve(caller=(caller("reader", subscribe=("*",)),))
    headers = f"Host: x\r\nContent-Length: 1000000\r\n{bearer(static('reader'))}"
    client = await server.connect()
    await client.send(f"POST /send/%20 HTTP/1.1\r\n{headers}\r\n".encode())
    assert await client.refusal() == (403, "publish: the token does not allow it")


async def test_a_subscriber_without_channels_is_refused_by_its_head(serve: Serve) -> None:
    """Neither its body nor an error in its query matters."""
    server = await serve(caller=(caller("publisher", publish=("*",)),))
    for first in ("POST /events", "POST /events?x=1", "GET /events", "GET /events?format=x"):
        client = await server.connect()
        headers = f"Host: x\r\nContent-Length: 1000000\r\n{bearer(static('publisher'))}"
        await client.send(f"{first} HTTP/1.1\r\n{headers}\r\n".encode())
        assert await client.refusal() == (403, "subscribe: the token does not allow it")


async def test_a_token_in_the_url_may_subscribe_by_a_body(serve: Serve) -> None:
    """The URL may have the token only, and the body may not have it."""
    server = await serve(caller=(caller("reader", subscribe=("a",)),))
    body = b'{"channel": "a"}'
    path = f"/events?access_token={static('reader')}"
    assert (await ask(server, "POST", path, headers=JSON, body=body)).status == 200
    assert (await ask(server, "POST", f"{path}&channel=a", headers=JSON, body=body)).status == 400


async def test_only_channels_that_a_caller_may_inspect_are_listed(serve: Serve) -> None:
    server = await serve(caller=(caller("inspector", inspect=("a.*",)),))
    for channel in ("a.1", "a.2", "b", "secret"):
        await server.broadcaster.broadcast("x", channels=[channel])
    headers = bearer(static("inspector"))
    page = (await ask(server, "GET", "/channels?limit=1", headers=headers)).json
    assert ([each["channel"] for each in page["channels"]], page["next"]) == (["a.1"], "a.1")
    page = (await ask(server, "GET", "/channels?after=a.1", headers=headers)).json
    assert ([each["channel"] for each in page["channels"]], page["next"]) == (["a.2"], None)


# Listeners.


@pytest.fixture
def socket_path() -> Iterator[Path]:
    # Not below tmp_path: its name may be too long for a socket address.
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "s"


@dataclass(frozen=True)
class Mode:
    """A server without credentials, the address it is called by, and the status of each action."""

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
    assert table(["called by", "with", *ACTIONS], [(m.called, m.shown, *m.gets) for m in MODES]) in SECURITY


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.called}, with {mode.shown}")
async def test_access_depends_on_the_listener_and_the_address(
    serve: Serve, socket_path: Path, mode: Mode
) -> None:
    """Loopback may do all, others may only subscribe, and all may check the health."""
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
async def test_a_request_through_a_proxy_is_not_local(server: LiveServer, header: str) -> None:
    """Any header that proxies add counts. A web page that adds one gains nothing by it."""
    assert await statuses(server, f"{header}\r\n") == SUBSCRIBER
    for said, host, status in ((f"Origin: {FOREIGN}\r\n", "localhost", 403), ("", "evil.example", 421)):
        assert (await SUBSCRIBE.at(server, f"{header}\r\n{said}", host=host)).status == status


async def test_an_anonymous_grant_overrides_insecure_publish(serve: Serve) -> None:
    """It lists all anonymous permissions, for loopback too."""
    server = await serve(anonymous_publish=("b",), insecure_publish=True)
    assert await statuses(server) == (401, 200, 401, 401, 401, 401)


@pytest.mark.parametrize(("host", "makes"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
async def test_a_token_is_generated_only_if_others_can_connect(
    serve: Serve, host: str, *, makes: bool
) -> None:
    """None is generated beside a configured one."""
    assert ((await serve(host=host)).token is not None) is makes
    assert (await serve(host=host, token=STATIC)).token is None


async def test_each_generated_token_is_different(serve: Serve) -> None:
    """It has 256 bits."""
    tokens = {(await serve(**ELSEWHERE)).token for _ in range(3)}
    assert len(tokens) == 3
    assert all(token and len(token) == 43 for token in tokens)


async def test_each_listener_has_its_own_endpoints(serve: Serve, socket_path: Path) -> None:
    """The others are 404 with any credential. Health checks are on every listener."""
    public = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.SUBSCRIBE,))
    private = ListenerRule(host=f"unix:{socket_path}", endpoints=(Endpoint.PUBLISH, Endpoint.ADMIN))
    server = await serve(listener=(public, private), token=STATIC)
    assert await statuses(server, bearer(STATIC)) == (200, 404, 404, 404, 404, 404)
    assert await statuses(socket_path, bearer(STATIC)) == (404, 200, 404, 404, 200, 200)
    assert await statuses(server) == (401, 404, 404, 404, 404, 404)
    for called in (server, socket_path):
        assert (await ask(called, "GET", "/healthz")).status == 200


async def test_a_mounted_application_is_open_to_loopback_too() -> None:
    """It goes by the address of the request, since the listening socket belongs to another server."""
    async with mounted() as push:
        client = await push.connect()
        assert (await client.ask("POST", "/push/send", body=b"x"))[0] == 200
        await client.send(b"POST /push/send HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1\r\n\r\nx")
        assert (await client.answer())[0] == 421
        client.close()


# Places of a token.


@dataclass(frozen=True)
class Placement:
    """A token in some place of a request, and the resulting status."""

    what: str
    action: Action
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
    Placement("`Authorization: Bearer`", SUBSCRIBE, 200, bearer(GOOD)),
    Placement("`Authorization: bearer`, in any case", SUBSCRIBE, 200, f"Authorization: bEARER {GOOD}\r\n"),
    Placement("`Authorization: Bearer`, bad", SUBSCRIBE, 401, bearer(BAD)),
    Placement("`Authorization: Bearer`, empty", SUBSCRIBE, 401, "Authorization: Bearer\r\n"),
    Placement("`Authorization: Basic`", SUBSCRIBE, 401, "Authorization: Basic cmVhZGVyOnJlYWRlcg==\r\n"),
    Placement("`Authorization`, twice", SUBSCRIBE, 400, bearer(GOOD) + bearer(GOOD)),
    Placement("`access_token=`", SUBSCRIBE, 200, path=query(GOOD)),
    Placement("`access_token=`, bad", SUBSCRIBE, 401, path=query(BAD)),
    Placement("`access_token=`, empty", SUBSCRIBE, 401, path=query("")),
    Placement("`access_token=`, twice", SUBSCRIBE, 400, path=query(f"{GOOD}&access_token={GOOD}")),
    Placement("`access_token=`", PUBLISH, 400, path=f"/send/a?access_token={GOOD}"),
    Placement("`access_token=`", INSPECT, 400, path=f"/channels/a?access_token={GOOD}"),
    Placement("`access_token=`", STATUS, 400, path=f"/status?access_token={GOOD}"),
    Placement("`access_token=`", TOKENS, 400, path=f"/tokens?access_token={GOOD}"),
    Placement("`access_token=`", REVOKE, 400, path=f"/revoke?access_token={GOOD}"),
    Placement("the cookie", SUBSCRIBE, 200, cookie(GOOD)),
    Placement("the cookie, bad", SUBSCRIBE, 401, cookie(BAD)),
    Placement("the cookie, empty", SUBSCRIBE, 401, cookie("")),
    Placement("the cookie, twice", SUBSCRIBE, 400, f"Cookie: {COOKIE}={GOOD}; {COOKIE}={BAD}\r\n"),
    Placement("the cookie, in two headers", SUBSCRIBE, 400, cookie(GOOD) + cookie(GOOD)),
    Placement("the cookie, in the second of two headers", SUBSCRIBE, 200, "Cookie: a=b\r\n" + cookie(GOOD)),
    Placement("a cookie of another name", SUBSCRIBE, 401, f"Cookie: session={GOOD}\r\n"),
    Placement("the cookie, from a page of our own origin", SUBSCRIBE, 200, cookie(GOOD, OURS)),
    Placement("the cookie, from a page of an allowed origin", SUBSCRIBE, 200, cookie(GOOD, APP)),
    Placement("the cookie, from a foreign page, which gets nothing to read", SUBSCRIBE, 200, STOLEN),
    Placement("the cookie, from a page of our own origin", PUBLISH, 200, cookie(GOOD, OURS)),
    Placement("the cookie, from a page of an allowed origin", PUBLISH, 200, cookie(GOOD, APP)),
    Placement("the cookie, from a foreign page", PUBLISH, 403, cookie(GOOD, FOREIGN)),
    Placement("the cookie, from a page of no origin (`null`)", PUBLISH, 403, cookie(GOOD, "null")),
    Placement("the cookie, without `Origin`", PUBLISH, 403, cookie(GOOD)),
    Placement("the cookie, from a page of another port", PUBLISH, 403, cookie(GOOD, f"{OURS}:8080")),
    Placement("the cookie, from a foreign page", TOKENS, 403, cookie(STATIC, FOREIGN)),
    Placement("the cookie, from a foreign page", REVOKE, 403, cookie(STATIC, FOREIGN)),
    Placement("the cookie, from a page of our own origin", TOKENS, 200, cookie(STATIC, OURS)),
    Placement("`Authorization` and `access_token=`, both good", SUBSCRIBE, 400, bearer(GOOD), query(GOOD)),
    Placement("`Authorization`, good; the cookie, bad", SUBSCRIBE, 200, bearer(GOOD) + cookie(BAD)),
    Placement("`Authorization`, bad; the cookie, good", SUBSCRIBE, 401, bearer(BAD) + cookie(GOOD)),
    Placement("`Authorization`, good; the cookie, from a foreign page", PUBLISH, 200, bearer(GOOD) + RIDING),
    Placement("`access_token=`, good; the cookie, bad", SUBSCRIBE, 200, cookie(BAD), query(GOOD)),
    Placement("`access_token=`, bad; the cookie, good", SUBSCRIBE, 401, cookie(GOOD), query(BAD)),
)


def test_the_table_of_places_is_in_the_documents() -> None:
    assert (
        table(["where the token is", "of", "gets"], [(s.what, s.action, s.gets) for s in SHOWN]) in SECURITY
    )


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{shown.action}, {shown.what}")
async def test_the_first_place_with_a_token_counts(serve: Serve, shown: Placement) -> None:
    """A bad token there is an error: neither the next place nor anonymous access is tried."""
    subscriber = caller("reader", subscribe=("a",), publish=("a",), inspect=("*",))
    server = await serve(caller=(subscriber,), token=STATIC, cookie=COOKIE, cors_origins=(APP,))
    action = Action(
        shown.action.method, shown.path or shown.action.path, shown.action.headers, shown.action.body
    )
    answer = await action.at(server, shown.headers)
    assert answer.status == shown.gets
    assert ("access-control-allow-origin" in answer.headers) == (APP in shown.headers)
    assert server.broadcaster.counts.published == (
        answer.status == 200 and action.method == "POST" and "send" in action.path
    )


async def test_a_bad_token_is_an_error_where_none_is_needed(serve: Serve) -> None:
    """An anonymous response would hide that the token is bad."""
    server = await serve(token=STATIC, anonymous_subscribe=("*",), cookie=COOKIE)
    assert (await SUBSCRIBE.at(server)).status == 200
    for headers in (bearer(BAD), cookie(BAD)):
        assert (await SUBSCRIBE.at(server, headers)).status == 401
    assert (await ask(server, "GET", query(BAD))).status == 401


async def test_a_cookie_counts_only_if_one_is_configured(serve: Serve) -> None:
    """By default no cookie is a credential."""
    server = await serve(token=STATIC)
    assert (await SUBSCRIBE.at(server, cookie(STATIC))).status == 401


@pytest.mark.parametrize("text", [f'"{GOOD}"', f" {GOOD} "])
async def test_a_cookie_may_have_quotes_and_spaces(serve: Serve, text: str) -> None:
    """RFC 6265 allows them."""
    server = await serve(caller=(caller("reader", subscribe=("a",)),), cookie=COOKIE)
    assert (await SUBSCRIBE.at(server, cookie(text))).status == 200


@pytest.mark.parametrize("token", ["\udcff" * 20, "é" * 20, "a b" * 10, "a\tb" * 10, "%00" * 10, "a,b" * 10])
async def test_a_malformed_token_is_refused(serve: Serve, token: str) -> None:
    """This holds in every place, and the response repeats nothing of it."""
    server = await serve(token=STATIC, cookie=COOKIE)
    for headers in (bearer(token), cookie(token)):
        answer = await SUBSCRIBE.at(server, headers)
        assert answer.status == 401
        assert answer.detail in {"token: is not known", "token: contains a character that is not ASCII"}
    if token.isprintable() and " " not in token:
        assert (await ask(server, "GET", query(quote(token)))).status == 401


async def test_over_tls_an_origin_without_tls_is_foreign(serve: Serve, tmp_path: Path) -> None:
    """Others could have written that page. The reverse is allowed: a proxy may terminate TLS."""
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


# Web pages and open servers: here only the checks of Host and Origin keep a page out.


@dataclass(frozen=True)
class Page:
    """A Host and an Origin, and the response of an open server."""

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
async def test_an_open_server_accepts_its_own_pages_only(serve: Serve, page: Page) -> None:
    """It checks both the origin and the name it is called by. A refused page publishes nothing."""
    server = await serve(**page.settings)
    headers = bearer(page.settings.get("token", "any"))
    headers += "" if page.origin is None else f"Origin: {page.origin}\r\n"
    for action in ACTIONS:
        answer = await action.at(server, headers, host=page.host)
        assert answer.status == page.gets, action
    assert server.broadcaster.counts.published == (page.gets == 200)


async def test_a_request_without_a_host_is_refused(server: LiveServer) -> None:
    """Only HTTP/1.0 allows that, and no browser speaks it."""
    assert (await PUBLISH.at(server, host=None, version="1.0")).status == 421
    assert (await PUBLISH.at(server, host=None)).status == 400
    assert server.broadcaster.counts.published == 0


async def test_a_unix_socket_accepts_any_host(serve: Serve, socket_path: Path) -> None:
    """No web page reaches it directly. A foreign Origin is refused."""
    await serve(listener=(ListenerRule(host=f"unix:{socket_path}"),))
    assert (await PUBLISH.at(socket_path, host="anything.example")).status == 200
    assert (await PUBLISH.at(socket_path, f"Origin: {FOREIGN}\r\n")).status == 403


async def test_an_open_server_explains_its_refusals(server: LiveServer) -> None:
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
def test_a_loopback_host_is_recognized_by_its_name(host: str, name: str, *, loopback: bool) -> None:
    """It is recognized in every spelling, and nothing is resolved."""
    assert host_name(host) == name
    assert is_loopback_name(name) is loopback
