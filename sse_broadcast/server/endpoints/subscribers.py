"""GET /subscribers and /subscribers/{id}: the open streams. DELETE closes one."""

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
    """Return a page of the HTTP subscribers in the order of opening, or the first ones of another order."""
    require_permission(request, Action.INSPECT)
    query.refuse_misspelt(request.query, SUBSCRIBERS_PARAMETERS)
    limit = query.limit(request)
    wanted = _channel_filter(query.only(request.query, "channel"))
    sort, after = query.only(request.query, "sort"), query.only(request.query, "after")
    if sort is not None and after is not None:
        raise Problem(400, "after: cannot be combined with sort; pages are in the order of opening")
    registry = request.app[STREAM_REGISTRY]
    if sort is not None:
        first = await registry.top(_sort_key(sort), limit=limit, wanted=wanted)
        return answered(SubscriberPage(first, len(registry), None))
    entries = await registry.page(after=_parse_after(after), limit=limit + 1, wanted=wanted)
    page = entries[:limit]
    return answered(SubscriberPage(page, len(registry), page[-1].id if len(entries) > limit else None))


async def get_subscriber(request: web.Request) -> web.Response:
    """Return one HTTP subscriber."""
    require_permission(request, Action.INSPECT)
    return answered(_find(request).described())


async def delete_subscriber(request: web.Request) -> web.Response:
    """Close the stream of one subscriber, after its queued events."""
    require_permission(request, Action.ADMIN)
    entry = _find(request)
    request.app[BROADCASTER].end(entry.outbox, CloseReason.DISCONNECTED)
    return answered(Disconnected("disconnected", str(entry.id)))


def _find(request: web.Request) -> StreamEntry:
    id = request.match_info["id"]
    entry = request.app[STREAM_REGISTRY].find(id)
    if entry is None:
        raise Problem(404, f"id: no open stream has the id {id[:80]!a}")
    return entry


def _channel_filter(channel: str | None) -> Wanted | None:
    if channel is None:
        return None
    (name,) = validate_channels((channel,))
    # Subscribers share their selectors, and matching a pattern takes longer than a cache lookup.
    return functools.cache(lambda selector: selector.matches(name))


def _sort_key(text: str) -> SortKey:
    if text not in set(SortKey):
        raise Problem(400, f"sort: must be one of {', '.join(SortKey)}, not {text[:80]!a}")
    return SortKey(text)


def _parse_after(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Problem(400, f"after: must be an id, not {text[:80]!a}")
    return int(text)
