"""Proxy marks: which proxies an answer has passed, by what each leaves in it."""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum


class Proxy(StrEnum):
    """The proxies whose cures are known."""

    NGINX = "nginx"
    CADDY = "Caddy"
    HAPROXY = "HAProxy"
    APACHE = "Apache"
    TRAEFIK = "Traefik"
    ALB = "ALB"
    CLOUDFLARE = "Cloudflare"
    VARNISH = "Varnish"


HEADER_MARKS: tuple[tuple[Proxy, str, re.Pattern[str]], ...] = tuple(
    (proxy, name, re.compile(pattern, re.IGNORECASE))
    for proxy, name, pattern in (
        (Proxy.NGINX, "server", r"nginx|openresty|tengine"),
        (Proxy.CADDY, "server", r"^caddy"),
        (Proxy.CADDY, "via", r"\bcaddy\b"),
        (Proxy.APACHE, "server", r"^apache"),
        (Proxy.ALB, "server", r"^awselb"),
        (Proxy.ALB, "set-cookie", r"^AWSALB"),
        (Proxy.ALB, "x-amzn-trace-id", r"."),
        (Proxy.CLOUDFLARE, "server", r"^cloudflare"),
        (Proxy.CLOUDFLARE, "cf-ray", r"."),
        (Proxy.VARNISH, "x-varnish", r"."),
        (Proxy.VARNISH, "via", r"varnish"),
        (Proxy.TRAEFIK, "server", r"^traefik"),
        (Proxy.HAPROXY, "server", r"haproxy"),
        (Proxy.HAPROXY, "via", r"haproxy"),
    )
)

BODY_MARKS: tuple[tuple[Proxy, re.Pattern[str]], ...] = (
    (Proxy.NGINX, re.compile(r"<center>(nginx|openresty)")),
    (Proxy.HAPROXY, re.compile(r"^<html><body><h1>\d{3} [\w ]+</h1>\n[^<]+\n</body></html>\n?$")),
    (Proxy.APACHE, re.compile(r"<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2\.0//EN\">")),
    (Proxy.CLOUDFLARE, re.compile(r"<center>cloudflare")),
)
"""Their own pages of errors. HAProxy leaves no header, and most are known by nothing else."""

GO_ERROR = re.compile(r"^400 Bad Request(: [a-z ]+)?$")
"""How Go's HTTP server refuses a malformed request: that of Caddy and of Traefik."""


def marks_of(headers: Mapping[str, str], body: str = "") -> set[Proxy]:
    """Return the proxies that an answer has passed; header names are matched without regard to case."""
    said = {name.lower(): value for name, value in headers.items()}
    found = {proxy for proxy, name, pattern in HEADER_MARKS if pattern.search(said.get(name, ""))}
    return found | {proxy for proxy, pattern in BODY_MARKS if pattern.search(body)}


def mark_of_refusal(headers: Mapping[str, str], body: str) -> set[Proxy]:
    """Return the proxies that an answer to a malformed request gives away."""
    found = marks_of(headers, body)
    # Traefik has no mark at all, and Caddy passes on the Server header of who is behind it.
    return found or ({Proxy.CADDY, Proxy.TRAEFIK} if GO_ERROR.match(body.strip()) else set())


def in_order(found: Iterable[Proxy]) -> tuple[Proxy, ...]:
    """Return proxies in the order of their declaration, each once."""
    seen = set(found)
    return tuple(proxy for proxy in Proxy if proxy in seen)
