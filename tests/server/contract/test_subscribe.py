"""The contract of GET /events."""

import json

from sse_broadcast.event import Event
from sse_broadcast.server import wish
from sse_broadcast.server.contract.subscribe import PATHS
from sse_broadcast.server.contract.terms import Terms
from sse_broadcast.server.contract.words import Answer
from sse_broadcast.server.gate import IN_QUERY
from sse_broadcast.server.openapi import document
from sse_broadcast.wire import Decoder
from tests.support.contract import operations

(OPERATION, *OTHERS) = [path.get for path in PATHS.values()]


def stream() -> Answer:
    assert OPERATION is not None
    answer = OPERATION.responses["200"]
    assert isinstance(answer, Answer)
    return answer


def test_the_parameters_are_those_that_are_heard() -> None:
    """The token beside them is told of as a credential."""
    for operation in (OPERATION, *OTHERS):
        assert operation is not None
        told = {parameter.name for parameter in operation.parameters if parameter.place == "query"}
        assert told | {IN_QUERY} == set(wish.PARAMETERS)


def test_the_example_of_a_stream_is_one() -> None:
    """To a reader it is an event, and a cursor before it."""
    example = stream().content["text/event-stream"].examples["event"].value
    assert isinstance(example, str)
    assert Decoder().feed(example.encode()) == [Event("EUR 1.08", "price", "0a1b2c3d-42")]


def test_the_example_of_a_line_is_one() -> None:
    """As its schema has it."""
    media = stream().content["application/x-ndjson"]
    example = media.examples["event"].value
    assert isinstance(example, str)
    operation = operations(json.loads(document(Terms())))[0]
    operation.validator(media.schema).validate(json.loads(example))
