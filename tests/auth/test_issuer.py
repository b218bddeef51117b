"""Token issuer: tokens of the server itself."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from sse_broadcast.auth.claims import access_of
from sse_broadcast.auth.issuer import OWN_RULES, IssuedToken, TokenIssuer
from sse_broadcast.auth.jwt import claims_of, header_of
from sse_broadcast.auth.keys import Key
from sse_broadcast.auth.principal import EVERYTHING, Action, Grants, Principal
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import ConfigError, CredentialError, EventError, ExtraError, ForbiddenError
from tests.support.raising import exactly
from tests.support.signing import END, NOW, OTHER_SECRET, SECRET

ROOT = Principal(EVERYTHING, "token")
SHOP = Principal({Action.ADMIN: ("*",), Action.SUBSCRIBE: ("orders.*",)}, "shop", expires=NOW + 300)
READ: Grants = {Action.SUBSCRIBE: ("orders.17",)}


def now() -> float:
    return NOW


def new_issuer(config: Config | None = None) -> TokenIssuer:
    return TokenIssuer(Config() if config is None else config, now)


def make(by: Principal = ROOT, grants: Grants = READ, **wanted: Any) -> IssuedToken:
    return new_issuer().make(grants, **{"subject": "visitor-1", "lifetime": 60.0, **wanted}, by=by)


def claims(made: IssuedToken) -> dict[str, Any]:
    """Return the claims of a token without verifying it."""
    return jwt.decode(made.token, options={"verify_signature": False})


def principal(made: IssuedToken, keys: tuple[Key, ...]) -> Principal:
    """Return the principal of a token verified by these keys."""
    return access_of(claims_of(made.token, header_of(made.token), keys, OWN_RULES), OWN_RULES.claim)


def test_an_issued_token_is_accepted() -> None:
    maker = new_issuer()
    made = maker.make({**READ, Action.INSPECT: ("*", "a.*")}, subject="visitor-1", lifetime=3600.0, by=ROOT)
    assert principal(made, maker.keys) == Principal(
        {Action.SUBSCRIBE: ("orders.17",), Action.INSPECT: ("*", "a.*")},
        "visitor-1",
        made.id,
        issued=NOW,
        expires=END,
    )
    assert (made.subject, made.expires) == ("visitor-1", END)


def test_the_header_of_a_token_names_its_key() -> None:
    """No other key is tried."""
    assert jwt.get_unverified_header(make().token) == {"alg": "HS256", "kid": "sse-broadcast", "typ": "JWT"}
    assert claims(make())["iss"] == "sse-broadcast"


def test_every_token_has_a_unique_id() -> None:
    """It can be revoked by its id."""
    maker = new_issuer()
    ids = {maker.make(READ, subject="a", lifetime=1.0, by=ROOT).id for _ in range(100)}
    assert len(ids) == 100


def test_a_token_is_not_in_the_representation() -> None:
    made = make()
    assert repr(made) == f"IssuedToken(id='{made.id}', subject='visitor-1', expires={NOW + 60})"


def test_a_generated_secret_ends_with_the_process() -> None:
    """No other server accepts its tokens, and it is generated with the first of them."""
    one, other = new_issuer(), new_issuer()
    assert one.keys == ()
    made, others = (maker.make(READ, subject="a", lifetime=3600.0, by=ROOT) for maker in (one, other))
    assert principal(made, one.keys).id == made.id
    with pytest.raises(CredentialError, match="its signature is wrong"):
        principal(others, one.keys)


def test_servers_with_one_secret_accept_each_others_tokens(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    maker, knower = (
        new_issuer(Config(token_secret=SECRET)),
        new_issuer(Config(token_secret_file=f"{tmp_path}/secret")),
    )
    made = maker.make(READ, subject="a", lifetime=3600.0, by=ROOT)
    assert principal(made, knower.keys).id == made.id
    with pytest.raises(CredentialError, match="its signature is wrong"):
        principal(made, new_issuer(Config(token_secret=OTHER_SECRET)).keys)


@pytest.mark.parametrize(
    ("by", "lifetime", "good_for"),
    [
        (ROOT, 60.0, 60.0),
        (ROOT, 3600.0, 3600.0),
        (ROOT, 1e9, 3600.0),
        (SHOP, 60.0, 60.0),
        (SHOP, 301.0, 300.0),
    ],
)
def test_a_token_lasts_no_longer_than_its_issuers_token_or_the_setting(
    by: Principal, lifetime: float, good_for: float
) -> None:
    assert make(by, lifetime=lifetime).expires == NOW + good_for


def test_the_maximum_lifetime_is_a_setting() -> None:
    assert (
        new_issuer(Config(token_lifetime=5.0)).make(READ, subject="a", lifetime=60.0, by=ROOT).expires
        == NOW + 5
    )


@pytest.mark.parametrize(
    ("grants", "problem"),
    [
        ({Action.SUBSCRIBE: ("news",)}, "subscribe 'news'"),
        ({Action.SUBSCRIBE: ("orders.17", "orders")}, "subscribe 'orders'"),
        ({Action.SUBSCRIBE: ("*",)}, "subscribe '*'"),
        ({Action.SUBSCRIBE: ("orders*",)}, "subscribe 'orders*'"),
        ({Action.SUBSCRIBE: ("o*",)}, "subscribe 'o*'"),
        ({Action.SUBSCRIBE: ("orders.17",), Action.PUBLISH: ("orders.17",)}, "publish 'orders.17'"),
        ({Action.INSPECT: ("orders.17",)}, "inspect 'orders.17'"),
    ],
)
def test_a_caller_grants_only_what_it_has(grants: Grants, problem: str) -> None:
    with pytest.raises(ForbiddenError) as raised:
        make(SHOP, grants)
    assert str(raised.value) == f"{problem}: the maker of the token is not allowed to grant it"


@pytest.mark.parametrize("by", [ROOT, SHOP])
def test_admin_cannot_be_granted(by: Principal) -> None:
    """No caller may pass it on: the visitor of a page must not issue tokens."""
    with pytest.raises(ForbiddenError, match=exactly("admin: a token cannot grant it")):
        make(by, {Action.ADMIN: ("a",)})


@pytest.mark.parametrize("grants", [{}, {Action.ADMIN: ()}, {Action.PUBLISH: ()}])
def test_a_token_may_have_no_grants(grants: Grants) -> None:
    assert make(Principal({}, "a"), grants).token


@pytest.mark.parametrize(
    ("grants", "problem"),
    [
        ({Action.SUBSCRIBE: ("a/b",)}, "channel: must not contain '/': 'a/b'"),
        ({Action.SUBSCRIBE: ("",)}, "channel: must be 1 to 128 characters: ''"),
        ({Action.SUBSCRIBE: ("a\n",)}, r"channel: must not contain '\n': 'a\n'"),
    ],
)
def test_a_malformed_channel_is_not_granted(grants: Grants, problem: str) -> None:
    """The token would be refused later."""
    with pytest.raises(EventError, match=exactly(problem)):
        make(grants=grants)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"subject": ""}, "subject: must be 1 to 255 characters, not 0"),
        ({"subject": "x" * 256}, "subject: must be 1 to 255 characters, not 256"),
        ({"lifetime": 0.0}, "lifetime: must be a number of seconds above 0, not 0.0"),
        ({"lifetime": -1.0}, "lifetime: must be a number of seconds above 0, not -1.0"),
        ({"lifetime": math.nan}, "lifetime: must be a number of seconds above 0, not nan"),
        ({"lifetime": math.inf}, "lifetime: must be a number of seconds above 0, not inf"),
    ],
)
def test_an_impossible_token_is_refused(wanted: dict[str, Any], problem: str) -> None:
    with pytest.raises(EventError, match=exactly(problem)):
        make(**wanted)


def test_an_issued_token_has_the_maximum_length_at_most() -> None:
    """A longer one would be refused later."""
    with pytest.raises(EventError) as raised:
        make(grants={Action.SUBSCRIBE: tuple(f"orders.{number:0>100}" for number in range(60))})
    assert str(raised.value).startswith("grants: make a token of ")
    assert str(raised.value).endswith(" characters, more than 8192")


def test_a_subject_may_be_any_text() -> None:
    for subject in ("a" * 255, 'a "b" \\', "J\xf6rg \U0001f600"):
        made = make(subject=subject)
        assert claims(made)["sub"] == subject


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"token_secret": "x" * 31}, "token_secret: must have at least 32 bytes, not 31"),
        ({"token_secret_file": "short"}, "token_secret_file: must have at least 32 bytes, not 5"),
        ({"token_secret_file": "empty"}, "token_secret_file: must have at least 32 bytes, not 0"),
        (
            {"token_secret_file": "none"},
            "token_secret_file: 'none' cannot be read: No such file or directory",
        ),
    ],
)
def test_an_unusable_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], problem: str
) -> None:
    """No generated one replaces it."""
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("short\n")
    Path("empty").touch()
    with pytest.raises(ConfigError, match=exactly(problem)):
        new_issuer(Config(**settings))  # type: ignore[arg-type]


def test_without_the_extra_no_token_is_issued(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes with the first token, or at the start if there is a secret."""
    monkeypatch.setitem(sys.modules, "jwt", None)
    calls: list[Callable[[], object]] = [make, lambda: new_issuer(Config(token_secret=SECRET))]
    for call in calls:
        with pytest.raises(ExtraError) as raised:
            call()
        assert str(raised.value) == "signed tokens need PyJWT and cryptography: pip install 'PyJWT[crypto]'"
    assert new_issuer().keys == ()


# Replacement at a reload.


def test_a_generated_secret_is_generated_once() -> None:
    """Its tokens are accepted after a reload, also if another secret was configured in between."""
    first = new_issuer()
    second = TokenIssuer(Config(), now, before=first)
    made = first.make(READ, subject="visitor-1", lifetime=3600.0, by=ROOT)
    third = TokenIssuer(Config(token_secret=SECRET), now, before=second)
    fourth = TokenIssuer(Config(), now, before=third)
    assert principal(made, second.keys).id == principal(made, fourth.keys).id == made.id
    with pytest.raises(CredentialError):
        principal(made, third.keys)


def test_a_configured_secret_replaces_a_generated_one() -> None:
    first = TokenIssuer(Config(token_secret=SECRET), now)
    made = first.make(READ, subject="visitor-1", lifetime=3600.0, by=ROOT)
    assert principal(made, TokenIssuer(Config(token_secret=SECRET), now, before=first).keys).id == made.id
    for other in (Config(token_secret=OTHER_SECRET), Config()):
        with pytest.raises(CredentialError):
            principal(made, TokenIssuer(other, now, before=first).keys)
