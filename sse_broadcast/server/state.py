"""What handlers find in the application."""

import asyncio

from aiohttp import StreamReader, web

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config import Config

BROADCASTER: web.AppKey[Broadcaster] = web.AppKey("sse_broadcast", Broadcaster)
"""The broadcaster of an application made by `create_app`."""

CONFIG: web.AppKey[Config] = web.AppKey("sse_broadcast.config", Config)

TUNED: web.AppKey[bool] = web.AppKey("sse_broadcast.tuned", bool)
"""Whether connections come from a listening socket that `sink.tune` has seen."""

INTAKES: web.AppKey[set[StreamReader]] = web.AppKey("sse_broadcast.intakes", set)
"""The bodies of long requests that are being read."""

TURN: web.AppKey[asyncio.Lock] = web.AppKey("sse_broadcast.turn", asyncio.Lock)
"""Held by the batch that is being published."""
