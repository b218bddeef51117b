"""Revoked subjects and tokens."""

import pytest

from sse_broadcast.auth.principal import CredentialKind, Principal
from sse_broadcast.auth.revocation import RevocationList
from sse_broadcast.errors import EventError, FullError
from tests.support.clock import Clock
from tests.support.raising import exactly
from tests.support.signing import NOW


def principal(subject: str | None = "ann", id: str | None = None, issued: float | None = None) -> Principal:
    return Principal({}, subject, id, issued)


def test_a_new_list_is_empty() -> None:
    revocations = RevocationList()
    assert not any(
        revocations.refuses(each)
        for each in (principal(), principal(None), principal("", ""), principal(id="a"))
    )


@pytest.mark.parametrize(
    ("issued", "refused"),
    [(None, True), (NOW - 1, True), (NOW, True), (NOW + 0.001, False), (NOW + 60, False)],
    ids=["unknown", "before", "then", "just after", "later"],
)
def test_a_subjects_earlier_tokens_are_refused(issued: float | None, *, refused: bool) -> None:
    """Later ones are accepted. One without a time of issue counts as earlier."""
    revocations = RevocationList(Clock(NOW))
    revocations.revoke("subject", "ann")
    assert revocations.refuses(principal(issued=issued)) is refused
    assert not revocations.refuses(principal("bob", issued=issued))
    assert not revocations.refuses(principal(None, issued=issued))


def test_a_token_is_refused_by_its_id() -> None:
    """Its time of issue and its subject do not matter. Ids and subjects are separate."""
    revocations = RevocationList(Clock(NOW))
    revocations.revoke("id", "t1")
    assert revocations.refuses(principal(id="t1", issued=NOW + 60))
    assert revocations.refuses(principal("bob", id="t1"))
    assert not revocations.refuses(principal(id="t2"))
    assert not revocations.refuses(principal("t1"))
    revocations.revoke("subject", "t2")
    assert not revocations.refuses(principal(id="t2"))


def test_revoking_again_moves_the_time() -> None:
    """Tokens issued since the first time are refused too."""
    clock = Clock(NOW)
    revocations = RevocationList(clock)
    revocations.revoke("subject", "ann")
    clock.now += 10
    assert not revocations.refuses(principal(issued=NOW + 5))
    revocations.revoke("subject", "ann")
    assert revocations.refuses(principal(issued=NOW + 5))
    assert len(revocations) == 1


def test_a_revocation_is_kept_until_its_tokens_have_expired() -> None:
    """Without such a time it is kept for good."""
    clock = Clock(NOW)
    revocations = RevocationList(clock)
    revocations.revoke("id", "t1", until=NOW + 10)
    revocations.revoke("id", "t2")
    clock.now = NOW + 9.9
    assert revocations.refuses(principal(id="t1"))
    clock.now = NOW + 10
    assert not revocations.refuses(principal(id="t1"))
    clock.now = NOW + 1e9
    assert revocations.refuses(principal(id="t2"))


def test_a_revocation_is_never_shortened() -> None:
    """The second caller may know less about the expiry of the tokens."""
    clock = Clock(NOW)
    revocations = RevocationList(clock)
    revocations.revoke("id", "t1", until=NOW + 100)
    revocations.revoke("id", "t1", until=NOW + 10)
    clock.now = NOW + 99
    assert revocations.refuses(principal(id="t1"))


def test_the_number_of_revocations_is_limited() -> None:
    """One more is refused, and none is forgotten. Those in the list may be revoked again."""
    revocations = RevocationList(Clock(NOW), most=2)
    revocations.revoke("id", "t1")
    revocations.revoke("subject", "ann")
    with pytest.raises(FullError, match=exactly("revocations: the limit of 2 is reached")):
        revocations.revoke("id", "t2")
    revocations.revoke("id", "t1")
    assert revocations.refuses(principal(id="t1"))
    assert revocations.refuses(principal("ann"))
    assert not revocations.refuses(principal("bob", id="t2"))


def test_expired_revocations_make_room() -> None:
    clock = Clock(NOW)
    revocations = RevocationList(clock, most=2)
    revocations.revoke("id", "t1", until=NOW + 10)
    revocations.revoke("id", "t2", until=NOW + 20)
    clock.now = NOW + 10
    revocations.revoke("id", "t3")
    assert len(revocations) == 2
    assert [revocations.refuses(principal(id=id)) for id in ("t1", "t2", "t3")] == [False, True, True]


def test_removing_expired_revocations_keeps_the_others() -> None:
    clock = Clock(NOW)
    revocations = RevocationList(clock, most=4)
    for number in range(4):
        revocations.revoke("id", f"t{number}", until=NOW + 10)
    revocations.revoke("id", "t1", until=NOW + 30)
    revocations.revoke("id", "t2")
    assert revocations.seconds_to_room() == 10
    clock.now = NOW + 10
    revocations.revoke("id", "t4", until=NOW + 20)
    refused = [revocations.refuses(principal(id=f"t{number}")) for number in range(5)]
    assert refused == [False, True, True, False, True]
    clock.now = NOW + 1e9
    revocations.revoke("id", "t5")
    assert len(revocations) == 2
    assert revocations.refuses(principal(id="t2"))
    assert revocations.seconds_to_room() is None


class CountingTime(float):
    """A time that counts its comparisons."""

    compared = 0

    def __lt__(self, other: object) -> bool:
        CountingTime.compared += 1
        return float(self) < float(str(other))

    def __gt__(self, other: object) -> bool:
        CountingTime.compared += 1
        return float(self) > float(str(other))

    __le__, __ge__ = __lt__, __gt__


def test_a_full_list_is_not_searched_for_each_refusal() -> None:
    """That would block the loop."""
    revocations = RevocationList(Clock(NOW), most=1000)
    for number in range(1000):
        revocations.revoke("id", f"t{number}", until=CountingTime(NOW + 10))
    CountingTime.compared = 0
    with pytest.raises(FullError):
        revocations.revoke("id", "another")
    assert CountingTime.compared < 10


def test_a_list_that_fills_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once before it is full, and then for each refusal."""
    clock = Clock(NOW)
    revocations = RevocationList(clock, most=5)
    for number in range(5):
        revocations.revoke("id", f"t{number}", until=NOW + 10)
    for name in ("another", "one more"):
        with pytest.raises(FullError):
            revocations.revoke("id", name)
    nearly = "revocations: 4 of at most 5 are held"
    refused = "revocations: refused one more, the limit of 5 is reached"
    assert caplog.messages == [nearly, refused, refused]
    clock.now = NOW + 10
    for number in range(4):
        revocations.revoke("id", f"t{number}")
    assert caplog.messages == [nearly, refused, refused, nearly]


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_an_impossible_subject_or_id_is_not_revoked(name: str) -> None:
    """The empty subject is that of every token without one."""
    revocations = RevocationList()
    kinds: tuple[CredentialKind, ...] = ("subject", "id", "caller")
    for kind in kinds:
        with pytest.raises(EventError) as raised:
            revocations.revoke(kind, name)
        assert str(raised.value) == f"{kind}: must be 1 to 255 characters, not {len(name)}"
    assert len(revocations) == 0
