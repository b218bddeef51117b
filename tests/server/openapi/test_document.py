"""GET /openapi.json: the document, and that the server keeps to it."""

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
    """Send a request on a new connection, and return the response, of a stream the head only."""
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
def test_the_document_is_valid_openapi(terms: SecuritySchemes) -> None:
    """The specification's own schema accepts it, and every reference resolves."""
    OpenAPIV31SpecValidator(json.loads(document(terms))).validate()


def routes(app: web.Application) -> set[tuple[str, str]]:
    """Return the routes of the application without the fallbacks for other methods."""
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    return {(method, path) for method, path in found if method != "*"}


async def test_the_document_has_exactly_the_routes() -> None:
    documented = {(method.upper(), path) for path in DOCUMENT["paths"] for method in DOCUMENT["paths"][path]}
    assert {(method, path) for method, path in documented if method != "PARAMETERS"} == routes(create_app())


def test_every_operation_has_a_unique_name() -> None:
    names = [operation.said["operationId"] for operation in OPERATIONS]
    assert len(names) == len(set(names))


async def test_the_document_is_served(client: RawClient) -> None:
    assert await client.ask("GET", "/openapi.json") == (200, document(SecuritySchemes()))
    await client.request("HEAD", "/openapi.json")
    assert f"\r\nContent-Length: {len(document(SecuritySchemes()))}\r\n".encode() in await client.head()


async def test_the_document_has_the_places_of_credentials(serve: Serve) -> None:
    """Each operation that needs one has them. Callers without the permission do not get the document."""
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
"""Settings, query and headers for statuses that any request can get."""


@pytest.mark.parametrize("status", PROVOKED)
async def test_every_documented_status_can_occur(serve: Serve, status: int) -> None:
    """It occurs at each operation that has it and at no other, where other errors are documented too."""
    settings, query, headers = PROVOKED[status]
    server = await serve(**settings)
    for operation in OPERATIONS:
        answer = await ask(server, operation, Asked(operation.target + query, headers))
        assert (answer.status == status) == (status in operation.statuses), (operation, answer)
        operation.require(answer)


def test_every_documented_status_is_tried() -> None:
    assert set(OF_STATUS) == {*PROVOKED, 200, 204, 404, 422, 429, 501, 503}


@pytest.mark.parametrize("served", Endpoint)
async def test_endpoints_of_another_listener_are_not_found(serve: Serve, served: Endpoint) -> None:
    public = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.SUBSCRIBE,))
    server = await serve(listener=(ListenerRule(host="127.0.0.1", port=0, endpoints=(served,)), public))
    # The id of the stream in the examples.
    subscriber = await RawClient.open(server.listeners[1].port or 0)
    await subscriber.subscribe()
    for operation in OPERATIONS:
        elsewhere = 404 in operation.statuses and served not in operation.said["tags"]
        answer = await ask(server, operation, Asked(operation.target))
        assert (answer.status == 404) == elsewhere, (operation, answer)
        operation.require(answer)
    subscriber.close()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"7"])
async def test_json_of_the_wrong_shape_is_documented(server: LiveServer, body: bytes) -> None:
    """The 422 is at each operation with a JSON body, and at no other.

    A subscription may have an empty body.
    """
    for operation in OPERATIONS:
        answer = await ask(server, operation, Asked(operation.target, JSON, body))
        taken = "requestBody" in operation.said and 422 in operation.statuses
        good = body == b"{}" and operation.said["operationId"] == "subscribeByBody"
        assert (answer.status == 422) == (taken and not good), (operation, answer)
        operation.require(answer)


@pytest.mark.parametrize("reason", [RejectReason.FULL, RejectReason.ADDRESS])
def test_responses_of_admission_control_are_documented(reason: RejectReason) -> None:
    for operation in OPERATIONS:
        request = f"{operation.method} {operation.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        answer = rejection_response(request, reason=reason, cors=Cors(()), readiness=Readiness(Broadcaster()))
        head, _, body = answer.partition(b"\r\n\r\n")
        operation.require(Answer.of(head, body))


async def test_refusals_of_rate_limits_are_documented(serve: Serve) -> None:
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


async def test_responses_of_a_draining_server_are_documented(server: LiveServer) -> None:
    """A publish, a subscription and a readiness check get a 503."""
    await server.broadcaster.close(timeout=0)
    names = {"publish", "subscribe", "subscribeByBody", "ready"}
    for operation in [each for each in OPERATIONS if each.said["operationId"] in names]:
        answer = await ask(server, operation, operation.asked())
        assert answer.status == 503, (operation, answer)
        operation.require(answer)


async def test_a_refused_stream_is_documented(server: LiveServer) -> None:
    await server.broadcaster.close(timeout=0)
    names = {"subscribe", "subscribeTo", "subscribeByBody"}
    for operation in [each for each in OPERATIONS if each.said["operationId"] in names]:
        answer = await ask(server, operation, operation.asked("Accept: text/event-stream\r\n"))
        assert (answer.status, "retry-after" in answer.headers) == (200, True), (operation, answer)
        operation.require(answer)


async def test_a_response_without_its_message_is_documented(server: LiveServer) -> None:
    (publish,) = [each for each in OPERATIONS if each.said["operationId"] == "publish"]
    answer = await ask(server, publish, Asked(publish.target, body=b"x" * 70_000))
    assert "message" not in json.loads(answer.body)
    publish.require(answer)


async def test_a_missing_package_is_documented(serve: Serve, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    server = await serve()
    body = json.dumps({"grants": {"subscribe": ["news"]}}).encode()
    (mint,) = OF_STATUS[501]
    answer = await ask(server, mint, Asked(mint.target, JSON, body))
    assert answer.status == 501
    mint.require(answer)


RAISED = re.compile(r"Problem\(\s*(\d{3})\b")


def test_every_status_raised_in_the_code_is_documented() -> None:
    """No other is, except the one for wrong methods and one that no client receives."""
    files = Path(sse_broadcast.__file__).parent.glob("server/**/*.py")
    raised = {int(status) for file in files for status in RAISED.findall(file.read_text())}
    assert {*raised, *(status for _, status in STATUSES)} - {405} == set(OF_STATUS) - {200, 204}
    assert GONE not in OF_STATUS


async def test_a_mounted_application_documents_its_own_paths() -> None:
    """They are relative to the URL of the document."""
    async with mounted() as push:
        client = await RawClient.open(push.port)
        status, answer = await client.ask("GET", "/push/openapi.json")
        client.close()
    assert (status, json.loads(answer)["servers"]) == (200, [{"url": "."}])
