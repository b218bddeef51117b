"""GET /openapi.json: the contract, and that the server keeps it."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

import sse_broadcast
from sse_broadcast import create_app
from sse_broadcast.auth.principal import Action
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import CallerRule, Endpoint, ListenerRule
from sse_broadcast.server.endpoints.events import GONE
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.http.health import Readiness
from sse_broadcast.server.http.problem import STATUSES
from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.security import SecuritySchemes
from sse_broadcast.server.transport.counts import RejectReason
from sse_broadcast.server.transport.rejection import rejection_response
from tests.conftest import LiveServer, Patch, Serve
from tests.support.contract import Answer, Asked, Operation, operations
from tests.support.mounting import mounted
from tests.support.sockets import RawClient

TOKEN = "a-token-that-may-do-everything"
NOBODYS = "a-token-that-may-do-nothing"
CALLERS = (CallerRule(name="nobody", token=NOBODYS),)

DOCUMENT: Mapping[str, Any] = json.loads(document(SecuritySchemes()))
OPERATIONS = operations(DOCUMENT)
OF_STATUS = {
    status: [operation for operation in OPERATIONS if status in operation.statuses]
    for status in sorted(set().union(*(operation.statuses for operation in OPERATIONS)))
}


async def ask(server: LiveServer, operation: Operation, asked: Asked) -> Answer:
    """Make a request on a connection of its own, and give the answer; of a stream its head alone."""
    client = await server.connect()
    length = "" if "ength:" in asked.headers else f"Content-Length: {len(asked.body)}\r\n"
    host = "" if "Host:" in asked.headers else "Host: localhost\r\n"
    head = f"{operation.method} {asked.target} HTTP/1.1\r\n{host}{length}{asked.headers}\r\n"
    await client.send(head.encode() + asked.body)
    answer = Answer.of(await client.head())
    if operation.method == "HEAD" or "content-length" not in answer.headers:
        return answer
    body = await client.take(int(answer.headers["content-length"]))
    return Answer(answer.status, answer.headers, body)


@pytest.mark.parametrize(
    "terms",
    [
        SecuritySchemes(),
        SecuritySchemes(secured=True),
        SecuritySchemes(secured=True, anonymous=[Action.SUBSCRIBE], cookie="session"),
    ],
)
def test_the_contract_is_openapi(terms: SecuritySchemes) -> None:
    """As the specification's own schema has it, with every reference to something that is there."""
    OpenAPIV31SpecValidator(json.loads(document(terms))).validate()


def routes(app: web.Application) -> set[tuple[str, str]]:
    """Return what the application answers, but the answers to what it does not take."""
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    return {(method, path) for method, path in found if method != "*"}


async def test_the_contract_has_every_route_and_no_other() -> None:
    told = {(method.upper(), path) for path in DOCUMENT["paths"] for method in DOCUMENT["paths"][path]}
    assert {(method, path) for method, path in told if method != "PARAMETERS"} == routes(create_app())


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation.said["operationId"] for operation in OPERATIONS]
    assert len(names) == len(set(names))


async def test_the_contract_is_served(client: RawClient) -> None:
    assert await client.ask("GET", "/openapi.json") == (200, document(SecuritySchemes()))
    await client.request("HEAD", "/openapi.json")
    assert f"\r\nContent-Length: {len(document(SecuritySchemes()))}\r\n".encode() in await client.head()


async def test_a_server_with_credentials_says_where_they_go(serve: Serve) -> None:
    """And what is open to all of them; who may not ask is not told."""
    _, client = await serve.connected(token=TOKEN, cookie="session", anonymous_subscribe=("news",))
    assert (await client.ask("GET", "/openapi.json"))[0] == 401
    status, body = await client.ask("GET", "/openapi.json", headers=f"Authorization: Bearer {TOKEN}\r\n")
    terms = SecuritySchemes(secured=True, anonymous=[Action.SUBSCRIBE], cookie="session")
    assert (status, body) == (200, document(terms))


async def test_every_documented_example_works(server: LiveServer) -> None:
    asked = [(operation, asked) for operation in OPERATIONS for asked in operation.examples()]
    assert len(asked) > 80
    for operation, example in asked:
        answer = await ask(server, operation, example)
        assert answer.status == (204 if operation.method == "OPTIONS" else 200), (operation, example, answer)
        operation.require(answer)


JSON = "Content-Type: application/json\r\n"

PROVOKED: Mapping[int, tuple[Mapping[str, Any], str, str]] = {
    400: ({}, "?x=%ff", ""),
    401: ({"token": TOKEN}, "", ""),
    403: ({"caller": CALLERS}, "", f"Authorization: Bearer {NOBODYS}\r\n"),
    408: ({"body_timeout": 0.05}, "", f"{JSON}Content-Length: 7\r\n"),
    413: ({}, "", f"{JSON}Content-Length: 99999999\r\n"),
    415: ({}, "", f"{JSON}Content-Encoding: gzip\r\n"),
    414: ({}, f"?x={'x' * 16_384}", ""),
    417: ({}, "", "Expect: a-miracle\r\n"),
    421: ({}, "", "Host: example.com\r\n"),
    431: ({}, "", f"X: {'x' * 33_000}\r\n"),
}
"""Settings, a query and headers by which anything can be had that has no more to do with what is asked."""


@pytest.mark.parametrize("status", PROVOKED)
async def test_every_status_can_be_had_that_the_contract_tells_of(serve: Serve, status: int) -> None:
    """Wherever it is told of, and nowhere else; what it is elsewhere is told of too."""
    settings, query, headers = PROVOKED[status]
    server = await serve(**settings)
    for operation in OPERATIONS:
        answer = await ask(server, operation, Asked(operation.target + query, headers))
        assert (answer.status == status) == (status in operation.statuses), (operation, answer)
        operation.require(answer)


def test_every_status_of_the_contract_is_tried() -> None:
    assert set(OF_STATUS) == {*PROVOKED, 200, 204, 404, 422, 429, 501, 503}


@pytest.mark.parametrize("served", Endpoint)
async def test_what_a_listener_does_not_serve_is_not_found(serve: Serve, served: Endpoint) -> None:
    public = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.SUBSCRIBE,))
    server = await serve(listener=(ListenerRule(host="127.0.0.1", port=0, endpoints=(served,)), public))
    # The stream that the examples name.
    reader = await RawClient.open(server.listeners[1].port or 0)
    await reader.subscribe()
    for operation in OPERATIONS:
        elsewhere = 404 in operation.statuses and served not in operation.said["tags"]
        answer = await ask(server, operation, Asked(operation.target))
        assert (answer.status == 404) == elsewhere, (operation, answer)
        operation.require(answer)
    reader.close()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"7"])
async def test_json_of_the_wrong_shape_is_told_as_the_contract_has_it(
    server: LiveServer, body: bytes
) -> None:
    """422, wherever JSON is taken, and nowhere else; to subscribe, nothing need be said."""
    for operation in OPERATIONS:
        answer = await ask(server, operation, Asked(operation.target, JSON, body))
        taken = "requestBody" in operation.said and 422 in operation.statuses
        good = body == b"{}" and operation.said["operationId"] == "subscribeByBody"
        assert (answer.status == 422) == (taken and not good), (operation, answer)
        operation.require(answer)


@pytest.mark.parametrize("reason", [RejectReason.FULL, RejectReason.ADDRESS])
def test_the_door_answers_as_the_contract_has_it(reason: RejectReason) -> None:
    for operation in OPERATIONS:
        request = f"{operation.method} {operation.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        answer = rejection_response(request, reason=reason, cors=Cors(()), readiness=Readiness(Broadcaster()))
        head, _, body = answer.partition(b"\r\n\r\n")
        operation.require(Answer.of(head, body))


async def test_a_rate_is_told_as_the_contract_has_it(serve: Serve) -> None:
    server = await serve(
        token=TOKEN, publish_rate=1, publish_burst=1, max_batch=1, max_connections_per_token=1
    )
    bearer = f"Authorization: Bearer {TOKEN}\r\n"
    guests = [each for each in OPERATIONS if each.said["tags"] in (["publish"], ["subscribe"])]
    limited = [each for each in guests if each.method in {"GET", "PUT", "POST"}]
    for operation in [each for each in limited if each.said["operationId"] != "clientModule"]:
        answers = [await ask(server, operation, operation.asked(bearer)) for _ in range(2)]
        assert answers[1].status == 429, (operation, answers)
        operation.require(answers[1])


async def test_a_server_that_drains_answers_as_the_contract_has_it(server: LiveServer) -> None:
    """503, to whoever publishes, subscribes, or asks whether it is ready."""
    await server.broadcaster.close(timeout=0)
    names = {"publish", "subscribe", "subscribeByBody", "ready"}
    for operation in [each for each in OPERATIONS if each.said["operationId"] in names]:
        answer = await ask(server, operation, operation.asked())
        assert answer.status == 503, (operation, answer)
        operation.require(answer)


async def test_a_stream_that_is_refused_is_told_as_the_contract_has_it(server: LiveServer) -> None:
    await server.broadcaster.close(timeout=0)
    names = {"subscribe", "subscribeTo", "subscribeByBody"}
    for operation in [each for each in OPERATIONS if each.said["operationId"] in names]:
        answer = await ask(server, operation, operation.asked("Accept: text/event-stream\r\n"))
        assert (answer.status, "retry-after" in answer.headers) == (200, True), (operation, answer)
        operation.require(answer)


async def test_an_answer_without_its_message_is_as_the_contract_has_it(server: LiveServer) -> None:
    (publish,) = [each for each in OPERATIONS if each.said["operationId"] == "publish"]
    answer = await ask(server, publish, Asked(publish.target, body=b"x" * 70_000))
    assert "message" not in json.loads(answer.body)
    publish.require(answer)


async def test_what_is_not_installed_is_told_as_the_contract_has_it(serve: Serve, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    server = await serve()
    body = json.dumps({"grants": {"subscribe": ["news"]}}).encode()
    (mint,) = OF_STATUS[501]
    answer = await ask(server, mint, Asked(mint.target, JSON, body))
    assert answer.status == 501
    mint.require(answer)


RAISED = re.compile(r"Problem\(\s*(\d{3})\b")


def test_every_status_that_the_code_raises_is_in_the_contract() -> None:
    """And no other, but for the one that other methods are answered with, and the one that nobody reads."""
    files = Path(sse_broadcast.__file__).parent.glob("server/**/*.py")
    raised = {int(status) for file in files for status in RAISED.findall(file.read_text())}
    assert {*raised, *(status for _, status in STATUSES)} - {405} == set(OF_STATUS) - {200, 204}
    assert GONE not in OF_STATUS


async def test_a_mounted_application_has_its_contract_where_it_is() -> None:
    """Its paths are those beside the document, wherever that is."""
    async with mounted() as push:
        client = await RawClient.open(push.port)
        status, answer = await client.ask("GET", "/push/openapi.json")
        client.close()
    assert (status, json.loads(answer)["servers"]) == (200, [{"url": "."}])
