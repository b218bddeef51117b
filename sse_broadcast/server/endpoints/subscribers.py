"""GET /subscribers and /subscribers/{id}: who is connected. DELETE ends the stream of one."""

import functools

from aiohttp import web

from sse_broadcast.auth.principal import Action
from sse_broadcast.channels import checked_names
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.access.authorization import require
from sse_broadcast.server.http import query
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.responses import Dismissed, SubscriberPage, answered
from sse_broadcast.server.services import BROADCASTER
from sse_broadcast.server.streams.registry import ROSTER, Order, Reader, Wanted

PARAMETERS = ("after", "channel", "limit", "sort")


async def subscribers(request: web.Request) -> web.Response:
    """Answer with the readers that are connected by HTTP: a page of all, or those that come first."""
    require(request, Action.INSPECT)
    query.refuse_misspelt(request.query, PARAMETERS)
    limit = query.limit(request)
    wanted = _wanted(query.only(request.query, "channel"))
    sort, after = query.only(request.query, "sort"), query.only(request.query, "after")
    if sort is not None and after is not None:
        raise Problem(400, "after: goes on in the order of opening, and not with sort")
    roster = request.app[ROSTER]
    if sort is not None:
        found = await roster.first(_order(sort), limit=limit, wanted=wanted)
        return answered(SubscriberPage(found, len(roster), None))
    found = await roster.page(after=_id(after), limit=limit + 1, wanted=wanted)
    page = found[:limit]
    return answered(SubscriberPage(page, len(roster), page[-1].id if len(found) > limit else None))


async def subscriber(request: web.Request) -> web.Response:
    """Answer with one reader."""
    require(request, Action.INSPECT)
    return answered(_reader(request).described())


async def dismiss(request: web.Request) -> web.Response:
    """End the stream of one reader, behind what was published for it."""
    require(request, Action.ADMIN)
    reader = _reader(request)
    request.app[BROADCASTER].end(reader.lane, CloseReason.DISMISSED)
    return answered(Dismissed("dismissed", str(reader.id)))


def _reader(request: web.Request) -> Reader:
    id = request.match_info["id"]
    reader = request.app[ROSTER].find(id)
    if reader is None:
        raise Problem(404, f"id: no stream has it: {id[:80]!a}")
    return reader


def _wanted(channel: str | None) -> Wanted | None:
    if channel is None:
        return None
    (name,) = checked_names((channel,))
    # Readers share their interests, and a pattern takes longer to match than to be remembered.
    return functools.cache(lambda interest: interest.covers(name))


def _order(text: str) -> Order:
    if text not in set(Order):
        raise Problem(400, f"sort: must be one of {', '.join(Order)}, not {text[:80]!a}")
    return Order(text)


def _id(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Problem(400, f"after: must be an id, not {text[:80]!a}")
    return int(text)
