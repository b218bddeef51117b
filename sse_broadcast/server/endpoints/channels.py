"""GET /channels and GET /channels/{channel}: the subscribers and the history of channels."""

from aiohttp import web

from sse_broadcast.auth.principal import Action
from sse_broadcast.channels import compile_patterns, validate_channels
from sse_broadcast.server.access.authorization import PRINCIPAL, require_any_channel, require_permission
from sse_broadcast.server.http import query
from sse_broadcast.server.http.responses import ChannelPage, answered
from sse_broadcast.server.services import BROADCASTER, caller_of

CHANNELS_PARAMETERS = ("after", "limit", "prefix")


async def get_channels(request: web.Request) -> web.Response:
    """Return a page of the channels with history or subscribers, by name.

    The list has only channels that the caller may inspect.
    """
    require_any_channel(request, Action.INSPECT)
    query.refuse_misspelt(request.query, CHANNELS_PARAMETERS)
    limit = query.limit(request)
    principal = request[PRINCIPAL]
    channels = await request.app[BROADCASTER].list_channels(
        prefix=query.only(request.query, "prefix") or "",
        after=query.only(request.query, "after") or "",
        limit=limit + 1,  # one more shows whether there is a next page
        visible=None
        if principal.allows(Action.INSPECT)
        else compile_patterns(*principal.grants[Action.INSPECT]),
        caller=caller_of(request),
    )
    page = channels[:limit]
    return answered(ChannelPage(page, page[-1].channel if len(channels) > limit else None))


async def get_channel(request: web.Request) -> web.Response:
    """Return the state of a channel, also of one never used."""
    require_any_channel(request, Action.INSPECT)
    (name,) = validate_channels((request.match_info["channel"],))
    require_permission(request, Action.INSPECT, (name,))
    return answered(request.app[BROADCASTER].channel(name))
