"""The contract of GET /status, /channels and /openapi.json."""

import pytest

from sse_broadcast.server import channels
from sse_broadcast.server.contract.inspect import PATHS
from tests.conftest import Connect, Serve


def test_the_parameters_are_those_that_are_heard() -> None:
    """Of a page; the others take none."""
    told = {name: [each.name for each in path.get.parameters] for name, path in PATHS.items() if path.get}
    assert sorted(told.pop("/channels")) == sorted(channels.PARAMETERS)
    assert set(map(tuple, told.values())) == {()}


@pytest.mark.parametrize(("limit", "status"), [(0, 400), (1, 200), (channels.MAX_PAGE, 200), (1001, 400)])
async def test_a_limit_is_described_as_it_is_taken(
    serve: Serve, connect: Connect, limit: int, status: int
) -> None:
    """At both of its ends."""
    client = await connect(await serve())
    get = PATHS["/channels"].get
    assert get is not None
    (said,) = [each.schema for each in get.parameters if each.name == "limit"]
    assert (said["minimum"], said["maximum"]) == (1, 1000)
    assert (await client.ask("GET", f"/channels?limit={limit}"))[0] == status
