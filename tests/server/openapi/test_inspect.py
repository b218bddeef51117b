"""The OpenAPI operations GET /status, /channels, /subscribers and /openapi.json."""

import json
from urllib.parse import urlencode

import pytest

from sse_broadcast.server.endpoints import channels, subscribers
from sse_broadcast.server.http import query
from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.inspect import INSPECT_PATHS
from sse_broadcast.server.openapi.security import SecuritySchemes
from sse_broadcast.server.streams.registry import SortKey
from tests.support.contract import operations
from tests.support.sockets import RawClient

OPERATIONS = {each.said["operationId"]: each for each in operations(json.loads(document(SecuritySchemes())))}


def test_the_parameters_are_those_of_the_parser() -> None:
    documented = {
        name: [each.name for each in path.get.parameters] for name, path in INSPECT_PATHS.items() if path.get
    }
    assert sorted(documented.pop("/channels")) == sorted(channels.CHANNELS_PARAMETERS)
    assert sorted(documented.pop("/subscribers")) == sorted(subscribers.SUBSCRIBERS_PARAMETERS)
    assert set(map(tuple, documented.values())) == {()}


@pytest.mark.parametrize("path", ["/channels", "/subscribers"])
@pytest.mark.parametrize(("limit", "status"), [(0, 400), (1, 200), (query.MAX_PAGE_SIZE, 200), (1001, 400)])
async def test_the_schema_of_limit_accepts_what_the_server_accepts(
    client: RawClient, path: str, limit: int, status: int
) -> None:
    get = INSPECT_PATHS[path].get
    assert get is not None
    (said,) = [each.schema for each in get.parameters if each.name == "limit"]
    assert (said["minimum"], said["maximum"]) == (1, 1000)
    assert (await client.ask("GET", f"{path}?limit={limit}"))[0] == status


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("sort", order) for order in (*SortKey, "slow", "", "Lag")),
        *(("after", id) for id in ("0", "1", "9" * 19, "9" * 20, "", "-1", "x", "1.0")),
        *(("channel", channel) for channel in ("news", "a b", "", ".", "x" * 129, "a*")),
    ],
)
async def test_the_schema_of_sort_accepts_what_the_server_accepts(
    client: RawClient, name: str, value: str
) -> None:
    status, _ = await client.ask("GET", f"/subscribers?{urlencode({name: value})}")
    asked = OPERATIONS["subscribers"].describes(f"http://x/subscribers?{urlencode({name: value})}", {}, None)
    assert (status == 200) == asked
