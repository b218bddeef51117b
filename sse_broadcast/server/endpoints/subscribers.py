"""GET /subscribers and /subscribers/{id}: who is connected. DELETE ends the stream of one."""

import functools

from aiohttp import web

from sse_broadcast.auth.principal import Action
from sse_broadcast.channels import validate_channels
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.access.authorization import require_permission
from sse_broadcast.server.http import query
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.responses import Disconnected, SubscriberPage, answered
from sse_broadcast.server.services import BROADCASTER
from sse_broadcast.server.streams.registry import STREAM_REGISTRY, SortKey, StreamEntry, Wanted

SUBSCRIBERS_PARAMETERS = ("after", "channel", "limit", "sort")


async def get_subscribers(request: web.Request) -> web.Response:
    """Answer with the readers that are connected by HTTP: a page of all, or those that come first."""
    require_permission(request, Action.INSPECT)
    query.refuse_misspelt(request.query, SUBSCRIBERS_PARAMETERS)
    limit = query.limit(request)
    wanted = _wanted(query.only(request.query, "channel"))
    sort, after = query.only(request.query, "sort"), query.only(request.query, "after")
    if sort is not None and after is not None:
        raise Problem(400, "after: goes on in the order of opening, and not with sort")
    registry = request.app[STREAM_REGISTRY]
    if sort is not None:
        found = await registry.top(_order(sort), limit=limit, wanted=wanted)
        return answered(SubscriberPage(found, len(registry), None))
    found = await registry.page(after=_id(after), limit=limit + 1, wanted=wanted)
    page = found[:limit]
    return answered(SubscriberPage(page, len(registry), page[-1].id if len(found) > limit else None))


async def get_subscriber(request: web.Request) -> web.Response:
    """Answer with one reader."""
    require_permission(request, Action.INSPECT)
    return answered(_reader(request).described())


async def delete_subscriber(request: web.Request) -> web.Response:
    """End the stream of one reader, behind what was published for it."""
    require_permission(request, Action.ADMIN)
    reader = _reader(request)
    request.app[BROADCASTER].end(reader.outbox, CloseReason.DISCONNECTED)
    return answered(Disconnected("disconnected", str(reader.id)))


def _reader(request: web.Request) -> StreamEntry:
    id = request.match_info["id"]
    reader = request.app[STREAM_REGISTRY].find(id)
    if reader is None:
        raise Problem(404, f"id: no stream has it: {id[:80]!a}")
    return reader


def _wanted(channel: str | None) -> Wanted | None:
    if channel is None:
        return None
    (name,) = validate_channels((channel,))
    # Readers share their interests, and a pattern takes longer to match than to be remembered.
    return functools.cache(lambda selector: selector.matches(name))


def _order(text: str) -> SortKey:
    if text not in set(SortKey):
        raise Problem(400, f"sort: must be one of {', '.join(SortKey)}, not {text[:80]!a}")
    return SortKey(text)


def _id(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Problem(400, f"after: must be an id, not {text[:80]!a}")
    return int(text)
