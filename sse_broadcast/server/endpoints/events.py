"""GET and POST /events: a stream of what is published.

Each handler asks in this order: who is it (before it is called), may it subscribe at all, how many channels
does it name, may it subscribe to them, and only then what else it says.
"""

import functools
from collections.abc import Awaitable, Mapping

from aiohttp import hdrs, web
from multidict import MultiMapping

from sse_broadcast.auth.principal import Action
from sse_broadcast.channels import MAX_NAME_LENGTH
from sse_broadcast.errors import ClosedError, FullError, SinkClosedError
from sse_broadcast.server.access.authorization import (
    IN_QUERY,
    PRINCIPAL,
    require_any_channel,
    require_permission,
)
from sse_broadcast.server.access.shares import Callers, callers_of
from sse_broadcast.server.endpoints import request_body
from sse_broadcast.server.endpoints.subscribe_request import (
    Permit,
    SubscribeRequest,
    parse_subscribe,
    read_body,
    read_subscribe,
)
from sse_broadcast.server.http import last_event_id
from sse_broadcast.server.http.client_address import key
from sse_broadcast.server.http.log import log_foreign_page
from sse_broadcast.server.http.problem import Problem, problem_of
from sse_broadcast.server.http.refused_stream import RefusalReason, refused_stream, wants_event_stream
from sse_broadcast.server.process.body_decoder import DECODER
from sse_broadcast.server.services import (
    ACTIVE_SERVICES,
    BROADCASTER,
    OWN_LISTENER,
    SHARES,
    STREAM_EXPIRY,
    Services,
    caller_of,
    confirm,
)
from sse_broadcast.server.streams.expiry import TrackedStream
from sse_broadcast.server.streams.head import ALREADY_SENT, SseResponse, chunked_response_head
from sse_broadcast.server.streams.registry import STREAM_REGISTRY
from sse_broadcast.server.streams.sink import TransportSink
from sse_broadcast.server.transport.socket_options import tune_connection
from sse_broadcast.wire import JSON_TYPE

GONE = 499
"""nginx's status for a client that left before its answer; nobody reads it."""


BODY = 16_384
"""Bytes of a body of POST /events, beside the names of its channels."""


class Events:
    """The handlers of an application's /events: what they need of it they have at hand."""

    def __init__(self, app: web.Application) -> None:
        self._broadcaster = app[BROADCASTER]
        self._active = app[ACTIVE_SERVICES]
        self._registry = app[STREAM_REGISTRY]
        self._sessions = app[STREAM_EXPIRY]
        self._shares = app[SHARES]
        self._tuned = app[OWN_LISTENER]

    # Not a coroutine: a stream would keep its frame, some 300 bytes, for its whole life.
    def get(self, request: web.Request) -> Awaitable[web.StreamResponse]:
        """Stream to a subscriber until it leaves or is made to."""
        require_any_channel(request, Action.SUBSCRIBE)
        if request.body_exists:
            return self._get_with_body(request)
        return self._open(request, read_subscribe(request, self._permit(request)), request.query)

    @staticmethod
    def _permit(request: web.Request) -> Permit:
        return functools.partial(require_permission, request, Action.SUBSCRIBE)

    async def _get_with_body(self, request: web.Request) -> web.StreamResponse:
        # Some proxies make an empty chunked body of none.
        await request_body.require_empty(request, timeout=self._active.services.config.body_timeout)
        confirm(request)
        return await self._open(request, read_subscribe(request, self._permit(request)), request.query)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Do what `get` does, for what a JSON body says: a list of channels may be too long for a URL."""
        require_any_channel(request, Action.SUBSCRIBE)
        declared = request_body.body_type(request)
        if declared.name != JSON_TYPE:
            detail = f"Content-Type: must be {JSON_TYPE}, to subscribe as the body says; POST /send publishes"
            raise Problem(415, detail, closes=True)
        if request.query.keys() - {IN_QUERY}:
            raise Problem(400, "query: POST /events says everything in its body", closes=True)
        config = self._active.services.config
        most = BODY + (MAX_NAME_LENGTH + 4) * config.max_channels
        data = await request_body.read_text(request, declared, most=most, timeout=config.body_timeout)
        # Above 256 KiB only where `max_channels` allows more than a thousand.
        read = functools.partial(read_body, data, most=config.max_channels)
        said = await request.app[DECODER].run(read, size=len(data))
        confirm(request)
        return await self._open(request, parse_subscribe(request, said, self._permit(request)), said)

    async def _open(
        self, request: web.Request, asked: SubscribeRequest, said: MultiMapping[str]
    ) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        session, follows = None, False
        services = self._active.services
        client = services.proxies.behind(request)
        callers = callers_of(principal, key(client or request.remote))
        try:
            self._require_open(services, callers)
            session = self._sessions.track(principal, address=None if client is None else key(client))
            if callers:
                new, left = self._broadcaster.room_for(asked.selector)
                self._shares.follow(callers, asked.selector, new=new, left=left)
                follows = True
            return await self._stream(request, asked, session, client, exempt=callers is None)
        except Problem as problem:
            self._turn_away(request, problem, said)
            raise
        except FullError as error:
            raise self._turn_away(request, problem_of(error), said) from None
        except (ConnectionError, SinkClosedError):
            # The reader is gone: there is nobody to tell, and nothing that failed.
            return web.Response(status=GONE)
        finally:
            if session is not None:
                self._sessions.close(session)
            if follows:
                self._shares.unfollow(callers, asked.selector)

    def _turn_away(self, request: web.Request, problem: Problem, said: MultiMapping[str]) -> Problem:
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

    def _require_open(self, services: Services, callers: Callers) -> None:
        """Raise the `Problem` for which a subscriber should come back later."""
        if self._broadcaster.closed:
            raise Problem(503, "the server is shutting down", reason=RefusalReason.DRAIN)
        if callers is None:
            return
        self._shares.open_stream(callers)
        services.rate_limiter.stream()

    async def _stream(
        self,
        request: web.Request,
        asked: SubscribeRequest,
        session: TrackedStream | None,
        client: str | None,
        *,
        exempt: bool,
    ) -> web.StreamResponse:
        broadcaster = self._broadcaster
        # What is published while the head is on its way is caught up with: the start says from where.
        caller = None
        if asked.cursor is None:
            start = broadcaster.start_point(asked.selector, None, exempt=exempt)
        else:
            caller = caller_of(request)
            start = await broadcaster.find_start_point(
                asked.selector, asked.cursor, caller=caller, exempt=exempt
            )
        # Behind all that may be refused: it makes the connection one that ends with its stream.
        sink = TransportSink(request, asked.encoding)
        heartbeat = broadcaster.heartbeat(seconds=asked.silence, as_event=asked.heartbeat_events)
        frames = broadcaster.first_frames(asked.selector, asked.encoding, start, heartbeat)
        headers = self._headers(request)
        response: web.StreamResponse = ALREADY_SENT
        if self._tuned and asked.encoding.chunked:
            sink.send_head(chunked_response_head(asked.encoding.format.content_type_header, headers), frames)
        else:
            response = await self._begun_by_aiohttp(request, asked, headers, frames)
        try:
            outbox = broadcaster.connect(sink, asked.selector, start, heartbeat, caller=caller, exempt=exempt)
        except (ClosedError, FullError):
            # Since the head was sent, which cannot be taken back: the reader comes again, and is told then.
            await sink.end_body()
            return response
        reader = self._registry.add(request, outbox, client)
        # Nothing may be awaited between `connect` and `try`: what is registered is released in
        # `finally`, since a handler that is cancelled raises no Exception.
        try:
            if session is not None:
                session.begin(functools.partial(broadcaster.end, outbox))
            await sink.run(outbox.on_drained)
            await sink.end_body()
        finally:
            broadcaster.disconnect(outbox)
            self._registry.remove(reader)
        return response

    def _headers(self, request: web.Request) -> dict[str, str]:
        """Return the headers that this stream has beside those of every stream."""
        headers: dict[str, str] = {}
        services = self._active.services
        if services.cors.enabled:
            services.cors.tell(request, headers)
        if hdrs.ORIGIN in request.headers and (origin := services.cors.kept_from(request)):
            log_foreign_page(request, address=services.proxies.client(request), origin=origin)
        return headers

    async def _begun_by_aiohttp(
        self, request: web.Request, asked: SubscribeRequest, headers: Mapping[str, str], frames: bytes
    ) -> SseResponse:
        """Have aiohttp send head and first bytes: in HTTP/1.0, and where another server runs us."""
        if not self._tuned:
            config = self._active.services.config
            tune_connection(request, send_buffer=config.send_buffer, write_timeout=config.write_timeout)
        response = SseResponse(asked.encoding.format.content_type_header)
        response.headers.extend(headers)
        await response.prepare(request)
        await response.write(frames)
        return response

    async def head(self, request: web.Request) -> web.Response:
        """Answer HEAD: what GET would say of itself, without the stream."""
        require_any_channel(request, Action.SUBSCRIBE)
        asked = read_subscribe(request, self._permit(request))
        return web.Response(
            headers={
                hdrs.CONTENT_TYPE: asked.encoding.format.content_type_header,
                hdrs.CACHE_CONTROL: "no-store, no-transform",
                "X-Accel-Buffering": "no",
            }
        )
