"""GET /healthz and /readyz: what supervisors are told, and everyone else."""

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
            "200": Response("It is.", content={"application/json": Media(model.kind(Health))}),
            **problems(*ANYWHERE),
        },
    )


HEALTH_PATHS = {
    "/healthz": read_operations(_ask("alive", "Whether the process is alive")),
    "/readyz": read_operations(_ask("ready", "Whether the server is able to serve: 503 while it shuts down")),
}
