"""The probe of CORS."""

from collections.abc import Mapping

import pytest

from sse_broadcast.doctor.connection import ProbeConnection
from sse_broadcast.doctor.cors_probe import cors_problem, probe_cors
from sse_broadcast.doctor.findings import Fault, Level
from tests.conftest import Serve
from tests.support import scripted
from tests.support.scripted import STREAM, Held, Speak, plain

speak = pytest.fixture(scripted.speak)

ORIGIN = "https://app.example.com"


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"access-control-allow-origin": ORIGIN}, ""),
        ({"access-control-allow-origin": "*"}, ""),
        ({}, "no Access-Control-Allow-Origin"),
        (
            {"access-control-allow-origin": f"{ORIGIN}, *"},
            f"Access-Control-Allow-Origin is there twice: '{ORIGIN}, *'",
        ),
        ({"access-control-allow-origin": "null"}, "Access-Control-Allow-Origin is 'null'"),
        (
            {"access-control-allow-origin": "*", "access-control-allow-credentials": "true"},
            "Access-Control-Allow-Origin is '*' with credentials, which browsers refuse",
        ),
    ],
)
def test_what_keeps_a_page_away_is_named(headers: Mapping[str, str], problem: str) -> None:
    assert cors_problem(headers, ORIGIN) == problem


async def test_the_server_s_own_answers_are_right(serve: Serve) -> None:
    server = await serve(cors_origins=(ORIGIN,))
    async with ProbeConnection(server.url) as connection:
        assert (await probe_cors(connection, "x", ORIGIN)).level is Level.OK
        assert (await probe_cors(connection, "x", "https://b.example")).fault is Fault.CORS
        assert (await probe_cors(connection, "x", None)).level is Level.SKIPPED


async def test_a_preflight_without_leave_is_told(speak: Speak) -> None:
    allowed = STREAM.replace(b"Transfer", f"Access-Control-Allow-Origin: {ORIGIN}\r\nTransfer".encode())
    script = await speak(Held(allowed), plain("404 Not Found", "text/plain", ""), b"")
    async with ProbeConnection(script.url) as connection:
        found = await probe_cors(connection, "x", ORIGIN)
    assert found.seen == "a preflight for /send was answered with 404, and no leave"
    assert script.heads[1][0] == "OPTIONS /send/x HTTP/1.1"
