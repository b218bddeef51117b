"""POST /tokens and POST /revoke."""

import json
import time
from functools import partial
from typing import Any

import pytest

from sse_broadcast.auth import authenticator
from sse_broadcast.auth.revocation import RevocationList
from sse_broadcast.errors import ExtraError
from tests.conftest import LiveServer, Patch, Serve
from tests.support.asking import Answer, ask, bearer
from tests.support.credentials import OWN_SECRET, STATIC, caller, own, static

JSON = "Content-Type: application/json\r\n"
SETTINGS = {
    "token": STATIC,
    "token_secret": OWN_SECRET,
    "caller": (
        caller("maker", subscribe=("orders.*", "news"), publish=("news",), admin=("*",)),
        caller("subscriber", subscribe=("*",)),
    ),
}


async def post(
    server: LiveServer, path: str, wish: object, *, by: str = STATIC, headers: str = JSON
) -> Answer:
    body = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
    return await ask(server, "POST", path, headers=headers + bearer(by), body=body)


async def mint(server: LiveServer, wish: dict[str, Any], *, by: str = STATIC) -> dict[str, Any]:
    answer = await post(server, "/tokens", wish, by=by)
    assert answer.status == 200, answer.detail
    made: dict[str, Any] = answer.json
    return made


async def admitted(server: LiveServer, token: str, path: str = "/events/news") -> int:
    return (await ask(server, "GET", path, headers=bearer(token))).status


# POST /tokens.


async def test_an_issued_token_is_valid(serve: Serve) -> None:
    """The response has all its properties, and may not be cached."""
    server = await serve(**SETTINGS)
    before = time.time()
    wish = {"grants": {"subscribe": ["orders.17"]}, "subject": "visitor-1", "lifetime": 600}
    answer = await post(server, "/tokens", wish, by=static("maker"))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json
    assert list(made) == ["token", "id", "subject", "expires", "grants"]
    assert (made["subject"], made["grants"]) == ("visitor-1", {"subscribe": ["orders.17"]})
    assert before + 600 <= made["expires"] <= time.time() + 600
    assert await admitted(server, made["token"], "/events/orders.17") == 200
    assert await admitted(server, made["token"], "/events/orders.18") == 403


async def test_subject_and_lifetime_have_defaults(serve: Serve) -> None:
    server = await serve(**SETTINGS)
    before = time.time()
    made = await mint(server, {"grants": {"subscribe": ["news"]}})
    assert made["subject"] == "visitor"
    assert before + 600 <= made["expires"] <= time.time() + 600


async def test_every_token_has_its_own_id(serve: Serve) -> None:
    server = await serve(**SETTINGS)
    made = [await mint(server, {"grants": {"subscribe": ["news"]}}) for _ in range(3)]
    assert len({each["token"] for each in made}) == len({each["id"] for each in made}) == 3


async def test_the_lifetime_of_a_token_is_limited(serve: Serve) -> None:
    """The limits are `token_lifetime` and the expiry of the issuer's own token."""
    server = await serve(**SETTINGS, token_lifetime=60)
    assert (await mint(server, {"grants": {}, "lifetime": 3600}))["expires"] <= time.time() + 60
    expires = time.time() + 30
    maker = own(exp=expires, grants={"admin": ["*"], "subscribe": ["news"]})
    made = await mint(server, {"grants": {"subscribe": ["news"]}}, by=maker)
    assert made["expires"] == expires


@pytest.mark.parametrize(
    ("grants", "detail"),
    [
        ({"publish": ["orders.1"]}, "publish 'orders.1': the maker of the token is not allowed to grant it"),
        (
            {"subscribe": ["orders.1", "secret"]},
            "subscribe 'secret': the maker of the token is not allowed to grant it",
        ),
        ({"subscribe": ["*"]}, "subscribe '*': the maker of the token is not allowed to grant it"),
        (
            {"subscribe": ["orders*"]},
            "subscribe 'orders*': the maker of the token is not allowed to grant it",
        ),
        ({"inspect": ["news"]}, "inspect 'news': the maker of the token is not allowed to grant it"),
        ({"admin": ["*"]}, "admin: a token cannot grant it"),
    ],
)
async def test_a_token_cannot_grant_more_than_its_issuer_has(
    serve: Serve, grants: dict[str, list[str]], detail: str
) -> None:
    server = await serve(**SETTINGS)
    answer = await post(server, "/tokens", {"grants": grants}, by=static("maker"))
    assert (answer.status, answer.detail) == (403, detail)


async def test_an_issued_token_cannot_issue_tokens(serve: Serve) -> None:
    server = await serve(**SETTINGS)
    everything = {action: ["*"] for action in ("subscribe", "publish", "inspect")}
    token = (await mint(server, {"grants": everything}))["token"]
    for path, wish in (("/tokens", {"grants": {}}), ("/revoke", {"id": "x"})):
        assert (await post(server, path, wish, by=token)).status == 403


GRANTS = (
    'grants: must be an object such as {"subscribe": ["orders.*"]}: lists of channels and patterns,'
    " under publish, subscribe and inspect"
)

BAD = [
    (b"", 400, "body: is not JSON: Input data was truncated"),
    (b'{"grants": {}, "subject": "\xff"}', 400, "body: is not UTF-8 at byte 27"),
    (b'{"grants": {}, "subject": "\\ud800"}', 422, "body: has a lone surrogate, which no event can carry"),
    (b"[" * 50_000, 422, "must be a JSON object, not a list"),
    (b"[]", 422, "must be a JSON object, not a list"),
    (b"{}", 422, "grants: is missing"),
    (b'{"grants": []}', 422, GRANTS),
    (b'{"grants": {"read": ["a"]}}', 422, GRANTS),
    (b'{"grants": {"publish": "a"}}', 422, GRANTS),
    (b'{"grants": {"publish": ["a b"]}}', 422, GRANTS),
    (b'{"grants": {"publish": [""]}}', 422, GRANTS),
    (b'{"grants": {"publish": [7]}}', 422, GRANTS),
    (b'{"grants": {}, "subject": ""}', 422, "subject: must be text of 1 to 255 characters"),
    (b'{"grants": {}, "subject": "%s"}' % (b"x" * 256), 422, "subject: must be text of 1 to 255 characters"),
    (b'{"grants": {}, "subject": 7}', 422, "subject: must be text of 1 to 255 characters, not a number"),
    (b'{"grants": {}, "lifetime": 0}', 422, "lifetime: must be seconds, from 1 to 31536000"),
    (b'{"grants": {}, "lifetime": 1e300}', 422, "lifetime: must be seconds, from 1 to 31536000"),
    (b'{"grants": {}, "lifetime": 1e999}', 422, "lifetime: must be seconds, from 1 to 31536000"),
    (b'{"grants": {}, "lifetime": "600"}', 422, "lifetime: must be seconds, from 1 to 31536000, not text"),
    (b'{"grants": {}, "expires": 1}', 422, "expires: unknown member; grants, subject, lifetime are known"),
    (b'{"grant": {}}', 422, "grant: unknown member; did you mean grants?"),
]


@pytest.mark.parametrize(("body", "status", "detail"), BAD, ids=[repr(body[:40]) for body, _, _ in BAD])
async def test_an_invalid_token_request_is_refused(
    serve: Serve, body: bytes, status: int, detail: str
) -> None:
    """Invalid JSON is a 400, another shape a 422."""
    server = await serve(**SETTINGS)
    answer = await post(server, "/tokens", body)
    assert (answer.status, answer.detail) == (status, detail)


@pytest.mark.parametrize("path", ["/tokens", "/revoke"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 415),
        ("Content-Type: text/plain\r\n", 415),
        (f"{JSON}Content-Encoding: gzip\r\n", 415),
        (f"{JSON.rstrip()}; charset=utf-16\r\n", 415),
    ],
)
async def test_a_token_request_must_be_declared_as_json(
    serve: Serve, path: str, headers: str, status: int
) -> None:
    """A web page needs a CORS preflight to send that type."""
    server = await serve(**SETTINGS)
    answer = await post(server, path, {"grants": {}, "id": "x"}, headers=headers)
    assert answer.status == status


@pytest.mark.parametrize("path", ["/tokens", "/revoke"])
async def test_a_token_request_is_limited_in_size_and_time(serve: Serve, path: str) -> None:
    server = await serve(**SETTINGS, body_timeout=0.05)
    answer = await post(server, path, b" " * 65_537)
    assert (answer.status, answer.detail) == (413, "body: more than 65536 bytes")
    headers = f"{JSON}{bearer(STATIC)}Transfer-Encoding: chunked\r\n"
    client = await server.connect()
    await client.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n1\r\n{{\r\n".encode())
    assert (await client.answer())[0] == 408


async def test_a_token_too_long_for_a_header_is_not_issued(serve: Serve) -> None:
    server = await serve(**SETTINGS)
    grants = {"subscribe": [f"{number:0128}" for number in range(60)]}
    answer = await post(server, "/tokens", {"grants": grants})
    assert answer.status == 422
    assert answer.detail.startswith("grants: make a token of ")


async def test_a_server_without_credentials_issues_tokens(server: LiveServer) -> None:
    """So a back end that uses them can be tried."""
    made = await ask(server, "POST", "/tokens", headers=JSON, body=b'{"grants": {"subscribe": ["a"]}}')
    assert made.status == 200
    assert await admitted(server, made.json["token"], "/events/b") == 200


async def test_without_token_secret_a_token_is_valid_in_one_process(serve: Serve) -> None:
    """Each process has a random secret. With a configured secret all servers accept the token."""
    one, two = await serve(token=STATIC), await serve(token=STATIC)
    token = (await mint(one, {"grants": {"subscribe": ["news"]}}))["token"]
    assert (await admitted(one, token), await admitted(two, token)) == (200, 401)
    one, two = await serve(**SETTINGS), await serve(**SETTINGS)
    token = (await mint(one, {"grants": {"subscribe": ["news"]}}))["token"]
    assert (await admitted(one, token), await admitted(two, token)) == (200, 200)


async def test_without_the_extra_no_token_is_issued(serve: Serve, monkeypatch: Patch) -> None:
    server = await serve(token=STATIC)

    def missing() -> None:
        raise ExtraError("signed tokens need PyJWT and cryptography: pip install 'PyJWT[crypto]'")

    monkeypatch.setattr("sse_broadcast.auth.issuer.require_extra", missing)
    answer = await post(server, "/tokens", {"grants": {}})
    detail = "signed tokens need PyJWT and cryptography: pip install 'PyJWT[crypto]'"
    assert (answer.status, answer.detail) == (501, detail)
    assert await admitted(server, STATIC) == 200


# POST /revoke.


async def test_a_token_is_revoked_by_its_id(serve: Serve) -> None:
    server = await serve(**SETTINGS)
    one, two = [await mint(server, {"grants": {"subscribe": ["news"]}}) for _ in range(2)]
    answer = await post(server, "/revoke", {"id": one["id"], "expires": one["expires"]}, by=static("maker"))
    assert (answer.status, answer.body) == (200, b'{"status":"revoked","streams":0}\n')
    assert answer.headers["cache-control"] == "no-store"
    assert await admitted(server, one["token"]) == 401
    assert await admitted(server, two["token"]) == 200


async def test_revoking_a_subject_revokes_its_existing_tokens(serve: Serve) -> None:
    """Tokens issued later are valid."""
    server = await serve(**SETTINGS)
    wish = {"grants": {"subscribe": ["news"]}, "subject": "ada"}
    before = [(await mint(server, wish))["token"] for _ in range(2)]
    assert (await post(server, "/revoke", {"subject": "ada"})).status == 200
    assert [await admitted(server, token) for token in before] == [401, 401]
    assert await admitted(server, (await mint(server, wish))["token"]) == 200


async def test_a_subject_of_any_length_can_be_revoked(serve: Serve) -> None:
    server = await serve(**SETTINGS)
    token = own(sub="s" * 255, grants={"subscribe": ["news"]})
    assert await admitted(server, token) == 200
    assert (await post(server, "/revoke", {"subject": "s" * 255})).status == 200
    assert await admitted(server, token) == 401


async def test_a_revocation_is_kept_until_it_expires(serve: Serve) -> None:
    """The caller sets `expires` to a time at which the token is invalid anyway."""
    server = await serve(**SETTINGS)
    token = own(jti="one", grants={"subscribe": ["news"]})
    assert (await post(server, "/revoke", {"id": "one", "expires": time.time() - 1})).status == 200
    assert await admitted(server, token) == 200
    assert (await post(server, "/revoke", {"id": "one", "expires": time.time() + 60})).status == 200
    assert await admitted(server, token) == 401


async def test_an_admin_can_revoke_itself(serve: Serve) -> None:
    """It is refused until the server is restarted."""
    server = await serve(**SETTINGS)
    assert (await post(server, "/revoke", {"caller": "maker"}, by=static("maker"))).status == 200
    assert (await post(server, "/revoke", {"subject": "x"}, by=static("maker"))).status == 401


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"{}", 422, "subject, id and caller: one of them must be given"),
        (b'{"subject": "a", "id": "b"}', 422, "subject, id and caller: one of them must be given"),
        (b'{"subject": ""}', 422, "subject: must be text of 1 to 255 characters"),
        (b'{"id": 7}', 422, "id: must be text of 1 to 255 characters, not a number"),
        (b'{"caller": []}', 422, "caller: must be text of 1 to 255 characters, not a list"),
        (b'{"id": "x", "expires": 600}', 422, "expires: must be seconds since 1970"),
        (b'{"id": "x", "expires": 1e13}', 422, "expires: must be seconds since 1970"),
        (b'{"id": "x", "expires": "2030"}', 422, "expires: must be seconds since 1970, not text"),
        (b'{"token": "x"}', 422, "token: unknown member; subject, id, caller, expires are known"),
        (b'{"subjekt": "x"}', 422, "subjekt: unknown member; did you mean subject?"),
        (b"x", 400, "body: is not JSON: JSON is malformed: invalid character (byte 0)"),
    ],
)
async def test_an_invalid_revocation_is_refused(serve: Serve, body: bytes, status: int, detail: str) -> None:
    server = await serve(**SETTINGS)
    answer = await post(server, "/revoke", body)
    assert (answer.status, answer.detail) == (status, detail)


async def test_the_number_of_revocations_is_limited(serve: Serve, monkeypatch: Patch) -> None:
    """Beyond it the response is 503 and nothing is revoked.

    Dropping another would let that token in again.
    """
    monkeypatch.setattr(authenticator, "RevocationList", partial(RevocationList, most=2))
    server = await serve(**SETTINGS)
    for number in range(2):
        assert (await post(server, "/revoke", {"id": f"{number}"})).status == 200
    answer = await post(server, "/revoke", {"id": "another"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "3600")
    assert answer.detail == (
        "revocations: the limit of 2 is reached: nothing was revoked, and no stream ended."
        " To refuse credentials now, remove the [[caller]], or change the key of the tokens or token_secret,"
        " and reload. DELETE /subscribers/{id} closes a stream"
    )
    assert (await post(server, "/revoke", {"id": "1"})).status == 200
    server = await serve(**SETTINGS)
    for body in ({"id": "1"}, {"id": "2", "expires": time.time() + 60}):
        assert (await post(server, "/revoke", body)).status == 200
    answer = await post(server, "/revoke", {"id": "another"})
    assert 1 <= int(answer.headers["retry-after"]) <= 60
