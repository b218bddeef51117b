"""Cache of verified tokens, so that a known one is not verified again."""

import tracemalloc
from pathlib import Path
from typing import Any

import jwt
import pytest

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.auth.principal import EVERYTHING, Action, Principal
from sse_broadcast.auth.token_cache import VerifiedTokenCache, size_of
from sse_broadcast.clock import utc
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import CredentialError
from tests.support.clock import Clock
from tests.support.memory import inside
from tests.support.signing import (
    ALGORITHMS,
    CLAIMS,
    END,
    NOW,
    SECRET,
    jwk,
    jwks,
    private_key,
    public_file,
    token,
)

ANN = Principal({}, "ann", expires=END)
BOB = Principal({}, "bob", expires=END)


def test_a_token_is_found_by_its_whole_text() -> None:
    verified = VerifiedTokenCache()
    assert verified.find("a.b.c") is None
    verified.add("a.b.c", ANN)
    verified.add("a.b.d", BOB)
    assert (verified.find("a.b.c"), verified.find("a.b.d"), verified.find("a.b.c=")) == (ANN, BOB, None)


def test_no_token_is_stored() -> None:
    verified, other = VerifiedTokenCache(), VerifiedTokenCache()
    verified.add("a.b.c", ANN)
    other.add("a.b.c", ANN)
    assert "a.b.c" not in inside(verified, str)
    digests = {*inside(verified, bytes)}
    assert digests
    assert digests.isdisjoint([b"a.b.c", *inside(other, bytes)])


def test_the_cache_is_limited_in_bytes() -> None:
    """A token may have thousands of channels. One larger than the cache is not cached."""
    wide = Principal({Action.SUBSCRIBE: tuple(f"{number:04}" for number in range(1500))}, "ann")
    verified = VerifiedTokenCache(most_bytes=3 * size_of(wide))
    for name in "abcd":
        verified.add(name, wide)
        verified.add(name, wide)
    assert [verified.find(name) for name in "abcd"] == [None, wide, wide, wide]
    verified.forget()
    for name in "abcd":
        verified.add(name, wide)
    assert len(verified) == 3
    small = VerifiedTokenCache(most_bytes=size_of(wide) - 1)
    small.add("a", wide)
    assert small.find("a") is None


@pytest.mark.parametrize("star", ["", ".*"])
def test_the_estimated_size_of_a_token_is_close(star: str) -> None:
    """It is within a fifth and never too low, or the limit would not hold. Compiled patterns count."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        wide = [
            Principal(
                {Action.SUBSCRIBE: tuple(f"{each:03}{star}.{number:04}" for number in range(500))}, "ann"
            )
            for each in range(10)
        ]
        assert not any(principal.allows(Action.SUBSCRIBE, "x") for principal in wide)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= sum(map(size_of, wide)) <= 1.3 * taken


def test_the_cache_is_limited_in_number() -> None:
    """The least recently used token is dropped."""
    verified = VerifiedTokenCache(most=3)
    for name in "abc":
        verified.add(name, ANN)
    verified.find("a")
    verified.add("d", BOB)
    assert len(verified) == 3
    assert [verified.find(name) for name in "abcd"] == [ANN, None, ANN, BOB]
    verified.add("d", BOB)
    assert len(verified) == 3


def test_the_cache_is_cleared_as_a_whole() -> None:
    """With other keys the tokens may be invalid."""
    verified = VerifiedTokenCache()
    verified.add("a", ANN)
    verified.forget()
    assert (len(verified), verified.find("a")) == (0, None)


class Counter:
    """PyJWT's `decode`, counted."""

    def __init__(self) -> None:
        self._decode = jwt.decode
        self.times = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.times += 1
        return self._decode(*arguments, **options)


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    monkeypatch.setattr(jwt, "decode", counter)
    return counter


async def refusal(authenticator: Authenticator, text: str) -> str:
    with pytest.raises(CredentialError) as raised:
        await authenticator.authenticate(text)
    return str(raised.value).removeprefix("token: ")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_cached_token_is_not_verified_again(
    tmp_path: Path, verifications: Counter, algorithm: str
) -> None:
    authenticator = Authenticator(Config(jwt_key_file=public_file(tmp_path, algorithm)))
    first = await authenticator.authenticate(token(algorithm))
    # ES256 signatures are random: signing again makes another token.
    text = token(algorithm)
    seen = await authenticator.authenticate(text)
    times = verifications.times
    assert await authenticator.authenticate(text) is seen
    assert seen == first
    assert verifications.times == times


async def test_a_cached_own_token_is_not_verified_again(verifications: Counter) -> None:
    authenticator = Authenticator(Config(token_secret=SECRET))
    made = authenticator.issue({}, subject="v", lifetime=3600.0, by=Principal(EVERYTHING))
    assert await authenticator.authenticate(made.token) is await authenticator.authenticate(made.token)
    assert verifications.times == 1


async def test_a_cached_token_expires(tmp_path: Path) -> None:
    clock = Clock(NOW)
    authenticator = Authenticator(Config(jwt_key_file=public_file(tmp_path, "EdDSA")), clock=clock)
    await authenticator.authenticate(token("EdDSA"))
    clock.now = END - 0.1
    assert (await authenticator.authenticate(token("EdDSA"))).subject == "ann"
    clock.now = END
    assert await refusal(authenticator, token("EdDSA")) == f"expired at {utc(END)}"


async def test_a_cached_token_may_be_revoked(tmp_path: Path) -> None:
    """The revocation names its subject or its id."""
    authenticator = Authenticator(Config(jwt_key_file=public_file(tmp_path, "EdDSA")), clock=Clock(NOW))
    ann, bob = token("EdDSA"), token("EdDSA", {**CLAIMS, "sub": "bob", "jti": "t2"})
    for text in (ann, bob):
        await authenticator.authenticate(text)
    authenticator.revoke("subject", "ann")
    authenticator.revoke("id", "t2")
    assert await refusal(authenticator, ann) == await refusal(authenticator, bob) == "was revoked"


async def test_a_refused_token_is_not_cached(tmp_path: Path, verifications: Counter) -> None:
    """It may become valid, and bad tokens must not displace good ones."""
    authenticator = Authenticator(Config(jwt_key_file=public_file(tmp_path, "EdDSA")))
    for times in (1, 2, 3):
        found = await refusal(authenticator, token("EdDSA", key=private_key("EdDSA", 1)))
        assert found == "its signature is wrong"
        assert verifications.times == times
    no_grants = token("EdDSA", {**CLAIMS, "grants": 5})
    assert await refusal(authenticator, no_grants) == await refusal(authenticator, no_grants)
    assert verifications.times == 5


async def test_a_token_is_dropped_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "jwks"
    file.write_bytes(jwks(jwk("EdDSA", kid="a")))
    authenticator = Authenticator(Config(jwt_jwks=str(file)))
    await authenticator.authenticate(token("EdDSA", header={"kid": "a"}))
    file.write_bytes(jwks(jwk("EdDSA", 1, kid="b")))
    other = token("EdDSA", key=private_key("EdDSA", 1), header={"kid": "b"})
    assert (await authenticator.authenticate(other)).subject == "ann"
    found = await refusal(authenticator, token("EdDSA", header={"kid": "a"}))
    assert found == "is signed with an unknown key"
    await authenticator.close()


async def test_unchanged_keys_keep_the_cache(tmp_path: Path, verifications: Counter) -> None:
    file = tmp_path / "jwks"
    file.write_bytes(jwks(*(jwk(algorithm, kid=algorithm) for algorithm in ALGORITHMS)))
    authenticator = Authenticator(Config(jwt_jwks=str(file)))
    text = token("EdDSA", header={"kid": "EdDSA"})
    await authenticator.authenticate(text)
    stranger = token("EdDSA", header={"kid": "another"})
    assert await refusal(authenticator, stranger) == "is signed with an unknown key"
    await authenticator.authenticate(text)
    assert verifications.times == 1
    await authenticator.close()
