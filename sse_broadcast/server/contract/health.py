"""GET /healthz and /readyz: what supervisors are told, and everyone else."""

from sse_broadcast.server.answers import Health
from sse_broadcast.server.contract import fields
from sse_broadcast.server.contract.methods import read
from sse_broadcast.server.contract.problems import ANYWHERE, problems
from sse_broadcast.server.contract.words import Answer, Media, Operation


def _ask(name: str, summary: str) -> Operation:
    return Operation(
        name,
        summary,
        tags=["health"],
        responses={
            "200": Answer("It is.", content={"application/json": Media(fields.kind(Health))}),
            **problems(*ANYWHERE),
        },
    )


PATHS = {
    "/healthz": read(_ask("alive", "Whether the process is alive")),
    "/readyz": read(_ask("ready", "Whether the server is able to serve: 503 while it shuts down")),
}
