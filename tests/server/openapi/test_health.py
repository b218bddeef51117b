"""The OpenAPI operations GET /healthz and /readyz."""

import json

from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.health import HEALTH_PATHS
from sse_broadcast.server.openapi.security import SecuritySchemes
from tests.support.contract import operations


def test_health_needs_no_credential() -> None:
    """The only refusal is that of a full server."""
    documented = operations(json.loads(document(SecuritySchemes(secured=True))))
    of_health = [operation for operation in documented if operation.said["tags"] == ["health"]]
    assert len(of_health) == 3 * len(HEALTH_PATHS)
    for operation in of_health:
        assert "security" not in operation.said
        assert operation.statuses - {200, 204} == {400, 414, 417, 429, 431, 503}
