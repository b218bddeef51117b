"""Keys that verify signed tokens."""

import json
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.auth.keys import Key, key_of_file, keys_of_jwks, require_extra, secret_key
from sse_broadcast.errors import ConfigError, ExtraError
from tests.support.raising import exactly
from tests.support.signing import (
    ALGORITHMS,
    ASYMMETRIC,
    SECRET,
    jwk,
    jwks,
    pem,
    private_key,
    public_file,
    token,
)


def knows(key: Key, text: str) -> bool:
    try:
        jwt.decode(text, key.material, algorithms=[key.algorithm])
    except jwt.InvalidSignatureError:
        return False
    return True


def refusal(folder: Path, data: bytes) -> str:
    """Return the error of a file without a usable key."""
    file = folder / "key"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        key_of_file(str(file), setting="jwt_key_file")
    return str(raised.value).removeprefix("jwt_key_file: ").removeprefix(f"'{file}': ")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_file_has_a_key_of_one_algorithm(tmp_path: Path, algorithm: str) -> None:
    key = key_of_file(public_file(tmp_path, algorithm), setting="jwt_key_file")
    assert (key.algorithm, key.kid) == (algorithm, None)
    assert knows(key, token(algorithm))
    assert not knows(key, token(algorithm, key=private_key(algorithm, 1)))


def test_a_key_is_not_in_the_representation(tmp_path: Path) -> None:
    assert (
        repr(key_of_file(public_file(tmp_path, "HS256"), setting="x")) == "Key(algorithm='HS256', kid=None)"
    )


def private_pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


ONE_KEY = "must hold one public key, as PEM (-----BEGIN PUBLIC KEY-----)"
OTHER_KIND = "must be RSA of 2048 bits or more, EC of P-256 or Ed25519"


def test_a_file_with_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    """It has a private key, a short one or one of another curve."""
    assert refusal(tmp_path, private_pem(private_key("RS256"))) == ONE_KEY
    assert refusal(tmp_path, pem(private_key("RS256")) * 2) == ONE_KEY
    assert refusal(tmp_path, b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n") == ONE_KEY
    broken = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    assert refusal(tmp_path, broken) == "the public key cannot be read"
    assert refusal(tmp_path, pem(rsa.generate_private_key(65_537, 1024))) == OTHER_KIND
    assert refusal(tmp_path, pem(ec.generate_private_key(ec.SECP384R1()))) == OTHER_KIND
    assert refusal(tmp_path, pem(ec.generate_private_key(ec.SECP256K1()))) == OTHER_KIND
    assert refusal(tmp_path, pem(ed448.Ed448PrivateKey.generate())) == OTHER_KIND
    assert refusal(tmp_path, pem(x25519.X25519PrivateKey.generate())) == OTHER_KIND


@pytest.mark.parametrize("before", [b"", b"\n", b"a comment\n", b"\xef\xbb\xbf"])
def test_a_public_key_is_never_used_as_a_secret(tmp_path: Path, before: bytes) -> None:
    """Text may precede it. Everyone who knows it could sign with it."""
    file = tmp_path / "key"
    file.write_bytes(before + pem(private_key("RS256")))
    try:
        key = key_of_file(str(file), setting="jwt_key_file")
    except ConfigError:
        return
    assert key.algorithm == "RS256"


NO_SECRET = "is a public or private key, not an HS256 secret"


def test_other_encodings_of_a_key_are_never_used_as_a_secret(tmp_path: Path) -> None:
    public = private_key("RS256").public_key()
    assert refusal(tmp_path, public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)) == NO_SECRET
    assert refusal(tmp_path, json.dumps(jwk("RS256")).encode()) == NO_SECRET
    assert refusal(tmp_path, jwks(jwk("RS256"))) == NO_SECRET
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert "is not UTF-8 at byte 1" in refusal(tmp_path, der)
    inside = b"".join(pem(private_key("RS256")).split(b"\n")[1:-2])
    assert refusal(tmp_path, inside) == refusal(tmp_path, inside[:64] + b"\n" + inside[64:]) == NO_SECRET


def test_a_secret_has_at_least_32_bytes(tmp_path: Path) -> None:
    """RFC 7518, 3.2. The line end of its file does not count."""
    assert refusal(tmp_path, b"x" * 31) == "must have at least 32 bytes, not 31"
    assert refusal(tmp_path, b"x" * 31 + b"\n") == "must have at least 32 bytes, not 31"
    assert refusal(tmp_path, b"") == "must have at least 32 bytes, not 0"
    assert secret_key(SECRET.encode(), setting="token_secret", kid="a").kid == "a"
    assert secret_key(b"c2VjcmV0" * 4, setting="token_secret").kid is None
    with pytest.raises(ConfigError, match=exactly("token_secret: must have at least 32 bytes, not 31")):
        secret_key(b"x" * 31, setting="token_secret")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_jwks_has_keys_by_id(algorithm: str) -> None:
    data = jwks(
        jwk(algorithm, kid="a"),
        jwk(algorithm, 1, kid="b", alg=algorithm, use="sig", key_ops=["verify"]),
        jwk(algorithm, 1),
    )
    keys = keys_of_jwks(data, secrets=True)
    assert [(key.algorithm, key.kid) for key in keys] == [
        (algorithm, "a"),
        (algorithm, "b"),
        (algorithm, None),
    ]
    text = token(algorithm, key=private_key(algorithm, 1))
    assert [knows(key, text) for key in keys] == [False, True, True]


GOOD = jwk("ES256", kid="good")


UNUSABLE: dict[str, Any] = {
    "another algorithm": jwk("RS256", alg="RS512"),
    "a secret's algorithm": jwk("RS256", alg="HS256"),
    "no algorithm": jwk("RS256", alg="none"),
    "an algorithm of no text": jwk("RS256", alg=5),
    "for encryption": jwk("RS256", use="enc"),
    "for other operations": jwk("RS256", key_ops=["encrypt"]),
    "operations that are no list": jwk("RS256", key_ops=5),
    "an id of no text": jwk("RS256", kid=5),
    "RSA said to be a secret": jwk("RS256", kty="oct"),
    "RSA said to be EC": jwk("RS256", kty="EC"),
    "a kind of no text": jwk("RS256", kty=["RSA"]),
    "a modulus of no base64": jwk("RS256", n="!"),
    "an empty modulus": jwk("RS256", n=""),
    "a modulus of no text": jwk("RS256", n=5),
    "an exponent of 0": jwk("RS256", e="AA"),
    "an exponent of 1": jwk("RS256", e="AQ"),
    "another curve": jwk("ES256", crv="P-384"),
    "a curve of coins": jwk("ES256", crv="secp256k1"),
    "a curve of no text": jwk("ES256", crv=["P-256"]),
    "a short coordinate": jwk("ES256", x="AAAA"),
    "a point off its curve": jwk("ES256", y=jwk("ES256", 1)["y"]),
    "an exchange's curve": jwk("EdDSA", crv="X25519"),
    "a longer curve": jwk("EdDSA", crv="Ed448"),
    "a short point": jwk("EdDSA", x="AAAA"),
    "a short secret": {"kty": "oct", "k": "c2hvcnQ"},
    "no secret": {"kty": "oct"},
    "an unknown kind": {"kty": "dir"},
    "nothing": {},
    "a list": [],
    "text": "key",
    "null": None,
}


@pytest.mark.parametrize("other", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_keys_are_left_out(other: Any) -> None:
    """They are of other kinds, for other uses, or malformed (RFC 7517, 5)."""
    assert [key.kid for key in keys_of_jwks(jwks(other, GOOD), secrets=True)] == ["good"]


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text("AQab0-_=!\ud800\xe9", max_size=44)
    | st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "P-384", "Ed25519", "Ed448", *ALGORITHMS, "none"])
    | st.lists(st.text(max_size=3), max_size=2)
)
MEMBERS = st.sampled_from(
    ["kty", "crv", "alg", "use", "key_ops", "kid", "n", "e", "x", "y", "k", "d", "p", "oth"]
)


@pytest.mark.parametrize("secrets", [False, True])
@settings(deadline=None)
@given(algorithm=st.sampled_from(ALGORITHMS), members=st.dictionaries(MEMBERS, VALUES, max_size=4))
def test_other_entries_do_not_affect_a_good_key(
    algorithm: str, members: dict[str, Any], *, secrets: bool
) -> None:
    try:
        keys = keys_of_jwks(jwks(jwk(algorithm, **members), GOOD), secrets=secrets)
    except ValueError:  # half a surrogate pair is not valid JSON
        assert "\\ud800" in json.dumps(members)
    else:
        assert keys[-1].kid == "good"


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_private_key_in_a_jwks_is_left_out(algorithm: str) -> None:
    """It was published by mistake, so everyone has it."""
    private = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(algorithm), as_dict=True)
    private.pop("key_ops", None)
    assert "d" in private
    assert [key.kid for key in keys_of_jwks(jwks(private, GOOD), secrets=True)] == ["good"]


def test_short_rsa_keys_of_a_jwks_are_left_out() -> None:
    short = rsa.generate_private_key(65_537, 1024).public_key()
    made = jwt.get_algorithm_by_name("RS256").to_jwk(short, as_dict=True)
    made.pop("key_ops", None)
    assert [key.kid for key in keys_of_jwks(jwks(made, GOOD), secrets=False)] == ["good"]


def test_symmetric_keys_of_a_public_jwks_are_left_out() -> None:
    data = jwks(jwk("HS256", kid="secret"), GOOD)
    assert [key.kid for key in keys_of_jwks(data, secrets=False)] == ["good"]
    assert [key.kid for key in keys_of_jwks(data, secrets=True)] == ["secret", "good"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"<html>", "JSON is malformed: invalid character (byte 0)"),
        (b"{}", "Object missing required field `keys`"),
        (b'{"keys": {}}', "Expected `array`, got `object` - at `$.keys`"),
        (b'{"keys": ' + b"[" * 100_000, "is nested more than 64 deep"),
        (b'{"keys": [%s]}' % (b"[" * 63 + b"]" * 63), "is nested more than 64 deep"),
        (b'{"keys": []}', "has no key that can verify tokens (RS256, ES256, EdDSA)"),
        (jwks(jwk("HS256")), "has no key that can verify tokens (RS256, ES256, EdDSA)"),
        (jwks(*[jwk("EdDSA")] * 101), "Expected `array` of length <= 100 - at `$.keys`"),
    ],
    ids=lambda value: str(value[:16]),
)
def test_a_jwks_without_a_usable_key_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=exactly(problem)):
        keys_of_jwks(data, secrets=False)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra()
    for module in ("jwt", "cryptography"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ExtraError) as raised:
                require_extra()
        assert str(raised.value) == "signed tokens need PyJWT and cryptography: pip install 'PyJWT[crypto]'"
