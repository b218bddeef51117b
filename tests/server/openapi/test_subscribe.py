"""The OpenAPI operation GET /events."""

import itertools
import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast import Config, create_app, wire
from sse_broadcast.event import Event
from sse_broadcast.server.access.authorization import IN_QUERY
from sse_broadcast.server.endpoints import subscribe_request
from sse_broadcast.server.endpoints.subscribe_request import (
    CHANNEL_PARAMETERS,
    SUBSCRIBE_MEMBERS,
    SubscribeRequest,
    parse_subscribe,
    read_body,
)
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.model import Response
from sse_broadcast.server.openapi.security import SecuritySchemes
from sse_broadcast.server.openapi.subscribe import SUBSCRIBE_PATHS
from sse_broadcast.wire import Decoder
from tests.server.blocks import opening
from tests.support.contract import operations

APP = create_app(Config())

(OPERATION, *OTHERS) = [path.get for path in SUBSCRIBE_PATHS.values()]


def stream() -> Response:
    assert OPERATION is not None
    answer = OPERATION.responses["200"]
    assert isinstance(answer, Response)
    return answer


def test_the_parameters_are_those_of_the_parser() -> None:
    """The token among them is documented as a security scheme."""
    for operation in (OPERATION, *OTHERS):
        assert operation is not None
        documented = {parameter.name for parameter in operation.parameters if parameter.place == "query"}
        assert documented | {IN_QUERY} == set(subscribe_request.SUBSCRIBE_PARAMETERS)


def test_the_example_of_a_stream_is_valid() -> None:
    example = stream().content["text/event-stream"].examples["event"].value
    assert isinstance(example, str)
    head, first, second = example.encode().partition(b"event: price\n")
    assert opening(id="0a1b2c3d-41").fullmatch(head)
    event = Event("EUR 1.08", "price", "0a1b2c3d-42")
    assert first + second == wire.encode(event)
    assert Decoder().feed(example.encode())[1:] == [event]


def test_the_example_of_a_line_is_valid() -> None:
    media = stream().content["application/x-ndjson"]
    example = media.examples["event"].value
    assert isinstance(example, str)
    operation = operations(json.loads(document(SecuritySchemes())))[0]
    operation.validator(media.schema).validate(json.loads(example))


# Bodies.

(BY_BODY,) = [each for each in operations(json.loads(document(SecuritySchemes()))) if each.method == "POST"][
    :1
]
SCHEMA = BY_BODY.said["requestBody"]["content"]["application/json"]["schema"]
VALIDATOR = BY_BODY.validator(SCHEMA)


def test_a_body_has_the_members_of_the_parser() -> None:
    """The query has the same ones, without the other names of channels and ids that clients use."""
    members = {*SUBSCRIBE_MEMBERS, *CHANNEL_PARAMETERS, "channels", "lastEventId", "Last-Event-ID"}
    assert SCHEMA["properties"].keys() == members
    assert SCHEMA["additionalProperties"] is False


CHANNELS: list[Any] = ["a", "a.*", ["b", "*"], ["a"], "", "a,b", "x" * 129, [], [""], None, 7, {}, [None]]
IDS: list[Any] = ["", "a", "0123abcd-1", "ü", None, 7, []]

PAIRS: list[tuple[str, Any]] = [
    *itertools.product(("channel", "channels", "stream", "topic"), CHANNELS),
    *itertools.product(("last_event_id", "lastEventId", "Last-Event-ID"), IDS),
    *itertools.product(["event"], ("t", "ü", "$close", ["t", "u"], "", [], [""], None, 7, True)),
    *itertools.product(["since"], ("earliest", "1h", "0123abcd-1", "", None, [])),
    *itertools.product(["format"], ("text", "json", "xml", "", None, [])),
    *itertools.product(["heartbeat"], ("event", "4", "event,60", 3, 60, 2, 61, 4.5, None, True)),
    ("chanel", "a"),
    ("access_token", "a"),
]
"""Members with valid and invalid values."""


DESCRIBED = [pair for pair in PAIRS if VALIDATOR.is_valid(dict([pair]))]


def test_each_member_is_tried_with_valid_and_invalid_values() -> None:
    """Otherwise the next test would not cover it."""
    assert {name for name, _ in DESCRIBED} == SCHEMA["properties"].keys()
    assert {name for name, value in PAIRS if (name, value) not in DESCRIBED} > SCHEMA["properties"].keys()


@settings(deadline=None)
@given(st.lists(st.sampled_from(DESCRIBED), max_size=4).map(dict))
def test_a_body_that_fits_the_schema_is_accepted(value: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(value)
    request = make_mocked_request("POST", "/events", {}, app=APP)
    assert isinstance(
        parse_subscribe(request, read_body(json.dumps(value).encode(), most=100), lambda _: None),
        SubscribeRequest,
    )


@pytest.mark.parametrize("value", [*range(-1, 5), *range(58, 63), "event", "event,4", "60,event", "x", "2"])
def test_the_schema_of_heartbeat_accepts_what_the_server_accepts(value: object) -> None:
    request = make_mocked_request("POST", "/events", {}, app=APP)
    described = VALIDATOR.is_valid({"heartbeat": value})
    try:
        parse_subscribe(
            request, read_body(json.dumps({"heartbeat": value}).encode(), most=100), lambda _: None
        )
    except Problem:
        assert not described
    else:
        assert described
