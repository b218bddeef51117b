"""Subjects and tokens that are refused though nothing else is wrong with them."""

import pytest

from sse_broadcast.auth.principal import CredentialKind, Principal
from sse_broadcast.auth.revocation import RevocationList
from sse_broadcast.errors import EventError, FullError
from tests.support.clock import Clock
from tests.support.raising import exactly
from tests.support.signing import NOW


def principal(subject: str | None = "ann", id: str | None = None, issued: float | None = None) -> Principal:
    return Principal({}, subject, id, issued)


def test_nobody_is_revoked_at_first() -> None:
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
def test_a_subject_is_refused_what_was_issued_by_then(issued: float | None, *, refused: bool) -> None:
    """A token made afterwards is good; one that does not say when it was made counts as old."""
    revocations = RevocationList(Clock(NOW))
    revocations.revoke("subject", "ann")
    assert revocations.refuses(principal(issued=issued)) is refused
    assert not revocations.refuses(principal("bob", issued=issued))
    assert not revocations.refuses(principal(None, issued=issued))


def test_a_token_is_refused_by_its_id_alone() -> None:
    """Whenever it was made and whosever it is; an id is no subject, and a subject no id."""
    revocations = RevocationList(Clock(NOW))
    revocations.revoke("id", "t1")
    assert revocations.refuses(principal(id="t1", issued=NOW + 60))
    assert revocations.refuses(principal("bob", id="t1"))
    assert not revocations.refuses(principal(id="t2"))
    assert not revocations.refuses(principal("t1"))
    revocations.revoke("subject", "t2")
    assert not revocations.refuses(principal(id="t2"))


def test_what_is_revoked_again_is_revoked_from_then() -> None:
    """A subject that got new tokens since loses them too."""
    clock = Clock(NOW)
    revocations = RevocationList(clock)
    revocations.revoke("subject", "ann")
    clock.now += 10
    assert not revocations.refuses(principal(issued=NOW + 5))
    revocations.revoke("subject", "ann")
    assert revocations.refuses(principal(issued=NOW + 5))
    assert len(revocations) == 1


def test_a_revocation_is_remembered_until_it_need_not_be() -> None:
    """When the tokens it is about have ended by themselves; without such a time, for good."""
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


def test_a_revocation_is_never_made_shorter() -> None:
    """Who revokes again knows less of when the tokens end, not more."""
    clock = Clock(NOW)
    revocations = RevocationList(clock)
    revocations.revoke("id", "t1", until=NOW + 100)
    revocations.revoke("id", "t1", until=NOW + 10)
    clock.now = NOW + 99
    assert revocations.refuses(principal(id="t1"))


def test_as_many_are_held_as_may_be() -> None:
    """One more is refused and said, rather than another forgotten; what is held may be revoked again."""
    revocations = RevocationList(Clock(NOW), most=2)
    revocations.revoke("id", "t1")
    revocations.revoke("subject", "ann")
    with pytest.raises(FullError, match=exactly("revocations: the limit of 2 is reached")):
        revocations.revoke("id", "t2")
    revocations.revoke("id", "t1")
    assert revocations.refuses(principal(id="t1"))
    assert revocations.refuses(principal("ann"))
    assert not revocations.refuses(principal("bob", id="t2"))


def test_what_need_not_be_remembered_makes_room() -> None:
    clock = Clock(NOW)
    revocations = RevocationList(clock, most=2)
    revocations.revoke("id", "t1", until=NOW + 10)
    revocations.revoke("id", "t2", until=NOW + 20)
    clock.now = NOW + 10
    revocations.revoke("id", "t3")
    assert len(revocations) == 2
    assert [revocations.refuses(principal(id=id)) for id in ("t1", "t2", "t3")] == [False, True, True]


def test_nothing_that_is_needed_goes_with_what_is_not() -> None:
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


class Counted(float):
    """A time that counts how often any is compared with another."""

    compared = 0

    def __lt__(self, other: object) -> bool:
        Counted.compared += 1
        return float(self) < float(str(other))

    def __gt__(self, other: object) -> bool:
        Counted.compared += 1
        return float(self) > float(str(other))

    __le__, __ge__ = __lt__, __gt__


def test_a_full_list_is_not_gone_through() -> None:
    """For each that is refused, it would hold the server up."""
    revocations = RevocationList(Clock(NOW), most=1000)
    for number in range(1000):
        revocations.revoke("id", f"t{number}", until=Counted(NOW + 10))
    Counted.compared = 0
    with pytest.raises(FullError):
        revocations.revoke("id", "another")
    assert Counted.compared < 10


def test_a_list_that_fills_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Before it is full, once; and each that is refused."""
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
def test_what_no_token_can_have_is_not_revoked(name: str) -> None:
    """An empty subject is that of every token that names none."""
    revocations = RevocationList()
    kinds: tuple[CredentialKind, ...] = ("subject", "id", "caller")
    for kind in kinds:
        with pytest.raises(EventError) as raised:
            revocations.revoke(kind, name)
        assert str(raised.value) == f"{kind}: must be 1 to 255 characters, not {len(name)}"
    assert len(revocations) == 0
