"""JWKS: the public keys of another issuer, read from a file or a URL, and read again as they change."""

import asyncio
import ipaddress
import logging
import math
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from sse_broadcast.auth.keys import Key, keys_of_jwks
from sse_broadcast.auth.secret_sources import MAX_FILE, read_bytes
from sse_broadcast.config.values import shown_url
from sse_broadcast.errors import ConfigError

logger = logging.getLogger("sse_broadcast.keys")

MIN_REFRESH_INTERVAL = 10.0
"""Seconds between two readings that were not due: a token can name any key it likes."""

TIMEOUT = 5.0
"""Seconds that a URL has to answer in full."""

SETTING = "jwt_jwks"


class Jwks:
    """The keys of a JWKS. A reading that fails is logged, and leaves those that there are.

    `source` is a file, which is read at once, or a URL, of which there are no keys before `start` but those
    that are `known`; `refresh` and `pause` are in seconds; `changed` is called when the keys are others.
    Raises `ConfigError` for a file or a URL that cannot be used.
    """

    def __init__(
        self,
        source: str,
        *,
        refresh: float,
        pause: float = MIN_REFRESH_INTERVAL,
        known: tuple[Key, ...] = (),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = source
        self._name = shown_url(source)
        self.fault: ConfigError | None = None
        """Why they could not be read, the last time that was tried."""
        self._remote = "://" in source
        self._refresh = refresh
        self._pause = pause
        self._changed = changed
        self._reading: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._read_at = -pause
        self._keys = known
        if self._remote:
            _require_url(source)
        else:
            self._keys = self._parsed(read_bytes(source, setting=SETTING))

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, as they were read last."""
        return self._keys

    async def start(self) -> None:
        """Read the keys of a URL for the first time, and all again whenever `refresh` has passed."""
        if self._remote:
            await self._join_refresh()
        self._refreshing = asyncio.create_task(self._keep_fresh())

    async def close(self) -> None:
        """End what is being read, and read no more."""
        self._pause = math.inf
        tasks = [task for task in (self._refreshing, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Read the keys again now, unless that was done just before. All who wait share one reading."""
        recently = asyncio.get_running_loop().time() - self._read_at < self._pause
        if self._is_reading or not recently:
            await self._join_refresh()

    @property
    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    async def _join_refresh(self) -> None:
        if self._reading is None or self._reading.done():
            self._read_at = asyncio.get_running_loop().time()
            self._reading = asyncio.create_task(self._read())
        # Waited for and not awaited: one that is cancelled meanwhile leaves the reading to the others.
        await asyncio.wait([self._reading])

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(min(self._refresh, self._pause) if self.fault else self._refresh)
            await self._join_refresh()

    async def _read(self) -> None:
        try:
            self._take(self._parsed(await self._fetched()))
        except ConfigError as error:
            # Said once: an outage has as many readings as it lasts.
            level = logging.DEBUG if self.fault else logging.WARNING
            logger.log(level, "%(fault)s; the keys stay as they are", {"fault": str(error)})
            self.fault = error
            return
        if self.fault:
            logger.info("jwt_jwks: %(source)r can be read again", {"source": self._name})
        self.fault = None

    def _take(self, keys: tuple[Key, ...]) -> None:
        if keys != self._keys:
            self._keys = keys
            self._changed()

    async def _fetched(self) -> bytes:
        if self._remote:
            return await fetch(self.source)
        return await asyncio.to_thread(read_bytes, self.source, setting=SETTING)

    def _parsed(self, data: bytes) -> tuple[Key, ...]:
        try:
            # What anyone can read is no secret: those of HS256 are taken from a file alone.
            return keys_of_jwks(data, secrets=not self._remote)
        except ValueError as error:
            raise ConfigError(f"{SETTING}: {self._name!r} {error}") from None


async def fetch(url: str) -> bytes:
    """Return what is at a URL. Raises `ConfigError` for all but a 200 in time and of a JWKS's size.

    It follows no redirect, which could lead anywhere.
    """
    name = shown_url(url)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
    connector = aiohttp.TCPConnector(resolver=Resolver())
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, headers=headers, auto_decompress=False
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ConfigError(f"{SETTING}: {name!r} answered {response.status}")
            return await _body(response, name)
    except TimeoutError:
        raise ConfigError(f"{SETTING}: {name!r} did not answer within {TIMEOUT:g} s") from None
    except aiohttp.ClientError as error:
        raise ConfigError(f"{SETTING}: {name!r} cannot be read: {_reason(error)}") from None


class Resolver(AbstractResolver):
    """Asks for addresses in a thread of the loop's executor, whatever the loop.

    uvloop has threads of its own, which the process waits for at its end: as long as no name server answers.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See `AbstractResolver`."""
        infos = await asyncio.to_thread(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=found,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, proto, _, address in infos
        ]

    async def close(self) -> None:
        """See `AbstractResolver`."""


def _reason(error: aiohttp.ClientError) -> str:
    # Two of aiohttp's errors say the whole URL.
    if isinstance(error, aiohttp.InvalidURL):
        return "it is no URL"
    return error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)


async def _body(response: aiohttp.ClientResponse, name: str) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_FILE:
            raise ConfigError(f"{SETTING}: {name!r} has more than {MAX_FILE} bytes")
    return bytes(body)


def _require_url(url: str) -> None:
    name = shown_url(url)
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        private = parts.username is not None or parts.password is not None
    except ValueError:  # half a bracket
        raise ConfigError(f"{SETTING}: {name!r} is no address") from None
    if private:
        raise ConfigError(f"{SETTING}: an address with a user or a password in it is not taken")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise ConfigError(f"{SETTING}: {name!r} must begin with https:// (http:// is for this machine alone)")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
