"""The backend in a file: the contract, and what is its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from sse_broadcast.backends.base import Backend, Deliver
from sse_broadcast.backends.tiered import TieredBackend
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config, Durability
from tests.backends.contract import Case, Clock, Contract, OpenBackend, OpenCase
from tests.backends.sqlite.cases import tiered, waiting_of


@pytest.fixture(params=[Durability.NORMAL, Durability.FULL])
async def open_backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenBackend]:
    """Open a new file each time; with full durability memory has no room for a single event."""
    opened: list[TieredBackend] = []

    async def open_it(config: Config, policies: ChannelPolicies, deliver: Deliver, clock: Clock) -> Backend:
        backend = tiered(
            tmp_path / f"{len(opened)}.db",
            replace(config, durability=request.param),
            policies,
            deliver,
            clock,
            memory=None if request.param is Durability.NORMAL else 0,
        )
        await backend.start()
        opened.append(backend)
        return backend

    yield open_it
    for backend in opened:
        await backend.aclose()


async def settled(case: Case) -> None:
    """Wait until the writing thread has done what it was given."""
    assert isinstance(case.backend, TieredBackend)
    if waiting_of(case.backend):
        await case.backend.remove(-1)


class TestSqlite(Contract):
    """The contract."""

    @pytest.fixture
    def opened(self, open_backend: OpenBackend) -> OpenCase:
        async def open_case(**settings: object) -> Case:
            config = Config(**settings)  # type: ignore[arg-type]
            case = Case(ChannelPolicies(config))
            case.backend = await open_backend(config, case.policies, case.deliver, case.clock)
            case.on_settle = lambda: settled(case)
            return case

        return open_case

    async def test_the_oldest_behind_a_position_is_known_by_its_time(self, opened: OpenCase) -> None:
        """Of what memory has lost it may be an older one of the same channels, and never a newer one."""
        case = await opened(history_size=2)
        began = case.clock.now
        for channels in ("a", "b", "b c", "a"):
            await case.wait(1.0)
            await case.publish(channels)

        def oldest(after: int, *channels: str) -> float | None:
            time = case.backend.oldest(Selector.parse(*channels), after=after)
            return None if time is None else time - began

        assert [(oldest(after, "a") or 0) <= 4.0 for after in range(1, 5)] == [True] * 4
        assert oldest(0, "a") == oldest(0, "a", "c") == oldest(0, "a", "x*") == 1.0
        assert oldest(4, "a") is oldest(4, "a", "c") is oldest(0, "nobody") is None
