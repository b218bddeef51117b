"""Authenticator: which credentials are accepted."""

import asyncio
import hashlib
import hmac
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.auth.principal import EVERYTHING, Action, Principal
from sse_broadcast.clock import utc
from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.errors import ConfigError, CredentialError, ExtraError, ForbiddenError
from tests.support.clock import Clock
from tests.support.issuing import Issuer, issuers
from tests.support.signing import (
    ALGORITHMS,
    CLAIMS,
    END,
    NOW,
    OTHER_SECRET,
    SECRET,
    jwk,
    jwks,
    part,
    pem,
    private_key,
    public_file,
    token,
)

issuer = pytest.fixture(issuers)

TOKEN = "correct-horse-battery"
ANN = Principal({Action.SUBSCRIBE: ("orders.*",)}, "ann", "t1", NOW - 60, END)
ROOT = Principal(EVERYTHING, "token", static=True)


def authenticator(clock: Callable[[], float] | None = None, **settings: Any) -> Authenticator:
    return Authenticator(Config(**settings), clock=Clock(NOW) if clock is None else clock)


async def refusal(authenticator: Authenticator, text: str) -> str:
    """Return the error of a bad token. It never has the token or a part of it."""
    with pytest.raises(CredentialError) as raised:
        await authenticator.authenticate(text)
    said = str(raised.value)
    assert said.startswith("token: ")
    assert not [piece for piece in text.split(".") if len(piece) > 8 and piece in said]
    return said.removeprefix("token: ")


async def test_a_static_token_identifies_its_caller() -> None:
    callers = (CallerRule(name="page", token="page-page-page-page", subscribe=("news",)),)
    known = authenticator(token=TOKEN, caller=callers)
    assert await known.authenticate(TOKEN) == ROOT
    assert await known.authenticate("page-page-page-page") == Principal(
        {Action.SUBSCRIBE: ("news",)}, "page", static=True
    )
    assert await refusal(known, TOKEN[:-1]) == "is not known"
    assert await refusal(known, "") == "is not known"


async def test_a_generated_token_may_do_everything() -> None:
    """It does not count as configured, but tokens must be checked."""
    known = Authenticator(Config(), generated=TOKEN)
    assert await known.authenticate(TOKEN) == Principal(EVERYTHING, "generated", static=True)
    assert known.takes_tokens


@pytest.mark.parametrize(
    "settings",
    [
        {"token": TOKEN},
        {"token_file": "token"},
        {"caller": (CallerRule(name="page", token=TOKEN),)},
        {"jwt_key_file": "secret"},
        {"jwt_jwks": "jwks"},
        {"jwt_jwks": "https://id.example.com/jwks"},
        {"token_secret": SECRET},
        {"token_secret_file": "secret"},
    ],
    ids=" ".join,
)
def test_any_credential_counts_as_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("token").write_text(TOKEN)
    Path("secret").write_text(SECRET)
    Path("jwks").write_bytes(jwks(jwk("RS256")))
    known = authenticator(**settings)
    assert known.takes_tokens


def test_without_a_credential_none_counts_as_configured() -> None:
    """Other settings do not matter, and no token needs to be checked."""
    known = authenticator(
        cookie="session", token_lifetime=3600.0, jwt_claim="sse", anonymous_subscribe=("*",)
    )
    assert not known.takes_tokens


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_signed_by_a_key_of_a_file_is_accepted(tmp_path: Path, algorithm: str) -> None:
    found = await authenticator(jwt_key_file=public_file(tmp_path, algorithm)).authenticate(token(algorithm))
    assert found == ANN


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_signed_by_a_key_of_a_jwks_is_accepted(tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "jwks").write_bytes(jwks(jwk(algorithm, 1, kid="old"), jwk(algorithm, kid="new")))
    known = authenticator(jwt_jwks=f"{tmp_path}/jwks")
    assert await known.authenticate(token(algorithm, header={"kid": "new"})) == ANN
    found = await known.authenticate(token(algorithm, key=private_key(algorithm, 1), header={"kid": "old"}))
    assert found == ANN
    assert await known.authenticate(token(algorithm)) == ANN


def claims(**changed: Any) -> dict[str, Any]:
    good = {**CLAIMS, "iss": "https://id.example.com", "aud": ["other", "sse"]}
    return {name: value for name, value in {**good, **changed}.items() if value is not ...}


def rs256(header: dict[str, Any] | str | None = None, **changed: Any) -> str:
    return token("RS256", claims(**changed), header=header)


def unsigned(header: str) -> str:
    return f"{part(header)}.{part(json.dumps(claims()))}."


NO_EXP = "is not valid: Expiration Time claim (exp) must be an integer."
GARBAGE = (
    "is not valid: Invalid header string: "
    "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
)
NO_GRANTS = "has no claim 'grants', which holds its grants"

BAD = {
    "expired": (rs256(exp=NOW - 1), f"expired at {utc(NOW - 1)}"),
    "without an end": (rs256(exp=...), "has no exp"),
    "an end of no number": (rs256(exp=[]), "is not valid: Expiration Time claim (exp) must be an integer."),
    "an end as text": (rs256(exp=str(END)), "is not valid: Expiration Time claim (exp) must be an integer."),
    "an end as whole text": (rs256(exp=f"{END:.0f}"), "claims: Expected `float`, got `str` - at `$.exp`"),
    "an end beyond all": (rs256(exp=1e300), "claims: Expected `float` <= 253402300799.0 - at `$.exp`"),
    "an end before all": (rs256(exp=-1e300), "expired at an invalid time"),
    "not yet valid": (rs256(nbf=END), f"is not valid yet (nbf {utc(END)}, iat {utc(NOW - 60)})"),
    "of the future": (rs256(iat=END), f"is not valid yet (nbf none, iat {utc(END)})"),
    "wrong audience": (rs256(aud="other"), "is for another audience: 'other' (aud)"),
    "wrong audiences": (rs256(aud=["other", "SSE"]), "is for another audience: 'other, SSE' (aud)"),
    "an audience of no text": (rs256(aud={"sse": 1}), "is for another audience: '' (aud)"),
    "no audience": (rs256(aud=...), "has no aud"),
    "another issuer": (rs256(iss="https://evil.example"), "is of another issuer: 'https://evil.example'"),
    "an issuer of no text": (
        rs256(iss=["https://id.example.com"]),
        "is of another issuer: 'https://id.example.com'",
    ),
    "no issuer": (rs256(iss=...), "has no iss"),
    "subject of no text": (rs256(sub=5), "is not valid: Subject must be a string"),
    "no grants": (rs256(grants=...), NO_GRANTS),
    "bad grants": (rs256(grants=["*"]), "claim 'grants': Expected `object`, got `array`"),
    "wrong key": (token("RS256", claims(), key=private_key("RS256", 1)), "its signature is wrong"),
    "alg none": (unsigned('{"alg": "none"}'), "is signed with none, which is not its key's algorithm"),
    "no alg": (unsigned("{}"), "is signed with no algorithm, which is not its key's algorithm"),
    "key confusion": (unsigned('{"alg": "HS256"}'), "is signed with HS256, which is not its key's algorithm"),
    "crit": (rs256({"crit": ["exp"]}), "is not valid: Unsupported critical extension: exp"),
    "a long crit": (
        rs256({"crit": ["\xe9\n" * 500]}),
        "is not valid: " + ("Unsupported critical extension: " + "\\xe9\\n" * 99)[:120],
    ),
    "jku": (rs256({"jku": "https://evil.example"}), "its header has jku, which is not accepted"),
    "jwk": (rs256({"jwk": jwk("RS256", 1)}), "its header has jwk, which is not accepted"),
    "x5u": (rs256({"x5u": "https://evil.example"}), "its header has x5u, which is not accepted"),
    "x5c": (rs256({"x5c": ["AAAA"]}), "its header has x5c, which is not accepted"),
    "kid of a path": (rs256({"kid": "/dev/null"}, exp=NOW - 1), f"expired at {utc(NOW - 1)}"),
    "kid of ours": (rs256({"kid": "sse-broadcast"}), "is signed with an unknown key"),
    "kid of no text": (rs256({"kid": 5}), "is not valid: Key ID header parameter must be a string"),
    "no signature": (f"{rs256().rpartition('.')[0]}.", "its signature is wrong"),
    "truncated": (rs256()[:-2], "its signature is wrong"),
    "truncated to two parts": (rs256().rpartition(".")[0], "is not known"),
    "five parts": (f"{rs256()}.a.b", "is not known"),
    "garbage": ("garbage", "is not known"),
    "garbage of three parts": (f"{part(b'{')}.age0.garb", GARBAGE),
    "padded": (f"{rs256()}===", "is not valid: Invalid crypto padding"),
    "an end of line": (f"{rs256()}\n", "is not valid: Invalid crypto padding"),
    "no ascii": ("\xe9.\xe9.\xe9", "contains a character that is not ASCII"),
    "surrogates": ("\udcff", "contains a character that is not ASCII"),
    "huge": ("x" * 8193, "is longer than 8192 characters"),
    "huge and signed": (rs256(filling="x" * 8000), "is longer than 8192 characters"),
    "empty": ("", "is not known"),
    "NaN": (token("RS256", '{"exp": NaN, "grants": {}}'), NO_EXP),
    "1e400": (token("RS256", '{"exp": 1e400}'), NO_EXP),
    "a payload of no object": (
        token("RS256", '"text"'),
        "is not valid: Invalid payload string: must be a json object",
    ),
}


@pytest.mark.parametrize(("text", "problem"), BAD.values(), ids=BAD)
async def test_a_bad_token_is_refused_with_a_reason(tmp_path: Path, text: str, problem: str) -> None:
    known = authenticator(
        jwt_key_file=public_file(tmp_path, "RS256"),
        jwt_issuer="https://id.example.com",
        jwt_audience="sse",
        token=TOKEN,
    )
    assert await refusal(known, text) == problem
    assert await known.authenticate(rs256()) == ANN


@pytest.mark.parametrize("name", ["exp", "iss", "aud", "sub", "grants", "other"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_a_deeply_nested_payload_is_refused(tmp_path: Path, name: str, opening: str) -> None:
    """The error is the same in every version of Python, for a known claim and another."""
    known = authenticator(jwt_key_file=public_file(tmp_path, "RS256"), jwt_audience="sse")
    for depth in (64, 100, 900):
        deep = f'{{"{name}": {opening * depth}1{("]" if opening == "[" else "}") * depth}}}'
        assert await refusal(known, token("RS256", deep)) == "is nested more than 64 deep"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([NOW, END, 10**400, "1700000060", "sse", "exp", "b64", "sse-broadcast", "\ud800"])
    | st.floats()
    | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=6,
)
HEADERS = st.sampled_from(["kid", "crit", "b64", "typ", "jku", "zip", "exp"])
NAMES = st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "sub", "jti", "grants"])
NUMBERS = ["1e400", "-1e400", "NaN", "Infinity", "9" * 5000, '"\\ud800"', "1e308", "-0.0"]


def bytes_of(usual: dict[str, Any], names: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Return possible bytes for the payload, as a careless or hostile issuer may sign them."""
    members = st.dictionaries(names, VALUES, max_size=4)
    changed = members.map(lambda others: json.dumps({**usual, **others}))
    odd = st.tuples(names, st.sampled_from(NUMBERS)).map(
        lambda pair: json.dumps({**usual, pair[0]: "ODD"}).replace('"ODD"', pair[1])
    )
    coded = st.tuples(changed, st.sampled_from(["utf-8", "utf-16", "utf-32-be", "utf-8-sig"])).map(
        lambda pair: pair[0].encode(pair[1])
    )
    return coded | odd.map(str.encode) | st.binary(max_size=60)


@given(
    head=bytes_of({"alg": "HS256"}, HEADERS),
    own_head=st.booleans(),
    payload=bytes_of({"exp": END, "aud": "sse", "grants": {}, "iss": "sse-broadcast"}, NAMES),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_signed_payload_is_accepted_or_refused(
    tmp_path: Path, head: bytes, payload: bytes, *, own_head: bool
) -> None:
    """There is no other error, and the message has no text chosen by others."""
    if own_head:
        head = b'{"alg": "HS256", "kid": "sse-broadcast"}'
    signed = f"{part(head)}.{part(payload)}"
    digest = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    key = public_file(tmp_path, "HS256")
    known = authenticator(jwt_key_file=key, jwt_audience="sse", token_secret=SECRET)
    try:
        principal = asyncio.run(known.authenticate(f"{signed}.{part(digest)}"))
    except CredentialError as error:
        said = str(error)
    else:
        said = repr(principal.grants)
    assert said.isascii()
    assert said.isprintable()


async def test_a_verified_token_is_known_without_an_await(tmp_path: Path) -> None:
    """The first time it is verified. A static token is found at once."""
    known = authenticator(token=TOKEN, jwt_key_file=public_file(tmp_path, "EdDSA"))
    assert known.cached(TOKEN) == ROOT
    signed = token("EdDSA")
    assert known.cached(signed) is None
    principal = await known.authenticate(signed)
    assert known.cached(signed) is principal


async def test_a_configured_token_that_looks_signed_is_a_static_one(tmp_path: Path) -> None:
    """It may have a valid signature: static tokens are looked up first."""
    signed = token("EdDSA")
    known = authenticator(token=signed, jwt_key_file=public_file(tmp_path, "EdDSA"))
    for _ in range(2):
        assert known.cached(signed) == ROOT
        assert await known.authenticate(signed) == ROOT


@settings(deadline=None)
@given(st.text(st.characters(), max_size=60) | st.text("e.yJ=-_", max_size=60))
def test_any_malformed_token_is_refused(text: str) -> None:
    with pytest.raises(CredentialError):
        asyncio.run(authenticator(token=TOKEN, token_secret=SECRET).authenticate(text))


async def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jwks").write_bytes(jwks(jwk("RS256", kid="a")))
    known = authenticator(jwt_jwks=f"{tmp_path}/jwks", jwt_key_file=public_file(tmp_path, "RS256"))
    for kid in (None, "a", "sse-broadcast"):
        forged = token("RS256", header={"alg": "HS256", **({"kid": kid} if kid else {})})
        signed = forged.rpartition(".")[0]
        digest = hmac.new(pem(private_key("RS256")), signed.encode(), hashlib.sha256).digest()
        assert await refusal(known, f"{signed}.{part(digest)}") in {
            "is signed with HS256, which is not its key's algorithm",
            "is signed with an unknown key",
        }


async def test_the_claim_with_the_grants_is_configurable(tmp_path: Path) -> None:
    """The setting is jwt_claim. Tokens issued by the server have their own claim."""
    known = authenticator(jwt_key_file=public_file(tmp_path, "EdDSA"), jwt_claim="sse")
    text = token("EdDSA", {**CLAIMS, "grants": "of another server", "sse": {"subscribe": ["orders.*"]}})
    assert await known.authenticate(text) == ANN
    made = known.issue({Action.SUBSCRIBE: ("a",)}, subject="v", lifetime=3600.0, by=ROOT)
    assert (await known.authenticate(made.token)).grants == {Action.SUBSCRIBE: ("a",)}


async def test_own_tokens_are_accepted_whatever_claims_are_required(tmp_path: Path) -> None:
    key = public_file(tmp_path, "RS256")
    known = authenticator(jwt_key_file=key, jwt_issuer="https://id.example.com", jwt_audience="sse")
    made = known.issue({Action.SUBSCRIBE: ("orders.*",)}, subject="v", lifetime=3600.0, by=ROOT)
    assert await known.authenticate(made.token) == Principal(
        {Action.SUBSCRIBE: ("orders.*",)}, "v", made.id, NOW, END
    )


async def test_an_issuer_cannot_forge_an_own_token(tmp_path: Path) -> None:
    """A token that names the server's key is verified by it, any other by the rules for issuers."""
    known = authenticator(jwt_key_file=public_file(tmp_path, "HS256"), token_secret=OTHER_SECRET)
    own = {"kid": "sse-broadcast"}
    claims = {**CLAIMS, "iss": "sse-broadcast"}
    assert await refusal(known, token("HS256", claims, header=own)) == "its signature is wrong"
    secret = OTHER_SECRET.encode()
    assert await refusal(known, token("HS256", claims, key=secret)) == "its signature is wrong"
    assert await refusal(known, token("HS256", key=secret, header=own)) == "has no iss"
    assert await known.authenticate(token("HS256", claims, key=secret, header=own)) == ANN


async def test_own_tokens_are_accepted_by_a_server_with_a_slow_clock() -> None:
    """Clients use them as soon as they are issued."""
    ahead = Clock(NOW)
    ahead.now += 3600
    one, other = authenticator(ahead, token_secret=SECRET), authenticator(token_secret=SECRET)
    made = one.issue({}, subject="v", lifetime=3600.0, by=ROOT)
    assert (await other.authenticate(made.token)).subject == "v"


async def test_own_tokens_are_unknown_before_the_first_is_issued() -> None:
    one, other = authenticator(token=TOKEN), authenticator(token=TOKEN)
    made = one.issue({Action.SUBSCRIBE: ("a",)}, subject="v", lifetime=3600.0, by=ROOT)
    assert await refusal(other, made.token) == "is signed with an unknown key"
    assert (await one.authenticate(made.token)).subject == "v"


async def test_a_token_issued_by_a_token_is_narrower() -> None:
    known = authenticator(token=TOKEN)
    by = Principal({Action.ADMIN: ("*",), Action.SUBSCRIBE: ("orders.*",)}, "shop", expires=NOW + 1800)
    made = known.issue({Action.SUBSCRIBE: ("orders.1",)}, subject="v", lifetime=3600.0, by=by)
    assert made.expires == NOW + 1800
    with pytest.raises(ForbiddenError):
        known.issue({Action.SUBSCRIBE: ("news",)}, subject="v", lifetime=3600.0, by=by)


async def test_a_revoked_subject_is_refused(tmp_path: Path) -> None:
    """All its tokens are, except later ones. A caller of the same name is another."""
    clock = Clock(NOW)
    callers = (CallerRule(name="v", token="page-page-page-page"),)
    known = authenticator(clock, caller=callers, token=TOKEN, jwt_key_file=public_file(tmp_path, "EdDSA"))
    made = [known.issue({}, subject="v", lifetime=3600.0, by=ROOT).token for _ in range(2)]
    signed = token("EdDSA", {**CLAIMS, "sub": "v"})
    known.revoke("subject", "v")
    for text in (*made, signed):
        assert await refusal(known, text) == "was revoked"
    assert (await known.authenticate("page-page-page-page")).subject == "v"
    assert await known.authenticate(TOKEN) == ROOT
    clock.now += 0.001
    made = [known.issue({}, subject="v", lifetime=3600.0, by=ROOT).token]
    assert (await known.authenticate(made[0])).issued == clock.now


async def test_a_revoked_token_is_refused() -> None:
    """Other tokens are not. Once it has expired that is the reason."""
    clock = Clock(NOW)
    known = authenticator(clock, token=TOKEN)
    one, other = (known.issue({}, subject="v", lifetime=3600.0, by=ROOT) for _ in range(2))
    known.revoke("id", one.id, expires=one.expires)
    assert await refusal(known, one.token) == "was revoked"
    assert (await known.authenticate(other.token)).id == other.id
    clock.now = END
    assert await refusal(known, one.token) == f"expired at {utc(END)}"


async def test_a_subject_named_like_a_caller_is_another() -> None:
    """Issuers choose subjects: revoking one must not revoke a back end of the same name."""
    known = authenticator(token=TOKEN)
    one = known.issue({}, subject="token", lifetime=3600.0, by=ROOT)
    known.revoke("subject", "token")
    assert await refusal(known, one.token) == "was revoked"
    assert (await known.authenticate(TOKEN)).static
    known.revoke("caller", "token")
    assert await refusal(known, TOKEN) == "was revoked"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"token": "short"}, "token: must have 16 to 8192 characters, not 5"),
        ({"token_secret": "short"}, "token_secret: must have at least 32 bytes, not 5"),
        ({"jwt_issuer": "x"}, "jwt_issuer: is set without jwt_key_file or jwt_jwks"),
        ({"jwt_audience": "x", "token": TOKEN}, "jwt_audience: is set without jwt_key_file or jwt_jwks"),
        ({"jwt_key_file": "none"}, "jwt_key_file: 'none' cannot be read: No such file or directory"),
        ({"jwt_jwks": "none"}, "jwt_jwks: 'none' cannot be read: No such file or directory"),
        ({"jwt_jwks": "http://id.example.com"}, "jwt_jwks: 'http://id.example.com' must start with https://"),
    ],
)
def test_unusable_credentials_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        authenticator(**settings)
    assert str(raised.value).startswith(problem)


@pytest.mark.parametrize(
    "settings", [{"jwt_key_file": "key"}, {"jwt_jwks": "jwks"}, {"token_secret": SECRET}]
)
def test_settings_that_need_the_extra_are_refused_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """The error comes at the start, and not with the first token."""
    monkeypatch.chdir(tmp_path)
    Path("key").write_text(SECRET)
    Path("jwks").write_bytes(jwks(jwk("RS256")))
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigError) as raised:
        authenticator(**settings)
    assert str(raised.value) == "signed tokens need PyJWT and cryptography: pip install 'PyJWT[crypto]'"


async def test_static_tokens_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    known = authenticator(token=TOKEN)
    assert await known.authenticate(TOKEN) == ROOT
    assert await refusal(known, token("RS256")) == "is signed with an unknown key"
    with pytest.raises(ExtraError):
        known.issue({}, subject="v", lifetime=3600.0, by=ROOT)


async def test_without_remote_keys_nothing_is_started() -> None:
    known = authenticator(token=TOKEN)
    await known.start()
    await known.close()
    await known.close()
    assert await known.authenticate(TOKEN) == ROOT


# Replacement at a reload.


def in_place_of(before: Authenticator, **settings: Any) -> Authenticator:
    return Authenticator(Config(**settings), clock=Clock(NOW), before=before)


async def test_revocations_are_shared_with_the_replacement() -> None:
    """Those made later hold in both, since requests of the old one may still run."""
    callers = tuple(CallerRule(name=name, token=name * 20) for name in "ab")
    first = authenticator(caller=callers)
    first.revoke("caller", "a")
    second = in_place_of(first, caller=callers)
    second.revoke("caller", "b")
    for each in (first, second):
        for name in "ab":
            assert await refusal(each, name * 20) == "was revoked"


async def test_a_verified_token_is_verified_again_after_a_replacement(tmp_path: Path) -> None:
    first = authenticator(jwt_key_file=public_file(tmp_path, "RS256"))
    assert await first.authenticate(token()) == ANN
    second = in_place_of(first, jwt_key_file=public_file(tmp_path, "RS256"), jwt_issuer="somebody")
    assert await refusal(second, token()) != ""
    assert await first.authenticate(token()) == ANN


async def test_the_keys_of_an_unchanged_jwks_are_kept(issuer: Issuer) -> None:
    first = authenticator(jwt_jwks=issuer.url)
    await first.start()
    await first.close()
    same = in_place_of(first, jwt_jwks=issuer.url, jwt_jwks_refresh=5.0)
    other = in_place_of(first, jwt_jwks="http://127.0.0.1:9/other")
    signed = token("EdDSA", header={"kid": "old"})
    assert (await same.authenticate(signed), issuer.asked) == (ANN, 1)
    other.require_keys()
    assert await refusal(other, signed) == "is signed with an unknown key"
    await other.start()
    with pytest.raises(ConfigError, match=r"^jwt_jwks: 'http://127.0.0.1:9/other' cannot be read: "):
        other.require_keys()
    await other.close()
