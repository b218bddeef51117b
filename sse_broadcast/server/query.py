"""What a query may say: known parameters, and those that are nearly known."""

import difflib
from collections.abc import Collection

from aiohttp import web

from sse_broadcast.server.problem import Problem

NEARLY = 0.8
"""difflib's ratio from which a parameter is taken for a typing error."""

PAGE = 100
MAX_PAGE = 1000
"""What an answer lists, if it is not said, and at most."""


def require_known(request: web.Request, known: Collection[str]) -> None:
    """Refuse a parameter that is nearly a known one; others are nobody's business, and ignored."""
    for name in request.query:
        if name in known:
            continue
        # A typing error must not give, or publish, something else than was meant.
        if meant := difflib.get_close_matches(name, known, n=1, cutoff=NEARLY):
            raise Problem(400, f"{name[:80]}: unknown parameter; {meant[0]} was meant?")


def only(request: web.Request, name: str) -> str | None:
    """Give a parameter that may be there once, or None."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise Problem(400, f"{name}: is given {len(values)} times")
    return values[0] if values else None


def limit(request: web.Request) -> int:
    """Give how many an answer may list. Raises `Problem`."""
    text = only(request, "limit")
    if text is None:
        return PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_PAGE):
        raise Problem(400, f"limit: must be 1 to {MAX_PAGE}, not {text[:80]!a}")
    return int(text)


def channels(request: web.Request) -> list[str]:
    """Give the channels that a path's comma list and `channel=` name, in that order; they may be none."""
    path = request.match_info.get("channels")
    named = [] if path is None else path.split(",")
    return named + (request.query.getall("channel", []) if request.query_string else [])
