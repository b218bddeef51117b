"""POST /send?stream=1: one long request, published line by line as its lines arrive."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from aiohttp import web

from sse_broadcast.errors import BroadcastError, ClosedError
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.server.access.authorization import PRINCIPAL, challenge
from sse_broadcast.server.endpoints import request_body
from sse_broadcast.server.endpoints.held_body import HeldBody
from sse_broadcast.server.endpoints.publish_request import at_line
from sse_broadcast.server.http.client_address import key
from sse_broadcast.server.http.log import tell_published
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.responses import SentBatch, answered
from sse_broadcast.server.services import (
    BROADCASTER,
    DRAINING,
    LINE_STREAMS,
    STREAM_EXPIRY,
    confirm,
    services_of,
)

LINES_PER_PUBLISH = 256
"""Lines published at once: then readers, and everyone else, have their turn."""

STOPPING = "the server is shutting down"

ENDS = {CloseReason.EXPIRED: "has expired", CloseReason.REVOKED: "was revoked"}
"""Why a publisher's stream ends before it does so itself."""

ToDraft = Callable[[bytes], Draft | None]
"""Makes a draft of a line, or nothing of an empty one. Raises `Problem` or `BroadcastError` for a bad one."""

RateGate = Callable[[int], float]
"""Allows so many events and gives 0.0, or allows none and gives the seconds to wait before asking again."""


class ShuttingDownError(TimeoutError):
    """A body is read no further.

    A TimeoutError, since aiohttp goes on to read, and to ignore, what is left of a body when
    it has been answered: nothing else ends that without a traceback.
    """


class EndedError(ShuttingDownError):
    """The credential of its publisher is no longer good."""


class LineStream:
    """What one long request has published so far.

    It takes no more from its publisher than it has published: a publisher that is faster than the
    server, or than `pace` allows, waits as its connection fills up. `most` bytes may be in a line,
    `portion` lines are published at once, in the share of a `publisher`.
    """

    def __init__(  # noqa: PLR0913 - what it is told of its publisher
        self,
        request: web.Request,
        to_draft: ToDraft,
        *,
        most: int,
        pace: RateGate,
        portion: int = LINES_PER_PUBLISH,
        publisher: str = "",
    ) -> None:
        self._request = request
        self._to_draft = to_draft
        self._most = most
        self._pace = pace
        self._portion = portion
        self._publisher = publisher
        self._hung_up: asyncio.CancelledError | None = None
        self._ended: EndedError | None = None
        self._line = 0
        self._count = 0
        self._clients = 0
        self._last: Receipt | None = None

    async def run(self) -> web.Response:
        """Publish until the body ends, and say how much that was. Raises `Problem`, which says so too."""
        line_streams, sessions = self._request.app[LINE_STREAMS], self._request.app[STREAM_EXPIRY]
        services = services_of(self._request)
        session = sessions.track_publisher(
            self._request[PRINCIPAL], address=key(services.proxies.behind(self._request))
        )
        line_streams.add(self._request.content)
        try:
            if session is not None:
                session.begin(self._end)
            await self._read(timeout=services.config.body_timeout)
        except request_body.LateLineError:
            late = f"line {self._line + 1}: did not arrive within {services.config.body_timeout:g} s"
            raise self._told(408, late) from None
        except EndedError as error:
            raise self._told(401, str(error), headers=challenge("invalid_token")) from None
        except ShuttingDownError as error:
            raise self._told(503, str(error)) from None
        except (Problem, BroadcastError) as error:
            raise self._ended_by(error) from None
        finally:
            line_streams.discard(self._request.content)
            if session is not None:
                sessions.close(session)
        return self._answer()

    async def _read(self, *, timeout: float) -> None:  # noqa: ASYNC109 - of a line
        with HeldBody(self._request) as held:
            async for lines in request_body.lines(
                self._request, most=self._most, timeout=timeout, on_size=held.resize
            ):
                await self._take(lines)

    def _end(self, reason: CloseReason) -> None:
        """Publish nothing more, whatever has come already."""
        self._ended = EndedError(f"token: {ENDS[reason]}")
        self._request.content.set_exception(self._ended)

    async def _take(self, lines: list[bytes]) -> None:
        """Publish lines, a portion in each turn of the loop.

        A publisher that hangs up meanwhile has sent them already: they are published first, as far as
        that takes no waiting.
        """
        for begin in range(0, len(lines), self._portion):
            await self._publish(lines[begin : begin + self._portion])
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as error:
                self._hung_up = error
        if self._hung_up is not None:
            raise self._hung_up

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
                fault = at_line(error, f"line {self._line}")
                break
        if drafts:
            await self._allowed(len(drafts))
            self._require_good()
            self._last = await self._request.app[BROADCASTER].publish_all(drafts, publisher=self._publisher)
            self._count += len(drafts)
            self._clients = max(self._clients, self._last.clients)
            tell_published(self._last, self._request[PRINCIPAL], *lines)
        if fault is not None:
            raise fault

    async def _allowed(self, count: int) -> None:
        """Wait until so many events may be published. Raises `Problem` or `ShuttingDownError` if never."""
        draining = self._request.app[DRAINING]
        while wait := self._pace(count):
            if self._hung_up is not None:
                raise self._hung_up
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await draining.wait()
            self._require_good()
            if draining.is_set():
                raise ShuttingDownError(STOPPING)
            if (error := self._request.content.exception()) is not None:
                raise request_body.broken(error)  # as reading on would tell: the publisher has gone

    def _require_good(self) -> None:
        if self._ended is not None:
            raise self._ended
        confirm(self._request)

    def _drafted(self, line: bytes) -> Draft | None:
        if len(line) > self._most:
            raise Problem(413, f"more than {self._most} bytes")
        return self._to_draft(line.removesuffix(b"\r"))

    def _ended_by(self, error: Problem | BroadcastError) -> Problem:
        if isinstance(error, ClosedError):
            return self._told(503, STOPPING)
        problem = at_line(error, "stream") if isinstance(error, BroadcastError) else error
        return self._told(problem.status, problem.detail, headers=problem.headers)

    def _told(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> Problem:
        detail = f"{detail}; {self._count} published"
        return Problem(status, detail, headers=headers, closes=True, more={"published": self._count})

    def _answer(self) -> web.Response:
        last = self._last.id if self._last else None
        return answered(SentBatch("sent", self._count, self._clients, last))


def end_line_streams(app: web.Application) -> None:
    """Have every long request that is still being read end with an answer."""
    app[DRAINING].set()
    for content in app[LINE_STREAMS]:
        content.set_exception(ShuttingDownError(STOPPING))
