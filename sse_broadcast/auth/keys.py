"""Keys that verify tokens. Each key has one algorithm; a token never chooses it."""

import base64
import binascii
import contextlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from sse_broadcast.auth.secret_sources import read_secret_text
from sse_broadcast.errors import ConfigError, ExtraError
from sse_broadcast.json_depth import TOO_DEEP, is_too_deep

MIN_SECRET = 32
"""Minimum bytes of an HS256 secret (RFC 7518, 3.2)."""

MIN_RSA = 2048
"""Minimum bits of an RSA key (RFC 7518, 3.3)."""

MOST_KEYS = 100
"""Maximum keys of a JWKS. A token without a key id is tried with each of them."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its algorithm, and the id (`kid`) that tokens may name it by."""

    algorithm: str
    kid: str | None
    material: Any = field(repr=False)


class _Jwks(msgspec.Struct, frozen=True):
    keys: Annotated[list[Any], msgspec.Meta(max_length=MOST_KEYS)]


class _Use(msgspec.Struct, frozen=True):
    """The members of a JWK that restrict its use (RFC 7517, 4)."""

    kty: str
    use: Literal["sig"] = "sig"
    alg: Literal["HS256", "RS256", "ES256", "EdDSA"] | None = None
    kid: str | None = None
    key_ops: tuple[str, ...] = ("verify",)


def require_extra() -> None:
    """Raise `ExtraError` if the extra `jwt` is not installed."""
    try:
        import cryptography  # noqa: F401, PLC0415
        import jwt  # noqa: F401, PLC0415
    except ModuleNotFoundError:
        raise ExtraError("signed tokens need PyJWT and cryptography: pip install 'PyJWT[crypto]'") from None


def secret_key(text: bytes, *, setting: str, kid: str | None = None) -> Key:
    """Return the key for an HS256 secret. Raises `ConfigError` for a short one or a key of another kind."""
    if len(text) < MIN_SECRET:
        raise ConfigError(f"{setting}: must have at least {MIN_SECRET} bytes, not {len(text)}")
    if _is_public_key(text):
        raise ConfigError(f"{setting}: is a public or private key, not an HS256 secret")
    return Key("HS256", kid, text)


def key_of_file(path: str, *, setting: str) -> Key:
    """Return the key in a file: a public key as PEM, or an HS256 secret. Raises `ConfigError`."""
    text = read_secret_text(path, setting=setting)
    if "-----BEGIN " in text:
        return _key_of_pem(text, where=f"{setting}: {path!r}")
    return secret_key(text.encode(), setting=f"{setting}: {path!r}")


def keys_of_jwks(data: bytes, *, secrets: bool) -> tuple[Key, ...]:
    """Return the usable keys of a JWKS (RFC 7517). `secrets` allows HS256 keys too.

    Keys of other kinds or for other uses are skipped. Raises `ValueError`, also if no key is left.
    """
    if is_too_deep(data):
        raise ValueError(TOO_DEEP)
    listed = msgspec.json.decode(data, type=_Jwks).keys
    keys = [key for each in listed if (key := _key_of_jwk(each, secrets=secrets)) is not None]
    if not keys:
        raise ValueError("has no key that can verify tokens (RS256, ES256, EdDSA)")
    return tuple(keys)


def _key_of_pem(text: str, *, where: str) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    if text.count("-----BEGIN ") > 1 or "-----BEGIN PUBLIC KEY-----" not in text:
        raise ConfigError(f"{where}: must hold one public key, as PEM (-----BEGIN PUBLIC KEY-----)")
    try:
        material = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{where}: the public key cannot be read") from None
    algorithm = _algorithm_of(material)
    if algorithm is None:
        raise ConfigError(f"{where}: must be RSA of {MIN_RSA} bits or more, EC of P-256 or Ed25519")
    return Key(algorithm, None, material)


def _key_of_jwk(jwk: object, *, secrets: bool) -> Key | None:
    """Return the key of a JWK, or None if it cannot verify tokens."""
    if not isinstance(jwk, dict):
        return None
    try:
        use = msgspec.convert(jwk, _Use)
    except ValueError:
        return None
    if "verify" not in use.key_ops or (use.kty == "oct" and not secrets):
        return None
    import jwt  # noqa: PLC0415

    try:
        made = jwt.PyJWK(jwk)
    except (jwt.PyJWTError, KeyError):  # PyJWT raises either for a missing member
        return None
    # Private keys, short RSA keys and other curves have no algorithm here.
    own = _algorithm_of(made.key)
    return Key(own, use.kid, made.key) if own == made.algorithm_name else None


def _is_public_key(text: bytes) -> bool:
    """Return whether a secret is in fact a key in PEM, OpenSSH or DER form, perhaps in base64."""
    import jwt  # noqa: PLC0415

    # Issuers show public keys without the PEM lines too. An HS256 key that is public lets anyone sign.
    forms = [text]
    with contextlib.suppress(binascii.Error):
        forms.append(base64.b64decode(b"".join(text.split()), validate=True))
    try:
        for form in forms:
            jwt.get_algorithm_by_name("HS256").prepare_key(form)
    except jwt.InvalidKeyError:
        return True
    return False


def _algorithm_of(material: object) -> str | None:
    """Return the algorithm for a secret or a public key, or None if it cannot verify tokens."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    match material:
        case bytes() if len(material) >= MIN_SECRET:
            return "HS256"
        case rsa.RSAPublicKey() if material.key_size >= MIN_RSA:
            return "RS256"
        case ec.EllipticCurvePublicKey() if isinstance(material.curve, ec.SECP256R1):
            return "ES256"
        case ed25519.Ed25519PublicKey():
            return "EdDSA"
    return None
