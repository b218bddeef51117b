"""JWTs: verification with the configured keys."""

import hashlib
import hmac
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.auth.claims import ClaimRules
from sse_broadcast.auth.jwt import FOREIGN, TokenHeader, Verifier, claims_of, header_of, is_signed
from sse_broadcast.auth.keys import Key, key_of_file, keys_of_jwks
from sse_broadcast.errors import CredentialError
from tests.support.raising import exactly
from tests.support.signing import (
    ALGORITHMS,
    ASYMMETRIC,
    CLAIMS,
    jwk,
    jwks,
    part,
    pem,
    private_key,
    public_file,
    token,
)


def key_of(folder: Path, algorithm: str, which: int = 0) -> Key:
    return key_of_file(public_file(folder, algorithm, which), setting="jwt_key_file")


def fault_of(text: str, keys: Sequence[Key], rules: ClaimRules | None = None) -> str | None:
    """Return the error of a token, or None."""
    try:
        claims_of(text, header_of(text), keys, ClaimRules() if rules is None else rules)
    except CredentialError as error:
        return str(error).removeprefix("token: ")
    return None


def refusal(text: str) -> str:
    """Return the error of a token with a refused header."""
    with pytest.raises(CredentialError) as raised:
        header_of(text)
    return str(raised.value).removeprefix("token: ")


def test_the_header_has_the_algorithm() -> None:
    assert header_of(token("ES256", header={"kid": "a", "x": 1})) == TokenHeader("ES256", "a")
    assert header_of(token("ES256")) == TokenHeader("ES256", None)


def test_the_claims_are_those_of_the_token(tmp_path: Path) -> None:
    text = token("ES256")
    assert claims_of(text, header_of(text), [key_of(tmp_path, "ES256")], ClaimRules()) == CLAIMS


@pytest.mark.parametrize(
    ("text", "is_one"), [("a.b.c", True), ("..", True), ("a.b", False), ("a.b.c.d.e", False)]
)
def test_a_signed_token_has_three_parts(text: str, *, is_one: bool) -> None:
    """An encrypted one has five, and is refused."""
    assert is_signed(text) is is_one


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("change", [" {}", "{}\n", "{}!!!!", "{}+aaa", "{}/aaa", "\xe9{}", "A", "{}===", "="])
def test_characters_that_decoders_skip_are_refused(index: int, change: str) -> None:
    parts = token("EdDSA").split(".")
    parts[index] = change.format(parts[index])
    assert (
        refusal(".".join(parts)) == f"is not valid: Invalid {('header', 'payload', 'crypto')[index]} padding"
    )


def test_unused_bits_must_be_zero() -> None:
    """The last character of a signature has some: another value would be a second spelling of the token."""
    text = token(
        "EdDSA"
    )  # For 64 bytes the last character has two bits of the signature and four unused ones.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = alphabet[alphabet.index(text[-1]) ^ 1]
    assert refusal(text[:-1] + other) == "is not valid: Invalid crypto padding"


NO_OBJECT = "is not valid: Invalid header string: must be a json object"
KID = "is not valid: Key ID header parameter must be a string"
CRIT = "is not valid: Unsupported critical extension: "


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("", "is not valid: Invalid header string: Expecting value: line 1 column 1 (char 0)"),
        ("[]", NO_OBJECT),
        ('"RS256"', NO_OBJECT),
        ('{"alg": "RS256", "kid": 5}', KID),
        ('{"alg": "RS256", "kid": null}', KID),
        ('{"alg": "RS256", "kid": ["a"]}', KID),
        ('{"alg": "RS256", "kid": {"a": 1}}', KID),
        ('{"alg": "RS256", "crit": ["exp"], "exp": 1}', f"{CRIT}exp"),
        ('{"alg": "RS256", "crit": ["a\\n\\u00e9"]}', f"{CRIT}a\\n\\xe9"),
        (f'{{"alg": "RS256", "crit": ["{"x" * 500}"]}}', (CRIT + "x" * 500)[:134]),
        ('{"alg": "RS256", "crit": []}', "is not valid: Invalid 'crit' header: must be a non-empty list"),
        (
            '{"alg": "RS256", "b64": false}',
            "is not valid: Payload segment must be empty when 'b64' is false.",
        ),
    ],
)
def test_a_malformed_header_is_refused(header: str, problem: str) -> None:
    assert refusal(token("RS256", header=header)) == problem


@pytest.mark.parametrize(
    ("algorithm", "reported"),
    [
        *((name, name) for name in ("none", "None", "NONE", "rs256", "RS256 ", "RS512", "PS256", "ES256K")),
        ("a\n\xe9", r"a\n\xe9"),
        ("x" * 500, "x" * 120),
        ("", ""),
        *((value, "no algorithm") for value in (None, 5, ["RS256"], {"RS256": 1})),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_an_algorithm_without_a_key_is_refused(tmp_path: Path, algorithm: object, reported: str) -> None:
    """No key is tried."""
    text = token("RS256", header={"alg": algorithm})
    fault = fault_of(text, [key_of(tmp_path, "RS256")])
    assert fault == f"is signed with {reported}, which is not its key's algorithm"


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("value", [None, "https://evil.example/keys", {"kty": "oct", "k": "eA"}, ["exp"], []])
def test_a_header_with_its_own_key_is_refused(name: str, value: Any) -> None:
    """Its URL is not fetched (RFC 8725, 3.10), whatever it is."""
    text = token("RS256", header={name: value})
    assert refusal(text) == f"its header has {name}, which is not accepted"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_is_verified_by_the_key_that_signed_it(tmp_path: Path, algorithm: str) -> None:
    assert fault_of((token(algorithm)), [key_of(tmp_path, algorithm)]) is None
    assert fault_of((token(algorithm)), [key_of(tmp_path, algorithm, 1)]) == "its signature is wrong"
    both = [key_of(tmp_path, algorithm, 1), key_of(tmp_path, algorithm)]
    assert fault_of((token(algorithm)), both) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("claimed", ALGORITHMS)
def test_the_algorithm_is_that_of_the_key(tmp_path: Path, algorithm: str, claimed: str) -> None:
    fault = fault_of((token(algorithm, header={"alg": claimed})), [key_of(tmp_path, algorithm)])
    if claimed == algorithm:
        assert fault is None
    else:
        assert fault == f"is signed with {claimed}, which is not its key's algorithm"


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@pytest.mark.parametrize("kid", [None, "a"])
@pytest.mark.parametrize("stripped", [False, True])
def test_a_public_key_is_no_symmetric_key(
    tmp_path: Path, algorithm: str, kid: str | None, *, stripped: bool
) -> None:
    """It is public: HS256 with its bytes is a well-known forgery (RFC 8725, 2.1)."""
    public = pem(private_key(algorithm))
    secret = public.strip() if stripped else public
    header = part(json.dumps({"alg": "HS256", "kid": kid} if kid else {"alg": "HS256"}))
    signed = f"{header}.{part(json.dumps(CLAIMS))}"
    forged = f"{signed}.{part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"
    keys = [key_of(tmp_path, algorithm), *keys_of_jwks(jwks(jwk(algorithm, kid="a")), secrets=True)]
    assert fault_of((forged), keys) == "is signed with HS256, which is not its key's algorithm"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_empty_signature_is_wrong(tmp_path: Path, algorithm: str) -> None:
    unsigned = token(algorithm).rpartition(".")[0] + "."
    assert fault_of((unsigned), [key_of(tmp_path, algorithm)]) == "its signature is wrong"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_changed_token_is_refused(tmp_path: Path, algorithm: str) -> None:
    key = key_of(tmp_path, algorithm)
    head, payload, signature = token(algorithm).split(".")
    other_head, other_payload, other_signature = token(algorithm, {"exp": 1}, header={"kid": "x"}).split(".")
    for forged in (
        f"{other_head}.{payload}.{signature}",
        f"{head}.{other_payload}.{signature}",
        f"{head}.{payload}.{other_signature}",
    ):
        assert fault_of((forged), [key]) == "its signature is wrong"


KEYS = keys_of_jwks(
    jwks(jwk("RS256", kid="a"), jwk("RS256", 1, kid="b"), jwk("ES256", kid="c")), secrets=True
)


@pytest.mark.parametrize(
    ("header", "which", "fault"),
    [
        ({"kid": "a"}, 0, None),
        ({"kid": "b"}, 1, None),
        ({}, 0, None),
        ({}, 1, None),
        ({"kid": "b"}, 0, "its signature is wrong"),
        ({"kid": "c"}, 0, "is signed with RS256, which is not its key's algorithm"),
        ({"kid": "d"}, 0, "is signed with an unknown key"),
        ({"kid": ""}, 0, "is signed with an unknown key"),
        ({"kid": "A"}, 0, "is signed with an unknown key"),
        ({"kid": "../../etc/passwd"}, 0, "is signed with an unknown key"),
        ({"kid": "https://evil.example/key"}, 0, "is signed with an unknown key"),
        ({"kid": "a' OR '1'='1"}, 0, "is signed with an unknown key"),
        ({"kid": "x" * 3000}, 0, "is signed with an unknown key"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_kid_only_selects_a_configured_key(header: dict[str, Any], which: int, fault: str | None) -> None:
    """Without one, each key of the algorithm is tried."""
    assert fault_of((token("RS256", key=private_key("RS256", which), header=header)), KEYS) == fault


@pytest.mark.parametrize("name", ["alg", "kid", "typ", "crit"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_deeply_nested_header_is_refused(name: str, opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    for depth in (64, 100, 1000, 1150):
        deep = f'{{"{name}": {opening * depth}1{closing * depth}}}'
        assert fault_of(token("RS256", header=deep), KEYS) == "is nested more than 64 deep"
    refusal(token("RS256", header=opening * 1200))


def test_a_key_without_an_id_matches_any_kid(tmp_path: Path) -> None:
    """With one key there is no need to name it."""
    key = key_of(tmp_path, "RS256")
    assert fault_of((token("RS256", header={"kid": "anything"})), [key]) is None


def test_without_keys_every_token_is_refused() -> None:
    assert fault_of((token("RS256")), []) == "is signed with an unknown key"


GOOD = token("RS256", header={"kid": "a"})


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.characters(max_codepoint=127))
def test_a_token_with_one_character_changed_is_refused(index: int, character: str) -> None:
    text = GOOD[:index] + character + GOOD[index + 1 :]
    assert text == GOOD or not is_signed(text) or fault_of(text, KEYS)


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_a_token_cut_short_is_refused(length: int) -> None:
    assert not is_signed(GOOD[:length]) or fault_of(GOOD[:length], KEYS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, 31, 32, 63, 64, 65, 255, 256, 257, 3000])
def test_a_signature_of_any_other_size_is_wrong(tmp_path: Path, algorithm: str, size: int) -> None:
    signed = token(algorithm).rpartition(".")[0]
    for byte in (b"\x00", b"\xff"):
        fault = fault_of(f"{signed}.{part(byte * size)}", [key_of(tmp_path, algorithm)])
        assert fault == "its signature is wrong"


async def claims_by(verifier: Verifier, text: str) -> Any:
    return await verifier.claims_of(text, header_of(text))


class Changing:
    """A key source whose keys change at the refresh."""

    def __init__(self, *keys: tuple[Key, ...]) -> None:
        self._keys = list(keys)
        self.renewed = 0

    @property
    def keys(self) -> tuple[Key, ...]:
        return self._keys[0]

    async def refresh(self) -> None:
        self.renewed += 1
        if len(self._keys) > 1:
            del self._keys[0]


async def test_an_unknown_key_causes_a_refresh() -> None:
    """Its issuer may have published it meanwhile."""
    source = Changing(KEYS[:1], KEYS)
    verifier = Verifier(ClaimRules(), source=source)
    await claims_by(verifier, token("RS256", header={"kid": "a"}))
    assert source.renewed == 0
    await claims_by(verifier, token("RS256", key=private_key("RS256", 1), header={"kid": "b"}))
    assert source.renewed == 1


async def test_a_token_without_a_kid_is_tried_again_after_a_refresh() -> None:
    """One of the new keys may have signed it."""
    source = Changing(KEYS[:1], KEYS)
    await claims_by(Verifier(ClaimRules(), source=source), token("RS256", key=private_key("RS256", 1)))
    assert source.renewed == 1


async def test_keys_without_ids_cannot_satisfy_a_kid() -> None:
    """A token without a kid may belong to a key that is not there yet."""
    one, other = (keys_of_jwks(jwks(jwk("RS256", which)), secrets=False) for which in (0, 1))
    source = Changing(one, other)
    await claims_by(Verifier(ClaimRules(), source=source), token("RS256", key=private_key("RS256", 1)))
    assert source.renewed == 1


async def test_a_wrong_signature_of_a_known_key_causes_no_refresh() -> None:
    """Otherwise forged tokens could cause one each."""
    source = Changing(KEYS)
    with pytest.raises(CredentialError, match=exactly("token: its signature is wrong")):
        await claims_by(Verifier(ClaimRules(), source=source), token("RS256", header={"kid": "b"}))
    assert source.renewed == 0


async def test_a_key_that_stays_unknown_is_refused() -> None:
    source = Changing(KEYS[:1])
    with pytest.raises(CredentialError, match=exactly("token: is signed with an unknown key")):
        await claims_by(Verifier(ClaimRules(), source=source), token("RS256", header={"kid": "b"}))
    assert source.renewed == 1


async def test_keys_of_a_file_and_of_a_source_are_both_used(tmp_path: Path) -> None:
    verifier = Verifier(ClaimRules(), [key_of(tmp_path, "HS256")], Changing(KEYS))
    await claims_by(verifier, token("HS256"))
    await claims_by(verifier, token("ES256", header={"kid": "c"}))
