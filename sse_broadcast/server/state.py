"""What handlers find in the application."""

import asyncio

from aiohttp import StreamReader, web

from sse_broadcast.auth.authority import Authority
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config import Config
from sse_broadcast.server.address import Proxies
from sse_broadcast.server.cors import Cors
from sse_broadcast.server.limits import Limits
from sse_broadcast.server.sessions import Sessions

BROADCASTER: web.AppKey[Broadcaster] = web.AppKey("sse_broadcast", Broadcaster)
"""The broadcaster of an application made by `create_app`."""

CONFIG: web.AppKey[Config] = web.AppKey("sse_broadcast.config", Config)

AUTHORITY: web.AppKey[Authority] = web.AppKey("sse_broadcast.authority", Authority)

SESSIONS: web.AppKey[Sessions] = web.AppKey("sse_broadcast.sessions", Sessions)
"""The open streams that a credential or their age may end."""

CORS: web.AppKey[Cors] = web.AppKey("sse_broadcast.cors", Cors)

TUNED: web.AppKey[bool] = web.AppKey("sse_broadcast.tuned", bool)
"""Whether connections come from a listening socket that `sink.tune` has seen."""

INTAKES: web.AppKey[set[StreamReader]] = web.AppKey("sse_broadcast.intakes", set)
"""The bodies of long requests that are being read."""

DRAINING: web.AppKey[asyncio.Event] = web.AppKey("sse_broadcast.draining", asyncio.Event)
"""Set when long requests are to end."""

PROXIES: web.AppKey[Proxies] = web.AppKey("sse_broadcast.proxies", Proxies)

LIMITS: web.AppKey[Limits] = web.AppKey("sse_broadcast.limits", Limits)

TURN: web.AppKey[asyncio.Lock] = web.AppKey("sse_broadcast.turn", asyncio.Lock)
"""Held by the batch that is being published."""
