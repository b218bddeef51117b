"""Grants: what a caller may do is asked when its request comes, and again right before that is done."""

from aiohttp import web

from sse_broadcast.auth.access import Access
from sse_broadcast.server.gate import ACCESS
from sse_broadcast.server.state import setup_of


def confirm(request: web.Request) -> Access:
    """Return what the caller of a request may do, if its credential is still good. Raises `Problem`.

    A handler that has awaited anything since its request came calls this right before its act, and awaits
    nothing in between: meanwhile the credential may have expired, or been revoked. A reload makes no
    difference: what came before it goes by the grants that it came with.
    """
    access = request[ACCESS]
    if access.subject is not None:  # what shows no credential has none that could be revoked
        setup_of(request).gate.require_good(access)
    return access
