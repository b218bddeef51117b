"""Hints in responses for unknown paths and methods."""

import pytest

from sse_broadcast.config.schema import Endpoint
from sse_broadcast.server.http.path_hints import ELSEWHERE, PLACES, hint, other_method
from tests.conftest import Serve
from tests.support.asking import ask

EVERYTHING = frozenset(Endpoint)

EMPTY = "; the name of the channel is empty: {0} {1}, {0}/NAME is one by its name"

BOTH = "; GET /events subscribes, POST /send publishes"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/send/", EMPTY.format("/send", "is the channel `default`")),
        ("/events/", EMPTY.format("/events", "is the channel `default`")),
        ("/events///", EMPTY.format("/events", "is the channel `default`")),
        ("/channels/", EMPTY.format("/channels", "lists all")),
        ("//events", "; GET /events subscribes"),
        ("//send/a", "; POST /send publishes"),
        ("/events/a/b", "; GET /events subscribes"),
        ("/event", "; GET /events subscribes"),
        ("/Events", "; GET /events subscribes"),
        ("/sse", "; GET /events subscribes"),
        ("/SUBSCRIBE/a", "; GET /events subscribes"),
        ("/.well-known/mercure", "; GET /events subscribes"),
        ("/sent", "; POST /send publishes"),
        ("/publish/a", "; POST /send publishes"),
        ("/api/publish", "; POST /send publishes"),
        ("/health", "; GET /healthz says whether the server is alive"),
        ("/ready", "; GET /readyz says whether it can serve"),
        ("/clients", "; GET /subscribers lists subscribers"),
        ("/token", "; POST /tokens makes a token"),
        ("/openapi", "; GET /openapi.json describes the interface"),
        ("/stats", "; GET /status reports on the server"),
        ("/", BOTH),
        ("//", BOTH),
        ("", BOTH),
        ("/favicon.ico", BOTH),
        ("/caf\u00e9", BOTH),
        ("/" + "events" * 1000, BOTH),
    ],
)
def test_an_unknown_path_gets_a_hint(path: str, said: str) -> None:
    """The hint is the path that was probably meant, or the two most used."""
    assert hint(path, EVERYTHING) == said


@pytest.mark.parametrize(
    ("path", "served", "said"),
    [
        ("/sse", {Endpoint.PUBLISH}, "; POST /send publishes"),
        ("/publish", {Endpoint.SUBSCRIBE}, "; GET /events subscribes"),
        ("/send/", {Endpoint.SUBSCRIBE}, "; GET /events subscribes"),
        ("/token", {Endpoint.SUBSCRIBE, Endpoint.PUBLISH}, BOTH),
        ("/tokens", {Endpoint.INSPECT}, ""),
        ("/health", set[Endpoint](), "; GET /healthz says whether the server is alive"),
        ("/nope", set[Endpoint](), ""),
    ],
)
def test_a_hint_names_no_endpoint_of_another_listener(path: str, served: set[Endpoint], said: str) -> None:
    assert hint(path, served) == said


@pytest.mark.parametrize(
    ("path", "method", "said"),
    [
        ("/events", "PUT", "; POST /send publishes"),
        ("/events/a,b", "POST", "; POST /send/a,b publishes"),
        ("/events/events", "POST", "; POST /send/events publishes"),
        ("/send", "GET", "; GET /events subscribes"),
        ("/send/a", "HEAD", "; GET /events/a subscribes"),
        ("/events", "DELETE", ""),
        ("/send/a", "DELETE", ""),
        ("/status", "POST", ""),
    ],
)
def test_a_wrong_method_gets_the_path_that_has_it(path: str, method: str, said: str) -> None:
    assert other_method(path, method, EVERYTHING) == said


def test_a_path_of_another_listener_is_not_named() -> None:
    assert other_method("/events/a", "POST", {Endpoint.SUBSCRIBE}) == ""
    assert other_method("/send/a", "GET", {Endpoint.PUBLISH}) == ""


def test_a_long_path_is_cut() -> None:
    said = other_method("/events/" + "x" * 1000, "POST", EVERYTHING)
    assert said == f"; POST /send/{'x' * 74} publishes"


@pytest.mark.parametrize("place", PLACES)
async def test_each_hinted_path_exists(serve: Serve, place: str) -> None:
    server = await serve(metrics=True)
    method = PLACES[place][1].split()[0]
    assert f"{method} {place} " in f"{PLACES[place][1]} "
    answer = await ask(server, "OPTIONS", place)
    assert answer.status == 204
    assert method in answer.headers["allow"].split(", ")


@pytest.mark.parametrize(("word", "place"), ELSEWHERE.items())
async def test_each_term_of_other_products_has_a_path(serve: Serve, word: str, place: str) -> None:
    server = await serve(metrics=True)
    answer = await ask(server, "GET", f"/{word}")
    assert (answer.status, answer.detail) == (404, f"nothing is at /{word}; {PLACES[place][1]}")
