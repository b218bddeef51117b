"""GET /channels and GET /channels/{channel}: who listens, and what is held."""

import msgspec
from aiohttp import web

from sse_broadcast.server import query
from sse_broadcast.server.problem import Problem
from sse_broadcast.server.state import BROADCASTER

PARAMETERS = ("after", "limit", "prefix")
PAGE = 100
MAX_PAGE = 1000


async def channels(request: web.Request) -> web.Response:
    """Answer with the channels that have history or readers, by name, a page at a time."""
    query.require_known(request, PARAMETERS)
    limit = _limit(query.only(request, "limit"))
    found = request.app[BROADCASTER].channels(
        prefix=query.only(request, "prefix") or "", after=query.only(request, "after") or "", limit=limit + 1
    )
    page = found[:limit]
    return _answer({"channels": page, "next": page[-1].channel if len(found) > limit else None})


async def channel(request: web.Request) -> web.Response:
    """Answer with one channel, whether anything was ever published there or not."""
    return _answer(request.app[BROADCASTER].channel(request.match_info["channel"]))


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_PAGE):
        raise Problem(400, f"limit: must be 1 to {MAX_PAGE}, not {text[:80]!a}")
    return int(text)


def _answer(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
