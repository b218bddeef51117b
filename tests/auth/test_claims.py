"""Claims of a signed token."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.auth.claims import MAX_SUBJECT, MAX_TIME, access_of, in_short
from sse_broadcast.auth.principal import Action, Principal
from sse_broadcast.errors import CredentialError
from tests.support.signing import CLAIMS, END, NOW


def read(claim: str = "grants", /, **claims: Any) -> Principal:
    """Read the claims of a good token with some replaced. `...` leaves one out."""
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not ...}
    return access_of(said, claim)


def refusal(claim: str = "grants", /, **claims: Any) -> str:
    """Return the error of bad claims."""
    with pytest.raises(CredentialError) as raised:
        read(claim, **claims)
    return str(raised.value).removeprefix("token: ")


def test_claims_have_the_subject_and_the_grants() -> None:
    assert read() == Principal({Action.SUBSCRIBE: ("orders.*",)}, "ann", "t1", NOW - 60, END)


def test_a_token_needs_only_an_expiry_and_its_grants() -> None:
    """Its subject is then empty, which is not the anonymous caller."""
    principal = read(sub=..., jti=..., iat=...)
    assert principal == Principal({Action.SUBSCRIBE: ("orders.*",)}, "", None, None, END)
    assert not principal.anonymous


def test_unknown_claims_are_ignored() -> None:
    assert read(iss="anyone", email="ann@example.com", roles=["x"]) == read()


@pytest.mark.parametrize("name", ["exp", "iat"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("1700000060", "Expected `float{}`, got `str`"),
        (True, "Expected `float{}`, got `bool`"),
        ([1], "Expected `float{}`, got `array`"),
        ({"a": 1}, "Expected `float{}`, got `object`"),
        (-1, "Expected `float` >= 0.0"),
        (float("nan"), "Expected `float` >= 0.0"),
        (float("inf"), "Expected `float` <= 253402300799.0"),
        (MAX_TIME + 1, "Expected `float` <= 253402300799.0"),
        (10**400, "Number out of range"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_time_is_a_number_of_seconds(name: str, value: Any, problem: str) -> None:
    """Text with a number is none (RFC 7519, 2: NumericDate)."""
    reported = problem.format(" | null" if name == "iat" else "")
    assert refusal(**{name: value}) == f"claims: {reported} - at `$.{name}`"


def test_the_latest_time_is_accepted() -> None:
    """It is the end of the year 9999."""
    assert read(exp=MAX_TIME).expires == MAX_TIME


@pytest.mark.parametrize(("name", "optional"), [("sub", ""), ("jti", " | null")])
def test_a_name_has_a_limited_length(name: str, optional: str) -> None:
    """A revoked one is stored."""
    for value, got in ((5, "int"), (["ann"], "array"), ({"a": 1}, "object"), (True, "bool")):
        assert refusal(**{name: value}) == f"claims: Expected `str{optional}`, got `{got}` - at `$.{name}`"
    long = refusal(**{name: "x" * (MAX_SUBJECT + 1)})
    assert long == f"claims: Expected `str` of length <= 255 - at `$.{name}`"
    assert refusal(**{name: "\ud800"}).startswith("claims: Expected `str` matching regex ")
    said: dict[str, Any] = {name: "\U0001f600" * MAX_SUBJECT}
    assert "\U0001f600" * MAX_SUBJECT in {read(**said).subject, read(**said).id}


FORM = r"Expected `str` matching regex '^[A-Za-z0-9._:@~*-]{1,128}\\Z' - at `$[...][0]`"


@pytest.mark.parametrize(
    ("grants", "problem"),
    [
        (None, "Expected `object`, got `null`"),
        ("subscribe", "Expected `object`, got `str`"),
        (["subscribe"], "Expected `object`, got `array`"),
        (True, "Expected `object`, got `bool`"),
        ({"subscribe": "orders.*"}, "Expected `array`, got `str` - at `$[...]`"),
        ({"subscribe": None}, "Expected `array`, got `null` - at `$[...]`"),
        ({"subscribe": {"orders.*": True}}, "Expected `array`, got `object` - at `$[...]`"),
        ({"subscribe": [5]}, "Expected `str`, got `int` - at `$[...][0]`"),
        ({"subscribe": ["a", None]}, "Expected `str`, got `null` - at `$[...][1]`"),
        ({"subscribe": [["a"]]}, "Expected `str`, got `array` - at `$[...][0]`"),
        ({"subscribe": ["a"], "delete": ["a"]}, "Invalid enum value 'delete' - at `key` in `$`"),
        ({"Subscribe": ["a"]}, "Invalid enum value 'Subscribe' - at `key` in `$`"),
        ({"*": ["*"]}, "Invalid enum value '*' - at `key` in `$`"),
        ({"subscribe": [""]}, FORM),
        ({"subscribe": ["a" * 129]}, FORM),
        ({"subscribe": ["b/c", "a"]}, FORM),
        ({"subscribe": ["a\n"]}, FORM),
        ({"publish": ["[a-z]"]}, FORM),
        ({"publish": ["a?"]}, FORM),
        ({"publish": ["\u0430"]}, FORM),
        ({"publish": ["\ud800"]}, FORM),
    ],
    ids=ascii,
)
def test_grants_are_patterns_by_action(grants: Any, problem: str) -> None:
    """Any other form is refused as a whole."""
    assert refusal(grants=grants) == f"claim 'grants': {problem}"


def test_grants_may_be_empty() -> None:
    assert read(grants={}).grants == {}
    assert not read(grants={"publish": []}).allows(Action.PUBLISH, "a")


def test_a_token_without_the_grants_claim_is_refused() -> None:
    """It is for another server, or the setting is wrong."""
    assert refusal(grants=...) == "has no claim 'grants', which holds its grants"
    other = "https://example.com/sse"
    assert refusal(other) == f"has no claim '{other}', which holds its grants"
    assert read(other, grants=..., **{other: {"subscribe": ["orders.*"]}}) == read()


def test_an_error_quotes_a_claim_in_short() -> None:
    assert in_short("it's \xe9\n\ud800") == r"it's \xe9\n\ud800"
    assert in_short("x" * 1000) == "x" * 120
    assert refusal(grants={"x\n" * 500: []}) == "claim 'grants': Invalid enum value '" + (r"x\n" * 40)[:100]
    assert "surrogates not allowed" in refusal(grants={"\ud800": []})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["exp", "iat", "sub", "jti", "grants"]), ANYTHING))
def test_any_claims_are_accepted_or_refused(claims: dict[str, Any]) -> None:
    with contextlib.suppress(CredentialError):
        assert access_of({**CLAIMS, **claims}, "grants").expires is not None
