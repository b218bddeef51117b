"""CORS probe: whether the pages of an origin may read streams, and publish."""

from collections.abc import Mapping

from sse_broadcast.doctor.connection import ProbeConnection
from sse_broadcast.doctor.findings import Fault, Finding, ok, skipped
from sse_broadcast.doctor.stream_probes import fault

ALLOWED = "access-control-allow-origin"
ALLOW_CREDENTIALS = "access-control-allow-credentials"


async def probe_cors(connection: ProbeConnection, channel: str, origin: str | None) -> Finding:
    """Ask as a page of the origin does."""
    probe = "CORS"
    if origin is None:
        return skipped(probe, "give --origin https://your.site to examine it")
    async with connection.stream(f"/events/{channel}", Origin=origin) as stream:
        if stream is None:
            return skipped(probe, "no stream")
        problem = cors_problem(stream.headers, origin)
    if problem:
        meaning = f"pages of {origin} cannot read a stream, and their EventSource says nothing but `error`"
        return fault(Fault.CORS, probe, problem, meaning)
    preflight = await connection.ask(
        "OPTIONS",
        f"/send/{channel}",
        Origin=origin,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="content-type",
    )
    status = "nothing" if preflight is None else preflight.status
    if preflight is None or not 200 <= preflight.status < 300 or cors_problem(preflight.headers, origin):
        seen = f"a preflight for /send was answered with {status}, and no leave"
        return fault(Fault.CORS, probe, seen, f"pages of {origin} can read streams, and cannot publish")
    return ok(probe, f"pages of {origin} may subscribe and publish")


def cors_problem(headers: Mapping[str, str], origin: str) -> str:
    """Return what keeps pages of the origin from reading an answer, "" for nothing."""
    allowed = headers.get(ALLOWED)
    if allowed is None:
        return "no Access-Control-Allow-Origin"
    if "," in allowed:
        return f"Access-Control-Allow-Origin is there twice: {allowed[:80]!a}"
    if allowed not in {origin, "*"}:
        return f"Access-Control-Allow-Origin is {allowed[:80]!a}"
    if allowed == "*" and headers.get(ALLOW_CREDENTIALS) == "true":
        return "Access-Control-Allow-Origin is '*' with credentials, which browsers refuse"
    return ""
