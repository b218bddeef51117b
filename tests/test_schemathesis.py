"""Schemathesis: requests generated from the OpenAPI document, valid and invalid ones of every kind."""

import json
import logging
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.security import SecuritySchemes
from tests.conftest import Serve
from tests.support.contract import operations
from tests.support.process import Programs, programs

SCRIPT = Path(sysconfig.get_path("scripts"), "schemathesis")
ROOT = Path(__file__).parent.parent

HOOKS = {"SCHEMATHESIS_HOOKS": "tests.support.fuzzing", "PYTHONPATH": str(ROOT)}
HOW = ["--checks", "all", "--max-examples", "20", "--seed", "4", "--generation-database", "none"]
HOW += ["--no-color"]

TOKEN = "a-token-that-may-do-everything"
BEARER = ("--header", f"Authorization: Bearer {TOKEN}")

started = pytest.fixture(programs)


@pytest.mark.parametrize(
    ("settings", "headers"), [({}, ()), ({"token": TOKEN}, BEARER)], ids=["open", "with credentials"]
)
async def test_schemathesis_finds_no_failure(
    serve: Serve,
    started: Programs,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    settings: Mapping[str, Any],
    headers: tuple[str, ...],
) -> None:
    server = await serve(lifetime=0.02, **settings)  # It waits for each stream to end.
    here = ("sh", "-c", 'cd "$0"; exec "$@"', str(tmp_path))  # It stores what it found there.
    process = await started.start(
        *here, str(SCRIPT), "run", f"{server.url}/openapi.json", *headers, *HOW, env=HOOKS
    )
    process.end_input()
    said = []
    while line := await process.any_line():
        said.append(line.decode())
    assert (await process.ended()).code == 0, "".join(said)
    assert server.broadcaster.client_count == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


OPERATIONS = {each.said["operationId"]: each for each in operations(json.loads(document(SecuritySchemes())))}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("name", "target", "headers", "body"),
    [
        ("subscribeTo", "/events/a,b.*", {}, None),
        ("subscribeTo", "/events/a?channel=b&channel=c&format=json&unknown=x", {"Last-Event-ID": ""}, None),
        ("channels", "/channels?limit=1&unknown=42", {}, None),
        ("publish", "/send", {}, None),
        ("publish", "/send?retry=700", {"Idempotency-Key": "k", "Content-Type": "text/plain"}, "ü"),
        ("publish", "/send", JSON, '[{"message": "x"}]'),
        ("revoke", "/revoke", JSON, '{"id": "x"}'),
        ("subscribeByBody", "/events", JSON, "{}"),
        ("subscribeByBody", "/events", JSON, '{"channel": ["a", "b.*"], "event": "t", "heartbeat": 4}'),
    ],
)
def test_a_valid_request_is_recognized(
    name: str, target: str, headers: Mapping[str, str], body: str | None
) -> None:
    assert OPERATIONS[name].describes(f"http://localhost{target}", headers, body)


@pytest.mark.parametrize(
    ("name", "target", "headers", "body"),
    [
        ("subscribeTo", "/events/a,,b", {}, None),
        ("subscribeTo", "/events/a%20b", {}, None),
        ("subscribe", "/events?channel=a&channel=", {}, None),
        ("subscribe", "/events?format=", {}, None),
        ("subscribe", "/events?format=json&format=json", {}, None),
        ("channels", "/channels?limit=0", {}, None),
        ("channels", "/channels?limit=1.0", {}, None),
        ("channels", "/channels?limit=", {}, None),
        ("subscribe", "/events?heartbeat=2", {}, None),
        ("subscribeByBody", "/events", JSON, None),
        ("subscribeByBody", "/events", JSON, '{"channels": []}'),
        ("subscribeByBody", "/events", JSON, '{"chanel": "a"}'),
        ("publish", "/send?retry=-1", {}, ""),
        ("publish", "/send?retry=7", {}, "x"),
        ("publish", "/send?event=open", {"Content-Type": "text/plain"}, "x"),
        ("publish", "/send", JSON, '{"message": "x", "chanel": "a"}'),
        ("publish", "/send", {"Idempotency-Key": "ü"}, None),
        ("publish", "/send", JSON, '{"message": 1}'),
        ("publish", "/send", JSON, "{"),
        ("publish", "/send", {}, "x"),
        ("publishTo", "/send/*", {}, None),
        ("revoke", "/revoke", JSON, "{}"),
        ("revoke", "/revoke", JSON, None),
    ],
)
def test_an_invalid_response_is_a_failure(
    name: str, target: str, headers: Mapping[str, str], body: str | None
) -> None:
    """Everything outside the document is."""
    assert not OPERATIONS[name].describes(f"http://localhost{target}", headers, body)
