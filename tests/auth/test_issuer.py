"""The server's own tokens."""

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


def mint(config: Config | None = None) -> TokenIssuer:
    return TokenIssuer(Config() if config is None else config, now)


def make(by: Principal = ROOT, grants: Grants = READ, **wanted: Any) -> IssuedToken:
    return mint().make(grants, **{"subject": "visitor-1", "lifetime": 60.0, **wanted}, by=by)


def claims(made: IssuedToken) -> dict[str, Any]:
    """Return what a token says, whoever has signed it."""
    return jwt.decode(made.token, options={"verify_signature": False})


def principal(made: IssuedToken, keys: tuple[Key, ...]) -> Principal:
    """Return what a token is good for by these keys."""
    return access_of(claims_of(made.token, header_of(made.token), keys, OWN_RULES), OWN_RULES.claim)


def test_a_token_that_was_made_is_known_again() -> None:
    maker = mint()
    made = maker.make({**READ, Action.INSPECT: ("*", "a.*")}, subject="visitor-1", lifetime=3600.0, by=ROOT)
    assert principal(made, maker.keys) == Principal(
        {Action.SUBSCRIBE: ("orders.17",), Action.INSPECT: ("*", "a.*")},
        "visitor-1",
        made.id,
        issued=NOW,
        expires=END,
    )
    assert (made.subject, made.expires) == ("visitor-1", END)


def test_a_token_says_whose_it_is_in_its_header() -> None:
    """So that no other key is tried."""
    assert jwt.get_unverified_header(make().token) == {"alg": "HS256", "kid": "sse-broadcast", "typ": "JWT"}
    assert claims(make())["iss"] == "sse-broadcast"


def test_every_token_has_an_id_of_its_own() -> None:
    """By which it can be revoked alone."""
    maker = mint()
    ids = {maker.make(READ, subject="a", lifetime=1.0, by=ROOT).id for _ in range(100)}
    assert len(ids) == 100


def test_a_token_is_not_shown() -> None:
    made = make()
    assert repr(made) == f"IssuedToken(id='{made.id}', subject='visitor-1', expires={NOW + 60})"


def test_a_server_without_a_secret_makes_one_that_ends_with_it() -> None:
    """No other server knows its tokens, nor does it before it has made one."""
    one, other = mint(), mint()
    assert one.keys == ()
    made, others = (maker.make(READ, subject="a", lifetime=3600.0, by=ROOT) for maker in (one, other))
    assert principal(made, one.keys).id == made.id
    with pytest.raises(CredentialError, match="its signature is wrong"):
        principal(others, one.keys)


def test_servers_of_one_secret_know_each_others_tokens(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    maker, knower = mint(Config(token_secret=SECRET)), mint(Config(token_secret_file=f"{tmp_path}/secret"))
    made = maker.make(READ, subject="a", lifetime=3600.0, by=ROOT)
    assert principal(made, knower.keys).id == made.id
    with pytest.raises(CredentialError, match="its signature is wrong"):
        principal(made, mint(Config(token_secret=OTHER_SECRET)).keys)


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
def test_no_token_lasts_longer_than_its_maker_or_the_setting(
    by: Principal, lifetime: float, good_for: float
) -> None:
    assert make(by, lifetime=lifetime).expires == NOW + good_for


def test_the_longest_a_token_lasts_is_a_setting() -> None:
    assert mint(Config(token_lifetime=5.0)).make(READ, subject="a", lifetime=60.0, by=ROOT).expires == NOW + 5


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
def test_nobody_gives_what_it_has_not(grants: Grants, problem: str) -> None:
    with pytest.raises(ForbiddenError) as raised:
        make(SHOP, grants)
    assert str(raised.value) == f"{problem}: the maker of the token is not allowed to grant it"


@pytest.mark.parametrize("by", [ROOT, SHOP])
def test_admin_is_not_handed_on(by: Principal) -> None:
    """Whoever has it: a page's visitor makes no tokens."""
    with pytest.raises(ForbiddenError, match=exactly("admin: a token cannot grant it")):
        make(by, {Action.ADMIN: ("a",)})


@pytest.mark.parametrize("grants", [{}, {Action.ADMIN: ()}, {Action.PUBLISH: ()}])
def test_a_token_may_be_for_nothing(grants: Grants) -> None:
    assert make(Principal({}, "a"), grants).token


@pytest.mark.parametrize(
    ("grants", "problem"),
    [
        ({Action.SUBSCRIBE: ("a/b",)}, "channel: must not contain '/': 'a/b'"),
        ({Action.SUBSCRIBE: ("",)}, "channel: must be 1 to 128 characters: ''"),
        ({Action.SUBSCRIBE: ("a\n",)}, r"channel: must not contain '\n': 'a\n'"),
    ],
)
def test_what_cannot_be_a_channel_is_not_granted(grants: Grants, problem: str) -> None:
    """The token would be refused when it comes back."""
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
def test_what_cannot_be_said_of_a_token_is_refused(wanted: dict[str, Any], problem: str) -> None:
    with pytest.raises(EventError, match=exactly(problem)):
        make(**wanted)


def test_a_token_is_never_longer_than_one_may_be() -> None:
    """One that is would be refused when it comes back."""
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
def test_a_secret_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], problem: str
) -> None:
    """It is never passed over for one that ends with the process."""
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("short\n")
    Path("empty").touch()
    with pytest.raises(ConfigError, match=exactly(problem)):
        mint(Config(**settings))  # type: ignore[arg-type]


def test_without_the_extra_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is needed with the first token, or where there is a secret."""
    monkeypatch.setitem(sys.modules, "jwt", None)
    calls: list[Callable[[], object]] = [make, lambda: mint(Config(token_secret=SECRET))]
    for call in calls:
        with pytest.raises(ExtraError) as raised:
            call()
        assert str(raised.value) == "signed tokens need PyJWT and cryptography: pip install 'PyJWT[crypto]'"
    assert mint().keys == ()


# One in the place of another.


def test_a_secret_that_was_made_is_made_once() -> None:
    """Tokens that were made with it are known by the next, also where another was configured between."""
    first = mint()
    second = TokenIssuer(Config(), now, before=first)
    made = first.make(READ, subject="visitor-1", lifetime=3600.0, by=ROOT)
    third = TokenIssuer(Config(token_secret=SECRET), now, before=second)
    fourth = TokenIssuer(Config(), now, before=third)
    assert principal(made, second.keys).id == principal(made, fourth.keys).id == made.id
    with pytest.raises(CredentialError):
        principal(made, third.keys)


def test_a_secret_that_is_configured_is_the_one() -> None:
    first = TokenIssuer(Config(token_secret=SECRET), now)
    made = first.make(READ, subject="visitor-1", lifetime=3600.0, by=ROOT)
    assert principal(made, TokenIssuer(Config(token_secret=SECRET), now, before=first).keys).id == made.id
    for other in (Config(token_secret=OTHER_SECRET), Config()):
        with pytest.raises(CredentialError):
            principal(made, TokenIssuer(other, now, before=first).keys)
