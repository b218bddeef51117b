"""The contract of GET / and GET /client.js."""

import json

from sse_broadcast.server.openapi.console import CONSOLE_PATHS
from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.security import SecuritySchemes
from tests.support.contract import operations


def test_what_a_browser_loads_needs_no_credential() -> None:
    """It sends none with a page or a module; 404 is for listeners that leave them out."""
    told = operations(json.loads(document(SecuritySchemes(secured=True))))
    loaded = [operation for operation in told if operation.target in CONSOLE_PATHS]
    assert len(loaded) == 3 * len(CONSOLE_PATHS)
    for operation in loaded:
        assert "security" not in operation.said
        assert operation.statuses - {200, 204} == {400, 404, 414, 417, 429, 431, 503}
