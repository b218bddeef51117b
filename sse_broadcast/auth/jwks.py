"""JWKS: the public keys of another issuer, read from a file or a URL and refreshed."""

import asyncio
import ipaddress
import logging
import math
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from sse_broadcast.auth.keys import Key, keys_of_jwks
from sse_broadcast.auth.secret_sources import MAX_FILE, read_bytes
from sse_broadcast.config.values import shown_url
from sse_broadcast.errors import ConfigError

logger = logging.getLogger("sse_broadcast.keys")

MIN_REFRESH_INTERVAL = 10.0
"""Minimum seconds between two extra reads. A token with an unknown key causes one, and anyone can send it."""

TIMEOUT = 5.0
"""Seconds for the whole answer of a URL."""

SETTING = "jwt_jwks"


class Jwks:
    """The keys of a JWKS. A failed read is logged, and the present keys stay.

    `source` is a file, read at once, or a URL, read at `start`. `known` are keys to use until then. `refresh`
    and `pause` are in seconds. `changed` is called when a read brings other keys. Raises `ConfigError` for a
    file or a URL that cannot be used.
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
        """Why the last read failed, or None."""
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
        """The keys of the last successful read."""
        return self._keys

    async def start(self) -> None:
        """Read the keys of a URL for the first time, and read again every `refresh` seconds."""
        if self._remote:
            await self._join_refresh()
        self._refreshing = asyncio.create_task(self._keep_fresh())

    async def close(self) -> None:
        """Cancel the current read, and read no more."""
        self._pause = math.inf
        tasks = [task for task in (self._refreshing, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Read the keys again, unless that was done within `pause`. Concurrent callers share one read."""
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
        # asyncio.wait(), not await: a caller that is cancelled must not cancel the read of the others.
        await asyncio.wait([self._reading])

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(min(self._refresh, self._pause) if self.fault else self._refresh)
            await self._join_refresh()

    async def _read(self) -> None:
        try:
            self._take(self._parsed(await self._fetched()))
        except ConfigError as error:
            # A warning once per outage: reads fail again and again until it ends.
            level = logging.DEBUG if self.fault else logging.WARNING
            logger.log(level, "%(fault)s; the present keys stay in use", {"fault": str(error)})
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
            # HS256 keys are secrets. A URL that anyone can read does not keep one, so they need a file.
            return keys_of_jwks(data, secrets=not self._remote)
        except ValueError as error:
            raise ConfigError(f"{SETTING}: {self._name!r} {error}") from None


async def fetch(url: str) -> bytes:
    """Return the body of a URL.

    Raises `ConfigError` for any answer but a 200 of at most `MAX_FILE` bytes that arrives in time.
    """
    # Redirects are not followed: they could lead to an address inside the server's own network.
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


# Not aiohttp's ThreadedResolver: it calls loop.getaddrinfo(), which uvloop runs in libuv's own threads.
# The process waits for them at its end, for as long as no name server answers.
class Resolver(AbstractResolver):
    """A resolver that runs getaddrinfo in a thread of the loop's executor."""

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
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

    @override
    async def close(self) -> None: ...


def _reason(error: aiohttp.ClientError) -> str:
    # Two of aiohttp's errors print the whole URL, which may hold a secret in its query.
    if isinstance(error, aiohttp.InvalidURL):
        return "not a valid URL"
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
    except ValueError:  # an unclosed bracket, "https://[::1"
        raise ConfigError(f"{SETTING}: {name!r} is not a URL") from None
    if private:
        raise ConfigError(f"{SETTING}: a URL with a user or a password is not allowed")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise ConfigError(f"{SETTING}: {name!r} must start with https:// (http:// only for this machine)")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
