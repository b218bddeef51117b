"""Keys that tests sign with, and tokens put together by hand, so that every part of one can be wrong."""

import base64
import functools
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NOW = float(int(time.time()))
"""When the tests began, to the second: the time it is for a clock that tests set."""

END = NOW + 3600
"""When a token that is good ends: after the tests."""

SECRET = "a secret of no less than 32 bytes"
OTHER_SECRET = "another secret of at least 32 bytes"

ASYMMETRIC = ("RS256", "ES256", "EdDSA")
ALGORITHMS = (*ASYMMETRIC, "HS256")

CLAIMS = {"sub": "ann", "jti": "t1", "iat": NOW - 60, "exp": END, "grants": {"subscribe": ["orders.*"]}}
"""Of a token that is good."""


def private_key(algorithm: str, which: int = 0) -> Any:
    """Return a private key of an algorithm, for each number another one; of HS256 a secret."""
    return _private_key(algorithm, which)


@functools.cache
def _private_key(algorithm: str, which: int) -> Any:
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65_537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    return (SECRET, OTHER_SECRET)[which].encode()


def pem(key: Any) -> bytes:
    """Return the public half of a private key as PEM."""
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def public_file(folder: Path, algorithm: str, which: int = 0) -> str:
    """Write what verifies an algorithm's tokens into a file, as `jwt_key_file` takes it."""
    key = private_key(algorithm, which)
    file = folder / f"{algorithm}-{which}.key"
    file.write_bytes(key if isinstance(key, bytes) else pem(key))
    return str(file)


def jwk(algorithm: str, which: int = 0, **members: Any) -> dict[str, Any]:
    """Return what verifies an algorithm's tokens as a JWK, with further members."""
    key = private_key(algorithm, which)
    how = jwt.get_algorithm_by_name(algorithm)
    public = key if isinstance(key, bytes) else key.public_key()
    made = {**how.to_jwk(public, as_dict=True), **members}
    return {name: value for name, value in made.items() if name != "key_ops" or name in members}


def jwks(*keys: dict[str, Any]) -> bytes:
    """Return keys as a JWKS."""
    return json.dumps({"keys": keys}).encode()


def part(data: bytes | str) -> str:
    """Return a part of a token: base64url without padding."""
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).decode().rstrip("=")


def token(
    algorithm: str = "RS256",
    claims: dict[str, Any] | str | None = None,
    *,
    key: Any = None,
    header: dict[str, Any] | str | None = None,
) -> str:
    """Sign a token: `claims` in place of those of a good one, `header` over or in place of the usual.

    Text is taken for the very JSON.
    """
    if not isinstance(header, str):
        header = json.dumps({"alg": algorithm, "typ": "JWT", **(header or {})})
    payload = claims if isinstance(claims, str) else json.dumps(CLAIMS if claims is None else claims)
    signed = f"{part(header)}.{part(payload)}"
    how = jwt.get_algorithm_by_name(algorithm)
    key = private_key(algorithm) if key is None else key
    return f"{signed}.{part(how.sign(signed.encode(), key))}"
