"""Reserve: connections beyond the limit, shared by address."""

import asyncio
from dataclasses import dataclass, field

import pytest

from sse_broadcast.server.transport import reserve
from sse_broadcast.server.transport.reserve import MAX_REJECTING, MAX_REJECTING_PER_ADDRESS, Reserve
from tests.conftest import Patch
from tests.support.sockets import until


@dataclass(eq=False)
class Waiting:
    """A connection in the reserve, before its head or after its response."""

    key: str | None
    within: "ReserveRecorder"
    answered: bool = False

    def cut(self) -> None:
        self.within.cut.append(self)
        self.within.reserve.remove(self)


@dataclass
class ReserveRecorder:
    """A reserve that records which connections were closed and which addresses reached their share."""

    cut: list[Waiting] = field(default_factory=list)
    reached: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reserve = Reserve(lambda pending: self.reached.append(pending.key))

    def add(self, key: str | None, count: int = 1, *, answered: bool = False) -> list[Waiting]:
        added = [Waiting(key, self, answered) for _ in range(count)]
        for each in added:
            self.reserve.add(each)
        return added


@pytest.fixture
def held() -> ReserveRecorder:
    return ReserveRecorder()


def test_an_address_has_a_share_of_the_reserve(held: ReserveRecorder) -> None:
    """For a connection beyond it the address's own first one is closed."""
    other = held.add("other")
    mine = held.add("mine", MAX_REJECTING_PER_ADDRESS)
    assert held.cut == []
    held.add("mine", 2)
    assert held.cut == mine[:2]
    assert held.reached == ["mine", "mine"]
    assert len(held.reserve) == MAX_REJECTING_PER_ADDRESS + len(other)


def test_a_full_reserve_closes_connections_of_the_largest_address(held: ReserveRecorder) -> None:
    """A flood from several addresses closes its own. An earlier admin stays."""
    operator = held.add("operator")
    strangers = held.add(None, MAX_REJECTING - 1)
    held.add("another", MAX_REJECTING_PER_ADDRESS)
    assert held.cut == strangers[:MAX_REJECTING_PER_ADDRESS]
    assert held.reached == []
    assert operator[0] not in held.cut


def test_answered_connections_are_closed_first(held: ReserveRecorder) -> None:
    held.add(None, MAX_REJECTING - 1)
    answered = held.add("a", answered=True)
    held.add("b")
    assert held.cut == answered


def test_closing_the_reserve_closes_all_connections(held: ReserveRecorder) -> None:
    pending = held.add("a", 3)
    held.reserve.close()
    assert held.cut == pending
    assert len(held.reserve) == 0


async def test_handshakes_take_turns(held: ReserveRecorder, monkeypatch: Patch) -> None:
    """One begins at once, the next at its time: the first of the address with the fewest."""
    monkeypatch.setattr(reserve, "HANDSHAKE_INTERVAL", 0.01)
    begun: list[Waiting] = []
    crowd, operator = held.add("crowd", 4), held.add("operator")
    for each in (*crowd, *operator):
        held.reserve.queue_handshake(each, lambda each=each: begun.append(each))  # type: ignore[misc]
    assert begun == crowd[:1]
    held.reserve.remove(crowd[1])
    await until(lambda: len(begun) == 4)
    assert begun == [crowd[0], operator[0], *crowd[2:]]
    await asyncio.sleep(0.02)  # longer than the reserve's own timer, which was set before
    held.reserve.queue_handshake(crowd[1], lambda: begun.append(crowd[1]))
    assert begun[-1] is crowd[1]
    held.reserve.close()
