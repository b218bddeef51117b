"""One request on a connection of its own, with every byte of its head said, and the head of the answer."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sse_broadcast.server.runner import Server
from tests.support.sockets import RawClient


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; the names of its headers in small letters, and no body if it is a stream."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        """What a problem says, or the JSON of anything else."""
        said = json.loads(self.body)
        return str(said["detail"]) if "detail" in said else self.body.decode()

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


def bearer(token: str) -> str:
    """Return the header that carries a token."""
    return f"Authorization: Bearer {token}\r\n"


async def ask(
    server: Server | Path,
    method: str,
    path: str,
    *,
    headers: str = "",
    body: bytes = b"",
    host: str | None = "localhost",
    version: str = "1.1",
) -> Answer:
    """Ask a server at its first port, or at a UNIX socket, and hang up."""
    client = await _connected(server)
    try:
        said = "" if host is None else f"Host: {host}\r\n"
        said += f"Content-Length: {len(body)}\r\n" if method in {"POST", "PUT"} else ""
        head = f"{method} {path} HTTP/{version}\r\n{said}{headers}\r\n"
        await client.send(head.encode("utf-8", "surrogateescape") + body)
        return await _answer(client, method)
    finally:
        client.close()


async def _connected(server: Server | Path) -> RawClient:
    if isinstance(server, Server):
        return await RawClient.open(server.port)
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    sock.connect(str(server))
    return RawClient(sock)


async def _answer(client: RawClient, method: str) -> Answer:
    first, *lines = (await client.head()).decode().removesuffix("\r\n\r\n").split("\r\n")
    pairs = [line.partition(": ") for line in lines]
    headers = {name.lower(): value for name, _, value in pairs}
    assert len(headers) == len(pairs), f"a header twice: {lines}"
    size = 0 if method == "HEAD" else int(headers.get("content-length", 0))
    return Answer(int(first.split()[1]), headers, await client.take(size))
