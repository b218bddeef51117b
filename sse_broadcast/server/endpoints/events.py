"""GET and POST /events: a stream of the events of channels.

Each handler checks in this order: the credential (before it is called), permission to subscribe to any
channel, the number of channels, permission for each of them, and then the other parameters.
"""

import functools
from collections.abc import Awaitable, Mapping

from aiohttp import HttpVersion11, hdrs, web
from multidict import MultiMapping

from sse_broadcast.auth.principal import Action
from sse_broadcast.channels import MAX_NAME_LENGTH
from sse_broadcast.errors import BackendUnavailableError, ClosedError, FullError, SinkClosedError
from sse_broadcast.server.access.authorization import (
    IN_QUERY,
    PRINCIPAL,
    require_any_channel,
    require_permission,
)
from sse_broadcast.server.access.shares import Callers, callers_of
from sse_broadcast.server.endpoints import request_body
from sse_broadcast.server.endpoints.refusal import turn_away
from sse_broadcast.server.endpoints.subscribe_request import (
    Permit,
    SubscribeRequest,
    parse_subscribe,
    read_body,
    read_subscribe,
)
from sse_broadcast.server.http.client_address import key
from sse_broadcast.server.http.log import log_foreign_page
from sse_broadcast.server.http.problem import Problem, problem_of
from sse_broadcast.server.http.refused_stream import RefusalReason
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
from sse_broadcast.wire import JSON_TYPE, REQUEST_VERSION_HEADER

GONE = 499
"""nginx's status for a client that disconnected before the response. Only logs and metrics show it."""

BODY = 16_384
"""Maximum bytes of a body of POST /events, not counting its channel names."""


class Events:
    """The handlers of an application's /events. They look up its services once."""

    def __init__(self, app: web.Application) -> None:
        self._broadcaster = app[BROADCASTER]
        self._active = app[ACTIVE_SERVICES]
        self._registry = app[STREAM_REGISTRY]
        self._stream_expiry = app[STREAM_EXPIRY]
        self._shares = app[SHARES]
        self._own_listener = app[OWN_LISTENER]

    # Not a coroutine: its frame, about 300 bytes, would live as long as the stream.
    def get(self, request: web.Request) -> Awaitable[web.StreamResponse]:
        """Stream events to a subscriber until it disconnects or the server closes the stream."""
        require_any_channel(request, Action.SUBSCRIBE)
        if request.body_exists:
            return self._get_with_body(request)
        return self._open(request, read_subscribe(request, self._permit(request)), request.query)

    @staticmethod
    def _permit(request: web.Request) -> Permit:
        return functools.partial(require_permission, request, Action.SUBSCRIBE)

    async def _get_with_body(self, request: web.Request) -> web.StreamResponse:
        # Some proxies send an empty chunked body where the client sent none.
        await request_body.require_empty(request, timeout=self._active.services.config.body_timeout)
        confirm(request)
        return await self._open(request, read_subscribe(request, self._permit(request)), request.query)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Stream as `get` does, with the parameters in a JSON body."""
        # Long lists of channels do not fit into a URL.
        require_any_channel(request, Action.SUBSCRIBE)
        declared = request_body.body_type(request)
        if declared.name != JSON_TYPE:
            detail = f"Content-Type: must be {JSON_TYPE} to subscribe with POST /events; POST /send publishes"
            raise Problem(415, detail, closes=True)
        if request.query.keys() - {IN_QUERY}:
            detail = "query: POST /events takes no query parameters; send them as members of the JSON body"
            raise Problem(400, detail, closes=True)
        config = self._active.services.config
        most = BODY + (MAX_NAME_LENGTH + 4) * config.max_channels
        data = await request_body.read_text(request, declared, most=most, timeout=config.body_timeout)
        # The decoder uses its thread above 256 KiB, which a body exceeds only if `max_channels` is over 1000.
        read = functools.partial(read_body, data, most=config.max_channels)
        parameters = await request.app[DECODER].run(read, size=len(data))
        # Reading the body took time: the credential may have expired or been revoked.
        confirm(request)
        subscription = parse_subscribe(request, parameters, self._permit(request))
        return await self._open(request, subscription, parameters)

    async def _open(
        self, request: web.Request, subscription: SubscribeRequest, parameters: MultiMapping[str]
    ) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        tracked_stream, counted = None, False
        services = self._active.services
        client = services.proxies.behind(request)
        callers = callers_of(principal, key(client or request.remote))
        try:
            self._require_open(services, callers)
            tracked_stream = self._stream_expiry.track(
                principal, address=None if client is None else key(client)
            )
            if callers:
                new, left = self._broadcaster.room_for(subscription.selector)
                self._shares.follow(callers, subscription.selector, new=new, left=left)
                counted = True
            return await self._stream(request, subscription, tracked_stream, client, exempt=callers is None)
        except Problem as problem:
            turn_away(request, problem, parameters)
            raise
        except (BackendUnavailableError, FullError) as error:
            raise turn_away(request, problem_of(error), parameters) from None
        except (ConnectionError, SinkClosedError):
            # The client has disconnected: nobody can be answered, and nothing failed.
            return web.Response(status=GONE)
        finally:
            if tracked_stream is not None:
                self._stream_expiry.close(tracked_stream)
            if counted:
                self._shares.unfollow(callers, subscription.selector)

    def _require_open(self, services: Services, callers: Callers) -> None:
        """Raise a `Problem` that tells the subscriber to retry later: drain, a share, or the rate limit."""
        if self._broadcaster.closed:
            raise Problem(503, "the server is shutting down", reason=RefusalReason.DRAIN)
        if callers is None:
            return
        self._shares.open_stream(callers)
        services.rate_limiter.stream()

    async def _stream(
        self,
        request: web.Request,
        subscription: SubscribeRequest,
        tracked_stream: TrackedStream | None,
        client: str | None,
        *,
        exempt: bool,
    ) -> web.StreamResponse:
        broadcaster = self._broadcaster
        # Before the head is sent: events published while it is sent are replayed from this start.
        caller = None
        if subscription.cursor is None:
            start = broadcaster.start_point(subscription.selector, None, exempt=exempt)
        else:
            caller = caller_of(request)
            start = await broadcaster.find_start_point(
                subscription.selector, subscription.cursor, caller=caller, exempt=exempt
            )
        # After everything that can be refused: from here on the connection ends with its stream.
        sink = TransportSink(request, subscription.encoding)
        heartbeat = broadcaster.heartbeat(
            seconds=subscription.silence, as_event=subscription.heartbeat_events
        )
        frames = broadcaster.first_frames(subscription.selector, subscription.encoding, start, heartbeat)
        headers = self._headers(request)
        response: web.StreamResponse = ALREADY_SENT
        if self._own_listener and subscription.encoding.chunked:
            sink.send_head(
                chunked_response_head(subscription.encoding.format.content_type_header, headers), frames
            )
        else:
            response = await self._start_with_aiohttp(request, subscription, headers, frames)
        try:
            outbox = broadcaster.connect(
                sink, subscription.selector, start, heartbeat, caller=caller, exempt=exempt
            )
        except (ClosedError, FullError):
            # Raised while the head was being sent, so a status is too late. The client reconnects, and gets
            # the refusal then.
            await sink.end_body()
            return response
        entry = self._registry.add(request, outbox, client)
        # No `await` between `connect` and `try`: a cancelled handler must release what it has registered.
        # In `finally`, since CancelledError is no Exception.
        try:
            if tracked_stream is not None:
                tracked_stream.begin(functools.partial(broadcaster.end, outbox))
            await sink.run(outbox.on_drained)
            await sink.end_body()
        finally:
            broadcaster.disconnect(outbox)
            self._registry.remove(entry)
        return response

    def _headers(self, request: web.Request) -> dict[str, str]:
        """Return the headers that depend on the request: CORS. Log a page that CORS keeps from reading."""
        headers: dict[str, str] = {}
        services = self._active.services
        if services.cors.enabled:
            services.cors.tell(request, headers)
        if hdrs.ORIGIN in request.headers and (origin := services.cors.kept_from(request)):
            log_foreign_page(request, address=services.proxies.client(request), origin=origin)
        return headers

    async def _start_with_aiohttp(
        self, request: web.Request, subscription: SubscribeRequest, headers: Mapping[str, str], frames: bytes
    ) -> SseResponse:
        """Send the head and the first frames through aiohttp, and return the response."""
        # Used for HTTP/1.0, and when another runner than this package's serves the application.
        if not self._own_listener:
            config = self._active.services.config
            tune_connection(request, send_buffer=config.send_buffer, write_timeout=config.write_timeout)
        response = SseResponse(subscription.encoding.format.content_type_header)
        response.headers.extend(headers)
        if request.version < HttpVersion11:
            # Behind a proxy nobody else can see it: `sse-broadcast doctor` looks for this.
            response.headers[REQUEST_VERSION_HEADER] = "HTTP/1.0"
        await response.prepare(request)
        await response.write(frames)
        return response

    async def head(self, request: web.Request) -> web.Response:
        """Answer HEAD with the headers of GET."""
        require_any_channel(request, Action.SUBSCRIBE)
        subscription = read_subscribe(request, self._permit(request))
        return web.Response(
            headers={
                hdrs.CONTENT_TYPE: subscription.encoding.format.content_type_header,
                hdrs.CACHE_CONTROL: "no-store, no-transform",
                "X-Accel-Buffering": "no",
            }
        )
