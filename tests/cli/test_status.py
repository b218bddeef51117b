"""`sse-broadcast status`."""

import pytest

from sse_broadcast.cli.status import _shown
from sse_broadcast.server.runner import Server
from tests.support import process
from tests.support.process import Ended, Programs

programs = pytest.fixture(process.programs)


async def test_status_is_one_line_per_counter(server: Server, programs: Programs) -> None:
    """Names have spaces. Counters at zero for all reasons are one line."""
    async with server.broadcaster.subscribe():
        await server.broadcaster.broadcast("hello")
        assert await programs.run("status", "--url", server.url) == Ended(
            0,
            b"connected clients: 1\npublished: 1\nopened: 1\nclosed: none\ndropped: none\nresets: none\n"
            b"aborted: 0\nrefused: none\n",
        )


async def test_status_as_json_is_the_servers_response(server: Server, programs: Programs) -> None:
    """It is one line, for jq."""
    async with server.broadcaster.subscribe():
        pass
    assert await programs.run("status", "--json", "--url", server.url) == Ended(
        0,
        b'{"connected_clients": 0, "published": 0, "opened": 1, '
        b'"closed": {"left": 1}, "dropped": {}, "resets": {}, "aborted": 0, "refused": {}}\n',
    )


@pytest.mark.parametrize(
    ("value", "shown"), [({"left": 2, "slow": 1}, "2 left, 1 slow"), ({}, "none"), (3, "3"), ("x", "x")]
)
def test_counts_are_shown_in_words(value: object, shown: str) -> None:
    assert _shown(value) == shown


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (["--interval", "1"], b"--interval: needs --watch"),
        (["--watch", "--interval", "0"], b"0.0 is not in the range 0.1<=x<=86400.0"),
        (["--watch", "--interval", "x"], b"'x' is not a valid float"),
    ],
)
async def test_an_interval_needs_watch(programs: Programs, options: list[str], reported: bytes) -> None:
    ended = await programs.run("status", *options)
    assert ended.code == 2
    assert reported in ended.err
