"""The OpenAPI operations POST /tokens and /revoke."""

import json

import pytest

from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.security import SecuritySchemes
from tests.support.contract import operations
from tests.support.sockets import RawClient

OPERATIONS = {each.said["operationId"]: each for each in operations(json.loads(document(SecuritySchemes())))}

WISHES = [
    {"grants": {}},
    {"grants": {"subscribe": []}},
    {"grants": {"subscribe": ["news", "orders.*"], "publish": ["a"], "inspect": ["*"]}},
    {"grants": {"admin": ["*"]}},
    {"grants": {"fly": ["*"]}},
    {"grants": {"subscribe": ["a b"]}},
    {"grants": {"subscribe": ["."]}},
    {"grants": {"subscribe": ["x" * 128]}},
    {"grants": {"subscribe": ["x" * 129]}},
    {"grants": {"subscribe": "news"}},
    {"grants": ["news"]},
    {"grants": None},
    {"subject": "visitor-1"},
    {"grants": {"subscribe": ["a"]}, "subject": ""},
    {"grants": {"subscribe": ["a"]}, "subject": "x" * 128},
    {"grants": {"subscribe": ["a"]}, "subject": "x" * 129},
    {"grants": {"subscribe": ["a"]}, "subject": "a\nb"},
    {"grants": {"subscribe": ["a"]}, "subject": None},
    {"grants": {"subscribe": ["a"]}, "lifetime": 0},
    {"grants": {"subscribe": ["a"]}, "lifetime": -1},
    {"grants": {"subscribe": ["a"]}, "lifetime": 0.001},
    {"grants": {"subscribe": ["a"]}, "lifetime": 31_536_000},
    {"grants": {"subscribe": ["a"]}, "lifetime": 31_536_001},
    {"grants": {"subscribe": ["a"]}, "lifetime": "600"},
    {"grants": {"subscribe": ["a"]}, "audience": "x"},
    [],
]

REVOCATIONS = [
    {},
    {"subject": "a"},
    {"id": "a"},
    {"subject": "a", "id": "a"},
    {"caller": "a"},
    {"caller": "a", "id": "a"},
    {"subject": "a", "id": None},
    {"subject": None, "id": "a"},
    {"subject": None},
    {"subject": ""},
    {"subject": "x" * 128},
    {"subject": "x" * 129},
    {"subject": 1},
    {"id": "a", "expires": 0},
    {"id": "a", "expires": 4_102_444_800.5},
    {"id": "a", "expires": -1},
    {"id": "a", "expires": None},
    {"id": "a", "expires": "soon"},
    {"id": "a", "reason": "x"},
    [],
]


@pytest.mark.parametrize(
    ("name", "path", "bodies"),
    [("mint", "/tokens", WISHES), ("revoke", "/revoke", REVOCATIONS)],
    ids=["mint", "revoke"],
)
async def test_the_schema_accepts_what_the_server_accepts(
    client: RawClient, name: str, path: str, bodies: list[object]
) -> None:
    schema = OPERATIONS[name].said["requestBody"]["content"]["application/json"]["schema"]
    validator = OPERATIONS[name].validator(schema)
    taken = []
    for body in bodies:
        content = json.dumps(body).encode()
        status, _ = await client.ask("POST", path, body=content, headers="Content-Type: application/json\r\n")
        assert status in {200, 400, 403, 422}, body
        taken.append(status == 200)
    assert taken == [validator.is_valid(body) for body in bodies]
