"""What OpenAPI operations share, and their problems."""

import msgspec

from sse_broadcast.server.http.problem import STATUSES
from sse_broadcast.server.openapi.model import Operation, Parameter, Response
from sse_broadcast.server.openapi.operations import WHEN, problems, read_operations, responses


def test_every_reference_resolves() -> None:
    named = {ref.to.removeprefix("#/components/responses/") for ref in problems(*WHEN).values()}
    assert named == set(responses())
    assert len(named) == len(WHEN)


def test_every_error_has_a_documented_status() -> None:
    assert {status for _, status in STATUSES} <= set(WHEN)


OPERATION = Operation(
    "find", "Find it", "Here.", tags=["inspect"], responses={"200": Response("It.")}, security=[{}]
)
NAME = Parameter("name", "path", "Whose.", {}, required=True)


def test_options_does_not_check_the_host() -> None:
    narrow = msgspec.structs.replace(NAME, schema={"type": "string", "pattern": "^a$"})
    path = read_operations(OPERATION, narrow)
    assert path.options is not None
    assert [(each.name, each.schema) for each in path.options.parameters] == [("name", {"type": "string"})]
