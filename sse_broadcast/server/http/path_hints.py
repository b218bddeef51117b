"""Path hints: what a client with a wrong path or method probably meant, for 404 and 405 answers."""

import re
from collections.abc import Collection, Mapping

from sse_broadcast.config.schema import Endpoint
from sse_broadcast.config.suggestions import nearest

SUBSCRIBING = "GET /events subscribes"
PUBLISHING = "POST /send publishes"

PLACES: Mapping[str, tuple[Endpoint | None, str]] = {
    "/events": (Endpoint.SUBSCRIBE, SUBSCRIBING),
    "/send": (Endpoint.PUBLISH, PUBLISHING),
    "/status": (Endpoint.INSPECT, "GET /status reports on the server"),
    "/channels": (Endpoint.INSPECT, "GET /channels lists channels"),
    "/subscribers": (Endpoint.INSPECT, "GET /subscribers lists subscribers"),
    "/metrics": (Endpoint.INSPECT, "GET /metrics is for Prometheus"),
    "/openapi.json": (Endpoint.INSPECT, "GET /openapi.json describes the interface"),
    "/tokens": (Endpoint.ADMIN, "POST /tokens makes a token"),
    "/revoke": (Endpoint.ADMIN, "POST /revoke revokes tokens"),
    "/reload": (Endpoint.ADMIN, "POST /reload reloads the configuration"),
    "/config": (Endpoint.ADMIN, "GET /config returns the configuration"),
    "/client.js": (Endpoint.SUBSCRIBE, "GET /client.js is a module for pages"),
    "/healthz": (None, "GET /healthz says whether the server is alive"),
    "/readyz": (None, "GET /readyz says whether it can serve"),
}
"""The endpoint set and the purpose of each path. None as the set means that every listener serves it."""

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("sub", "subscribe", "sse", "stream", "topics", "listen"), "/events"),
    **dict.fromkeys(("pub", "publish", "post", "broadcast", "push", "api"), "/send"),
    **dict.fromkeys(("health", "live", "livez", "ping"), "/healthz"),
    **dict.fromkeys(("ready", "readiness"), "/readyz"),
    **dict.fromkeys(("openapi", "docs", "swagger", "swagger.json"), "/openapi.json"),
    "clients": "/subscribers",
    "client": "/client.js",
    "token": "/tokens",
    ".well-known": "/events",
}
"""First parts of paths in other products (nchan, Centrifugo, Mercure, ntfy), and our path for each."""

_EMPTY_CHANNEL = re.compile(r"/(events|send|channels)/+")


def hint(path: str, served: Collection[Endpoint]) -> str:
    """Return a hint at the path that was probably meant, among those that the listener serves."""
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
    """Return a hint at the path that the method was probably meant for."""
    if path.startswith("/events") and method in {"POST", "PUT"} and Endpoint.PUBLISH in served:
        return f"; {PUBLISHING.replace('/send', path.replace('/events', '/send', 1)[:80])}"
    if path.startswith("/send") and method in {"GET", "HEAD"} and Endpoint.SUBSCRIBE in served:
        return f"; {SUBSCRIBING.replace('/events', path.replace('/send', '/events', 1)[:80])}"
    return ""


def _is_served(place: str, served: Collection[Endpoint]) -> bool:
    endpoint = PLACES[place][0]
    return endpoint is None or endpoint in served
