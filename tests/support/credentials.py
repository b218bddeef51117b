"""Credentials of every kind, good and bad, for a server that takes all of them."""

import base64
import json
import time
from pathlib import Path
from typing import Any

from sse_broadcast.config.schema import CallerRule
from tests.support.signing import ALGORITHMS, jwk, jwks, part, pem, private_key, token

ISSUER = "https://issuer.example"
AUDIENCE = "sse.example"

STATIC = "a-static-token.0123456789"
"""A static token whose bearer may do everything."""

OWN_SECRET = "the secret that the server signs its own tokens with"
OWN = "sse-broadcast"
"""Who the server is as an issuer, and what it calls its key."""

GRANTS = {"subscribe": ["a"], "publish": ["a"], "inspect": ["*"], "admin": ["*"]}
"""All that anything here asks for."""


def caller(name: str, **grants: Any) -> CallerRule:
    """Return a caller whose token is `static(name)`."""
    return CallerRule(name=name, token=static(name), **grants)


def static(name: str) -> str:
    """Return the static token of a caller."""
    return f"{name}-token-0123456789"


def write_jwks(folder: Path) -> str:
    """Write the JWKS of an issuer that signs in all four ways, and give the file's name."""
    file = folder / "jwks.json"
    file.write_bytes(jwks(*(jwk(algorithm, kid=algorithm) for algorithm in ALGORITHMS)))
    return str(file)


def claims(**others: Any) -> dict[str, Any]:
    """Return the claims of a good token, with others in the place of some; None leaves one out."""
    now = time.time()
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "iat": now - 60,
        "exp": now + 3600,
        "grants": GRANTS,
    }
    return {name: value for name, value in {**good, **others}.items() if value is not None}


def signed(
    algorithm: str = "RS256", *, key: Any = None, header: dict[str, Any] | None = None, **others: Any
) -> str:
    """Return a token of the issuer, good unless something else is said."""
    return token(algorithm, claims(**others), key=key, header={"kid": algorithm, **(header or {})})


def own(*, secret: str = OWN_SECRET, **others: Any) -> str:
    """Return a token as the server makes them, by whoever knows its secret."""
    said = {"iss": OWN, "aud": None, "sub": "visitor", **others}
    return token("HS256", claims(**said), key=secret.encode(), header={"kid": OWN})


def unsigned() -> str:
    """Return a token that says of itself that it needs no signature."""
    header = json.dumps({"alg": "none", "typ": "JWT", "kid": "RS256"})
    return f"{part(header)}.{part(json.dumps(claims()))}."


def confused() -> str:
    """Return a token that takes the public key, which everyone has, for a secret (RFC 8725, 2.1)."""
    return signed("HS256", key=pem(private_key("RS256")), header={"kid": "RS256"})


def altered(text: str, **others: Any) -> str:
    """Return a token with other claims, and the signature of those it had."""
    head, payload, signature = text.split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return f"{head}.{part(json.dumps({**said, **others}))}.{signature}"
