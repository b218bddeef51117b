"""A client whose machine vanishes, in a network namespace."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import Program, Serve
from tests.support.sockets import until

pytestmark = pytest.mark.both_loops

NET = f"10.213.{os.getpid() % 250}"
"""A network of this run only: a killed run may have left its interfaces."""

HERE, THERE = f"{NET}.1", f"{NET}.2"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def other_host(program: Program) -> Iterator[str]:
    """Make another host: a network namespace, and a pair of virtual interfaces."""
    program("ip")
    name = f"sse{os.getpid()}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"cannot make a network namespace (only root may): {error.stderr.decode().strip()}")
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "cable", "netns", name)
        ip("addr", "add", f"{HERE}/30", "dev", name)
        ip("link", "set", name, "up")
        ip("-n", name, "addr", "add", f"{THERE}/30", "dev", "cable")
        ip("-n", name, "link", "set", "cable", "up")
        yield name
    finally:
        # Delete the interface first: the kernel deletes a namespace later, and the name would stay in use.
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
        ip("netns", "del", name)


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "busy"])
async def test_a_vanished_client_is_disconnected(
    serve: Serve, program: Program, other_host: str, *, quiet: bool
) -> None:
    """The interface is gone: unacknowledged bytes, heartbeats included, end the connection in time."""
    server = await serve(host=HERE, heartbeat=0.2, write_timeout=0.4, send_buffer=1_000_000)
    command = ["ip", "netns", "exec", other_host, str(program("curl")), "-sN", f"{server.url}/events"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as subscriber:
        try:
            await until(lambda: server.broadcaster.client_count == 1)
            ip("-n", other_host, "link", "set", "cable", "down")
            if not quiet:
                await server.broadcaster.broadcast("into the void")
            await until(lambda: server.broadcaster.client_count == 0)
            await until(lambda: server.connections == 0)
        finally:
            subscriber.kill()
    assert server.broadcaster.counts.closed == {"left": 1}
