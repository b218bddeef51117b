"""Refusal of a stream, in the form that its client comes back from."""

from aiohttp import hdrs, web
from multidict import MultiMapping

from sse_broadcast.server.http import last_event_id
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.refused_stream import refused_stream, wants_event_stream


def turn_away(request: web.Request, problem: Problem, said: MultiMapping[str]) -> Problem:
    """Return the problem, with a stream in its place if the subscriber should come back and takes one."""
    problem.closes = True
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    if problem.reason is not None and wants_event_stream(accept):
        headers, block = refused_stream(
            problem.reason,
            brought=last_event_id.brought(request.headers, said),
            retry_after=int(problem.headers.get(hdrs.RETRY_AFTER, 0)),
        )
        problem.instead = web.Response(body=block, headers=headers)
        problem.instead.force_close()
    return problem
