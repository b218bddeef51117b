"""Signed tokens that were good, so that one that comes back is not verified again."""

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


def test_a_token_is_found_by_itself_alone() -> None:
    verified = VerifiedTokenCache()
    assert verified.find("a.b.c") is None
    verified.add("a.b.c", ANN)
    verified.add("a.b.d", BOB)
    assert (verified.find("a.b.c"), verified.find("a.b.d"), verified.find("a.b.c=")) == (ANN, BOB, None)


def test_no_token_is_kept() -> None:
    verified, other = VerifiedTokenCache(), VerifiedTokenCache()
    verified.add("a.b.c", ANN)
    other.add("a.b.c", ANN)
    assert "a.b.c" not in inside(verified, str)
    digests = {*inside(verified, bytes)}
    assert digests
    assert digests.isdisjoint([b"a.b.c", *inside(other, bytes)])


def test_what_they_take_is_bounded_too() -> None:
    """A token may name thousands of channels. One that is larger than all may be is not remembered."""
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
def test_a_size_is_what_a_token_takes(star: str) -> None:
    """Within a fifth, and never less, or the bound would be none; with what matches its patterns."""
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


def test_as_many_are_remembered_as_may_be() -> None:
    """Of one more, that which was not seen for longest is forgotten."""
    verified = VerifiedTokenCache(most=3)
    for name in "abc":
        verified.add(name, ANN)
    verified.find("a")
    verified.add("d", BOB)
    assert len(verified) == 3
    assert [verified.find(name) for name in "abcd"] == [ANN, None, ANN, BOB]
    verified.add("d", BOB)
    assert len(verified) == 3


def test_all_are_forgotten_at_once() -> None:
    """Under other keys they may be no one's."""
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
async def test_a_token_that_comes_back_is_not_verified_again(
    tmp_path: Path, verifications: Counter, algorithm: str
) -> None:
    authenticator = Authenticator(Config(jwt_key_file=public_file(tmp_path, algorithm)))
    first = await authenticator.authenticate(token(algorithm))
    # ES256 has chance in it: signed anew, it is another token.
    text = token(algorithm)
    seen = await authenticator.authenticate(text)
    times = verifications.times
    assert await authenticator.authenticate(text) is seen
    assert seen == first
    assert verifications.times == times


async def test_an_own_token_that_comes_back_is_not_verified_again(verifications: Counter) -> None:
    authenticator = Authenticator(Config(token_secret=SECRET))
    made = authenticator.issue({}, subject="v", lifetime=3600.0, by=Principal(EVERYTHING))
    assert await authenticator.authenticate(made.token) is await authenticator.authenticate(made.token)
    assert verifications.times == 1


async def test_a_token_that_comes_back_ends_when_it_says(tmp_path: Path) -> None:
    clock = Clock(NOW)
    authenticator = Authenticator(Config(jwt_key_file=public_file(tmp_path, "EdDSA")), clock=clock)
    await authenticator.authenticate(token("EdDSA"))
    clock.now = END - 0.1
    assert (await authenticator.authenticate(token("EdDSA"))).subject == "ann"
    clock.now = END
    assert await refusal(authenticator, token("EdDSA")) == f"expired at {utc(END)}"


async def test_a_token_that_comes_back_may_be_revoked(tmp_path: Path) -> None:
    """By its subject, or by its id."""
    authenticator = Authenticator(Config(jwt_key_file=public_file(tmp_path, "EdDSA")), clock=Clock(NOW))
    ann, bob = token("EdDSA"), token("EdDSA", {**CLAIMS, "sub": "bob", "jti": "t2"})
    for text in (ann, bob):
        await authenticator.authenticate(text)
    authenticator.revoke("subject", "ann")
    authenticator.revoke("id", "t2")
    assert await refusal(authenticator, ann) == await refusal(authenticator, bob) == "was revoked"


async def test_a_token_that_was_refused_is_verified_again(tmp_path: Path, verifications: Counter) -> None:
    """It may be good by then; and nobody fills the room of those that were good."""
    authenticator = Authenticator(Config(jwt_key_file=public_file(tmp_path, "EdDSA")))
    for times in (1, 2, 3):
        found = await refusal(authenticator, token("EdDSA", key=private_key("EdDSA", 1)))
        assert found == "its signature is wrong"
        assert verifications.times == times
    no_grants = token("EdDSA", {**CLAIMS, "grants": 5})
    assert await refusal(authenticator, no_grants) == await refusal(authenticator, no_grants)
    assert verifications.times == 5


async def test_a_token_does_not_outlast_its_key(tmp_path: Path) -> None:
    """A key that was taken away is not what anything was verified with."""
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


async def test_keys_that_stay_the_same_leave_what_was_verified(
    tmp_path: Path, verifications: Counter
) -> None:
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
