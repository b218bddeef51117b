"""`python -m sse_broadcast`."""

import sys

import pytest

import sse_broadcast
from tests.support import process
from tests.support.process import Ended, Programs

programs = pytest.fixture(process.programs)

VERSION = f"sse-broadcast, version {sse_broadcast.__version__}\n".encode()


async def test_the_module_is_the_command(programs: Programs) -> None:
    """`python -m sse_broadcast` is `sse-broadcast`."""
    module = await programs.start(sys.executable, "-m", "sse_broadcast", "--version")
    assert await module.ended() == await programs.run("--version") == Ended(0, VERSION)


async def test_usage_of_the_module_has_its_own_name(programs: Programs) -> None:
    module = await programs.start(sys.executable, "-m", "sse_broadcast", "status", "--nope")
    assert await module.ended() == Ended(
        2,
        err=b"Usage: python -m sse_broadcast status [OPTIONS]\n"
        b"Try 'python -m sse_broadcast status --help' for help.\n\n"
        b"Error: No such option '--nope'.\n",
    )
