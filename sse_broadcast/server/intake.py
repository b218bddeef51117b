"""POST /send?stream=1: one long request, published line by line as its lines arrive."""

import asyncio
from collections.abc import Callable

import msgspec
from aiohttp import web

from sse_broadcast.errors import BroadcastError, ClosedError
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.server import body
from sse_broadcast.server.message import placed
from sse_broadcast.server.problem import Problem
from sse_broadcast.server.state import BROADCASTER, INTAKES

SLICE = 256
"""Lines published at once: then readers, and everyone else, have their turn."""

ToDraft = Callable[[bytes], Draft | None]
"""Makes a draft of a line, or nothing of an empty one. Raises `Problem` or `BroadcastError` for a bad one."""


class DrainedError(TimeoutError):
    """A body is read no further.

    A TimeoutError, since aiohttp goes on to read, and to ignore, what is left of a body when
    it has been answered: nothing else ends that without a traceback.
    """


class Intake:
    """What one long request has published so far.

    It takes no more from its publisher than it has published: a publisher that is faster than the
    server waits, as its connection fills up.
    """

    def __init__(self, request: web.Request, to_draft: ToDraft, *, most: int) -> None:
        self._request = request
        self._to_draft = to_draft
        self._most = most
        self._line = 0
        self._count = 0
        self._clients = 0
        self._last: Receipt | None = None

    async def run(self) -> web.Response:
        """Publish until the body ends, and say how much that was. Raises `Problem`, which says so too."""
        intakes = self._request.app[INTAKES]
        intakes.add(self._request.content)
        try:
            async for lines in body.lines(self._request, most=self._most):
                await self._take(lines)
        except DrainedError as error:
            raise self._told(503, str(error)) from None
        except (Problem, BroadcastError) as error:
            raise self._ended_by(error) from None
        finally:
            intakes.discard(self._request.content)
        return self._answer()

    async def _take(self, lines: list[bytes]) -> None:
        """Publish lines, a slice in each turn of the loop.

        A publisher that hangs up meanwhile has sent them already: they are published first.
        """
        hung_up: asyncio.CancelledError | None = None
        for begin in range(0, len(lines), SLICE):
            await self._publish(lines[begin : begin + SLICE])
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as error:
                hung_up = error
        if hung_up is not None:
            raise hung_up

    async def _publish(self, lines: list[bytes]) -> None:
        """Publish lines up to the first bad one, and then say which that is."""
        drafts: list[Draft] = []
        fault: Problem | None = None
        for line in lines:
            self._line += 1
            try:
                if (draft := self._drafted(line)) is not None:
                    drafts.append(draft)
            except (Problem, BroadcastError) as error:
                fault = placed(error, f"line {self._line}")
                break
        if drafts:
            self._last = await self._request.app[BROADCASTER].publish_all(drafts)
            self._count += len(drafts)
            self._clients = max(self._clients, self._last.clients)
        if fault is not None:
            raise fault

    def _drafted(self, line: bytes) -> Draft | None:
        if len(line) > self._most:
            raise Problem(413, f"more than {self._most} bytes")
        return self._to_draft(line.removesuffix(b"\r"))

    def _ended_by(self, error: Problem | BroadcastError) -> Problem:
        if isinstance(error, ClosedError):
            return self._told(503, "the server is shutting down")
        problem = placed(error, "stream") if isinstance(error, BroadcastError) else error
        return self._told(problem.status, problem.detail)

    def _told(self, status: int, detail: str) -> Problem:
        detail = f"{detail}; {self._count} were published"
        return Problem(status, detail, closes=True, more={"published": self._count})

    def _answer(self) -> web.Response:
        last = self._last
        content = {
            "status": "sent",
            "count": self._count,
            "clients": self._clients,
            "id": last.id if last else None,
        }
        return web.Response(body=msgspec.json.encode(content), content_type="application/json")


def end_intakes(app: web.Application) -> None:
    """Have every long request that is still being read end with an answer."""
    for content in app[INTAKES]:
        content.set_exception(DrainedError("the server is shutting down"))
