"""Hints in 404 and 405 answers: what the path or the method may have meant."""

import re
from collections.abc import Collection, Mapping

from sse_broadcast.config.schema import Endpoint
from sse_broadcast.config.suggestions import nearest

SUBSCRIBING = "GET /events subscribes"
PUBLISHING = "POST /send publishes"

PLACES: Mapping[str, tuple[Endpoint | None, str]] = {
    "/events": (Endpoint.SUBSCRIBE, SUBSCRIBING),
    "/send": (Endpoint.PUBLISH, PUBLISHING),
    "/status": (Endpoint.INSPECT, "GET /status tells of the server"),
    "/channels": (Endpoint.INSPECT, "GET /channels lists channels"),
    "/subscribers": (Endpoint.INSPECT, "GET /subscribers lists subscribers"),
    "/metrics": (Endpoint.INSPECT, "GET /metrics is for Prometheus"),
    "/openapi.json": (Endpoint.INSPECT, "GET /openapi.json describes all of it"),
    "/tokens": (Endpoint.ADMIN, "POST /tokens makes a token"),
    "/revoke": (Endpoint.ADMIN, "POST /revoke refuses one"),
    "/reload": (Endpoint.ADMIN, "POST /reload reads the configuration again"),
    "/healthz": (None, "GET /healthz says whether the server is alive"),
    "/readyz": (None, "GET /readyz says whether it can serve"),
}
"""What each path is for, and what a listener must serve for it to be there."""

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("sub", "subscribe", "sse", "stream", "topics", "listen"), "/events"),
    **dict.fromkeys(("pub", "publish", "post", "broadcast", "push", "api"), "/send"),
    **dict.fromkeys(("health", "live", "livez", "ping"), "/healthz"),
    **dict.fromkeys(("ready", "readiness"), "/readyz"),
    **dict.fromkeys(("openapi", "docs", "swagger", "swagger.json"), "/openapi.json"),
    "clients": "/subscribers",
    "token": "/tokens",
    ".well-known": "/events",
}
"""First parts of paths of other products (nchan, Centrifugo, Mercure, ntfy), and what is meant here."""

_EMPTY_CHANNEL = re.compile(r"/(events|send|channels)/+")


def hint(path: str, served: Collection[Endpoint]) -> str:
    """Return what stands where something like this path was looked for, of what a listener serves."""
    if empty := _EMPTY_CHANNEL.fullmatch(path):
        place = f"/{empty[1]}"
        if _is_served(place, served):
            what = "lists all" if place == "/channels" else "is the channel `default`"
            return f"; the name of the channel is empty: {place} {what}, {place}/NAME is one by its name"
    first = next(filter(None, path.split("/")), "").lower()
    meant = ELSEWHERE.get(first) or nearest(f"/{first}", PLACES) or f"/{first}"
    if meant in PLACES and _is_served(meant, served):
        return f"; {PLACES[meant][1]}"
    told = [PLACES[place][1] for place in ("/events", "/send") if _is_served(place, served)]
    return f"; {', '.join(told)}" if told else ""


def other_method(path: str, method: str, served: Collection[Endpoint]) -> str:
    """Return what does at another path what was probably meant by this method."""
    if path.startswith("/events") and method in {"POST", "PUT"} and Endpoint.PUBLISH in served:
        return f"; {PUBLISHING.replace('/send', path.replace('/events', '/send', 1)[:80])}"
    if path.startswith("/send") and method in {"GET", "HEAD"} and Endpoint.SUBSCRIBE in served:
        return f"; {SUBSCRIBING.replace('/events', path.replace('/send', '/events', 1)[:80])}"
    return ""


def _is_served(place: str, served: Collection[Endpoint]) -> bool:
    endpoint = PLACES[place][0]
    return endpoint is None or endpoint in served
