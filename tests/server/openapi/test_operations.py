"""What operations have in common, and their problems."""

import msgspec

from sse_broadcast.server.http.problem import STATUSES
from sse_broadcast.server.openapi.model import Operation, Parameter, Response
from sse_broadcast.server.openapi.operations import WHEN, problems, read_operations, responses


def test_whatever_is_pointed_to_is_there() -> None:
    named = {ref.to.removeprefix("#/components/responses/") for ref in problems(*WHEN).values()}
    assert named == set(responses())
    assert len(named) == len(WHEN)


def test_every_error_of_the_nouns_has_its_place() -> None:
    """A status that the code can give is one that the contract knows."""
    assert {status for _, status in STATUSES} <= set(WHEN)


OPERATION = Operation(
    "find", "Find it", "Here.", tags=["inspect"], responses={"200": Response("It.")}, security=[{}]
)
NAME = Parameter("name", "path", "Whose.", {}, required=True)


def test_options_look_at_no_name() -> None:
    narrow = msgspec.structs.replace(NAME, schema={"type": "string", "pattern": "^a$"})
    path = read_operations(OPERATION, narrow)
    assert path.options is not None
    assert [(each.name, each.schema) for each in path.options.parameters] == [("name", {"type": "string"})]
