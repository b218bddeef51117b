"""POST /send?stream=1: publish the lines of one long request as they arrive."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from aiohttp import web

from sse_broadcast.errors import BroadcastError, ClosedError
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.server.access.authorization import PRINCIPAL, challenge
from sse_broadcast.server.endpoints import request_body
from sse_broadcast.server.endpoints.body_share import BodyShare
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
"""Maximum lines published in one iteration of the event loop."""

STOPPING = "the server is shutting down"

ENDS = {CloseReason.EXPIRED: "has expired", CloseReason.REVOKED: "was revoked"}
"""Error texts for a credential that ends during the request."""

ToDraft = Callable[[bytes], Draft | None]
"""A function that returns the draft of a line, or None for an empty line.

Raises `Problem` or `BroadcastError`.
"""

RateGate = Callable[[int], float]
"""A function that admits a number of events and returns 0.0, or returns the seconds to wait."""


class ShuttingDownError(TimeoutError):
    """Reading of a body was stopped by the server."""

    # A TimeoutError: after the response aiohttp reads and discards the rest of the body, and it ends that
    # without a traceback only for a TimeoutError.


class EndedError(ShuttingDownError):
    """The publisher's credential has expired or was revoked."""


class LineStream:
    """Publishes the lines of one long request.

    `most` is the maximum bytes of a line, `portion` the maximum lines published at once. The events count for
    the share of `publisher`.
    """

    # Backpressure: nothing is read while a portion is published or waits for the rate limit. The connection
    # fills up, and a publisher that is too fast waits.

    def __init__(  # noqa: PLR0913 - limits of the publisher
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
        self._disconnected: asyncio.CancelledError | None = None
        self._end_error: EndedError | None = None
        self._line_number = 0
        self._published = 0
        self._clients = 0
        self._last_receipt: Receipt | None = None

    async def run(self) -> web.Response:
        """Publish until the body ends. The response, or the raised `Problem`, has the number of events."""
        line_streams, stream_expiry = self._request.app[LINE_STREAMS], self._request.app[STREAM_EXPIRY]
        services = services_of(self._request)
        tracked_stream = stream_expiry.track_publisher(
            self._request[PRINCIPAL], address=key(services.proxies.behind(self._request))
        )
        line_streams.add(self._request.content)
        try:
            if tracked_stream is not None:
                tracked_stream.begin(self._end)
            await self._read(timeout=services.config.body_timeout)
        except request_body.LateLineError:
            late = f"line {self._line_number + 1}: did not arrive within {services.config.body_timeout:g} s"
            raise self._problem(408, late) from None
        except EndedError as error:
            raise self._problem(401, str(error), headers=challenge("invalid_token")) from None
        except ShuttingDownError as error:
            raise self._problem(503, str(error)) from None
        except (Problem, BroadcastError) as error:
            raise self._problem_of(error) from None
        finally:
            line_streams.discard(self._request.content)
            if tracked_stream is not None:
                stream_expiry.close(tracked_stream)
        return self._answer()

    async def _read(self, *, timeout: float) -> None:  # noqa: ASYNC109 - of a line
        with BodyShare(self._request) as held:
            async for lines in request_body.lines(
                self._request, most=self._most, timeout=timeout, on_size=held.resize
            ):
                await self._publish_lines(lines)

    def _end(self, reason: CloseReason) -> None:
        """Stop publishing, also the lines that have arrived already. The expiry of streams calls it."""
        self._end_error = EndedError(f"token: {ENDS[reason]}")
        self._request.content.set_exception(self._end_error)

    async def _publish_lines(self, lines: list[bytes]) -> None:
        """Publish lines, one portion in each iteration of the event loop."""
        # A client that disconnects here has sent these lines completely. They are published before the
        # cancellation goes on, unless that has to wait for the rate limit.
        for begin in range(0, len(lines), self._portion):
            await self._publish_portion(lines[begin : begin + self._portion])
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as error:
                self._disconnected = error
        if self._disconnected is not None:
            raise self._disconnected

    async def _publish_portion(self, lines: list[bytes]) -> None:
        """Publish lines up to the first bad one, and raise its `Problem`."""
        drafts: list[Draft] = []
        fault: Problem | None = None
        for line in lines:
            self._line_number += 1
            try:
                if (draft := self._draft(line)) is not None:
                    drafts.append(draft)
            except (Problem, BroadcastError) as error:
                fault = at_line(error, f"line {self._line_number}")
                break
        if drafts:
            await self._wait_for_rate(len(drafts))
            self._require_valid_credential()
            self._last_receipt = await self._request.app[BROADCASTER].publish_all(
                drafts, publisher=self._publisher
            )
            self._published += len(drafts)
            self._clients = max(self._clients, self._last_receipt.clients)
            tell_published(self._last_receipt, self._request[PRINCIPAL], *lines)
        if fault is not None:
            raise fault

    async def _wait_for_rate(self, count: int) -> None:
        """Wait until the rate limit admits `count` events. Raises `Problem` or `ShuttingDownError`."""
        draining = self._request.app[DRAINING]
        while wait := self._pace(count):
            if self._disconnected is not None:
                raise self._disconnected
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await draining.wait()
            self._require_valid_credential()
            if draining.is_set():
                raise ShuttingDownError(STOPPING)
            if (error := self._request.content.exception()) is not None:
                raise request_body.unreadable(error)  # the client has disconnected

    def _require_valid_credential(self) -> None:
        if self._end_error is not None:
            raise self._end_error
        confirm(self._request)

    def _draft(self, line: bytes) -> Draft | None:
        if len(line) > self._most:
            raise Problem(413, f"more than {self._most} bytes")
        return self._to_draft(line.removesuffix(b"\r"))

    def _problem_of(self, error: Problem | BroadcastError) -> Problem:
        if isinstance(error, ClosedError):
            return self._problem(503, STOPPING)
        problem = at_line(error, "stream") if isinstance(error, BroadcastError) else error
        return self._problem(problem.status, problem.detail, headers=problem.headers)

    def _problem(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> Problem:
        detail = f"{detail}; {self._published} published"
        return Problem(status, detail, headers=headers, closes=True, more={"published": self._published})

    def _answer(self) -> web.Response:
        last = self._last_receipt.id if self._last_receipt else None
        return answered(SentBatch("sent", self._published, self._clients, last))


def end_line_streams(app: web.Application) -> None:
    """End every open line stream with a 503 response. Called at the start of the drain."""
    app[DRAINING].set()
    for content in app[LINE_STREAMS]:
        content.set_exception(ShuttingDownError(STOPPING))
