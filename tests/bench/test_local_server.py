"""A server on this machine: started, found and measured."""

import mmap
import os
import socket
from pathlib import Path

import aiohttp
import pytest

from sse_broadcast.bench.local_server import OwnServer, ServerProcess, find_listener


def test_the_process_that_listens_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert find_listener(listener.getsockname()[1]) == ServerProcess(os.getpid())


def test_nobody_is_found_where_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert find_listener(bound.getsockname()[1]) is None


def test_a_process_is_measured() -> None:
    here = ServerProcess(os.getpid())
    before = here.usage()
    # Pages of its own: what the heap has free already would not show.
    with mmap.mmap(-1, 1 << 25) as kept:
        kept.write(b"x" * (1 << 25))
        after = here.usage()
    assert before is not None
    assert after is not None
    assert after.memory - before.memory > 1 << 24
    assert after.cpu >= before.cpu > 0


def test_a_process_that_is_gone_is_not_measured() -> None:
    assert ServerProcess(2**22 + 1).usage() is None


async def test_a_server_of_its_own_serves_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the default settings, whatever this environment says."""
    monkeypatch.setenv("SSE_BROADCAST_PORT", "no number")
    async with OwnServer() as server, aiohttp.ClientSession() as session:
        assert server.process.usage() is not None
        process = Path(f"/proc/{server.process.id}")
        assert process.exists()
        async with session.get(f"{server.url}/healthz") as response:
            assert response.status == 200
    assert not process.exists()
