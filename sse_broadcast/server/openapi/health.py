"""OpenAPI operations of the probes GET /healthz and /readyz."""

from sse_broadcast.server.http.responses import Health
from sse_broadcast.server.openapi import model
from sse_broadcast.server.openapi.model import Media, Operation, Response
from sse_broadcast.server.openapi.operations import ANYWHERE, problems, read_operations


def _ask(name: str, summary: str) -> Operation:
    return Operation(
        name,
        summary,
        tags=["health"],
        responses={
            "200": Response("Yes.", content={"application/json": Media(model.kind(Health))}),
            **problems(*ANYWHERE),
        },
    )


HEALTH_PATHS = {
    "/healthz": read_operations(_ask("alive", "Check that the process is alive")),
    "/readyz": read_operations(
        _ask("ready", "Check that the server accepts requests: 503 while it shuts down")
    ),
}
