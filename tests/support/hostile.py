"""Clients that do what the inventor thinks of, and what must be so of every answer they get."""

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field

from sse_broadcast.server.transport.connection import HTTP_1_1_REQUIRED
from tests.support.inventor import Ending, Inventor, Trick

STATUSES = {100, 200, 204, 400, 401, 403, 404, 405, 408, 413, 414, 415, 417, 421, 422, 429, 431, 501, 503}
"""What the contract has."""

_FIRST = re.compile(rb"HTTP/1\.[01] (\d{3}) [A-Za-z -]+")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\t\x20-\x7e]*)")

MOST = 200_000
"""Bytes of answers that are looked at."""


class IllFormedError(AssertionError):
    """What came is no answer that HTTP or the contract has."""


@dataclass
class Tally:
    """What came of tricks: how many, of how many requests, and the statuses of the answers."""

    tricks: int = 0
    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


async def play(port: int, trick: Trick) -> bytes:
    """Do a trick, and give all that was answered."""
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return await _play(sock, trick)
    except (ConnectionError, BrokenPipeError):
        return b""
    finally:
        sock.close()


async def _play(sock: socket.socket, trick: Trick) -> bytes:
    loop = asyncio.get_running_loop()
    answered = bytearray()
    reading = loop.create_task(_read(sock, answered))
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            # Whoever is read from no longer would wait for ever.
            async with asyncio.timeout(1):
                for piece in trick.pieces:
                    await loop.sock_sendall(sock, piece)
                    if trick.pause:
                        await asyncio.sleep(trick.pause)
        await asyncio.wait({reading}, timeout=trick.patience)
        if trick.ending is Ending.RST:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif trick.ending is Ending.HALF:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            await asyncio.wait({reading}, timeout=trick.patience)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return bytes(answered)


async def _read(sock: socket.socket, answered: bytearray) -> None:
    while len(answered) < MOST and (data := await asyncio.get_running_loop().sock_recv(sock, 65_536)):
        answered += data


def statuses(answered: bytes) -> list[int]:
    """Return the statuses of answers, of which the last may be cut off. Raises `IllFormedError`."""
    if answered == HTTP_1_1_REQUIRED:  # to a client of HTTP/2, in its own language
        return []
    found = []
    while b"\r\n\r\n" in answered:
        head, answered = answered.split(b"\r\n\r\n", 1)
        status, headers = _head(head)
        found.append(status)
        answered = _behind_body(answered, headers)
    if answered and not b"HTTP/1.".startswith(answered[:7]):
        raise IllFormedError(f"no answer: {answered[:200]!r}")
    return found


def _head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    said, fields = _FIRST.fullmatch(first), [_FIELD.fullmatch(line) for line in lines]
    if said is None or None in fields:
        raise IllFormedError(f"no head: {head[:300]!r}")
    headers = {each[1].lower(): each[2] for each in fields if each}
    status = int(said[1])
    if (
        len(headers) < len(fields)
        or status not in STATUSES
        or (status == 503 and b"retry-after" not in headers)
    ):
        raise IllFormedError(f"not in the contract: {head[:300]!r}")
    return status, headers


def _behind_body(data: bytes, headers: dict[bytes, bytes]) -> bytes:
    # The answer to a HEAD has a length and no body. No body of ours begins as an answer does.
    if data.startswith(b"HTTP/1."):
        return data
    if b"content-length" in headers:
        return data[int(headers[b"content-length"]) :]
    if headers.get(b"transfer-encoding") == b"chunked":
        return _behind_chunks(data)
    return b"" if headers.get(b"connection") == b"close" or headers.get(b"content-type") else data


def _behind_chunks(data: bytes) -> bytes:
    while b"\r\n" in data:
        size, rest = data.split(b"\r\n", 1)
        if not re.fullmatch(rb"[0-9a-fA-F]+", size):
            raise IllFormedError(f"no chunk: {data[:100]!r}")
        end = int(size, 16)
        if len(rest) < end + 2:
            return b""
        if rest[end : end + 2] != b"\r\n":
            raise IllFormedError(f"no end of a chunk: {rest[end - 20 : end + 20]!r}")
        if end == 0:
            return rest[2:]
        data = rest[end + 2 :]
    return b""


async def besiege(port: int, inventor: Inventor, *, requests: int, crowd: int, rate: float = 0) -> Tally:
    """Do tricks, `crowd` at a time, until so many requests were sent. Raises `IllFormedError`.

    `rate` is that of the requests in a second, 0 for as many as can be.
    """
    tally = Tally()
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def siege() -> None:
        while tally.requests < requests:
            trick = inventor.trick()
            turn = begun + tally.requests / rate if rate else 0
            tally.tricks += 1
            tally.requests += trick.requests
            if rate:  # each has a turn of its own, or the whole crowd would come at one moment
                await asyncio.sleep(turn - loop.time())
            answered = await play(port, trick)
            try:
                tally.statuses.update(statuses(answered))
            except IllFormedError as error:
                raise IllFormedError(f"{error} after {trick}"[:3000]) from None

    async with asyncio.TaskGroup() as group:
        for _ in range(crowd):
            group.create_task(siege())
    return tally
