"""Failing standard output: one line on standard error and an exit code, for every command."""

import io
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click
import pytest

from sse_broadcast.cli import Commands
from sse_broadcast.cli.stdout import CheckedStdout
from sse_broadcast.errors import OutputError
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import process
from tests.support.process import SCRIPT, Ended, Process, Programs

programs = pytest.fixture(process.programs)

SECRET = {"SSE_BROADCAST_TOKEN_SECRET": "a-secret-of-thirty-two-characters"}

TOLD = b"sse-broadcast: standard output: cannot be written: %b\n"

FULL, CLOSED = b"no space left on device", b"bad file descriptor"

ALONE = [("--help",), ("--version",), ("serve", "--help"), ("serve", "--check"), ("serve", "--show-config")]
"""Arguments of commands that send no request."""

ASKED = [
    ("status",),
    ("status", "--watch"),
    ("reload",),
    ("publish", "x"),
    ("publish", "--format", "ndjson", '{"data": "x"}'),
    ("subscribe", "--since", "earliest"),
    ("subscribe", "--since", "earliest", "--format", "json"),
    ("subscribe", "--since", "earliest", "--format", "raw"),
]

INTO = "import os, sys; os.dup2(int(sys.argv[1]), 1); os.execv(sys.argv[2], sys.argv[2:])"
"""Runs a program whose standard output is a descriptor that it is given."""

EACH = [pytest.param(">/dev/full", FULL, id="full"), pytest.param(">&-", CLOSED, id="closed")]


async def redirected(
    programs: Programs, redirection: str, *arguments: str, env: dict[str, str] | None = None
) -> Process:
    return await programs.start(
        "sh", "-c", f'exec "$@" {redirection}', "sh", str(SCRIPT), *arguments, env=env
    )


@pytest.mark.parametrize(("redirection", "why"), EACH)
@pytest.mark.parametrize("use", ALONE, ids=" ".join)
async def test_failing_output_is_6(
    programs: Programs, use: tuple[str, ...], redirection: str, why: bytes
) -> None:
    assert await (await redirected(programs, redirection, *use)).ended() == Ended(6, err=TOLD % why)


@pytest.mark.parametrize(("redirection", "why"), EACH)
@pytest.mark.parametrize("use", ASKED, ids=" ".join)
async def test_a_response_that_cannot_be_printed_is_6(
    server: Server, programs: Programs, use: tuple[str, ...], redirection: str, why: bytes
) -> None:
    """It is not the exit code of a refusal: the server has done its part."""
    await server.broadcaster.broadcast("x" * 20_000)  # more than any buffer takes
    command = await redirected(programs, redirection, *use, "--url", server.url)
    assert await command.ended() == Ended(6, err=TOLD % why)
    assert server.broadcaster.channel("default").events == 1 + (use[0] == "publish")


@pytest.mark.parametrize(("redirection", "why"), EACH)
async def test_a_token_that_cannot_be_printed_is_6(programs: Programs, redirection: str, why: bytes) -> None:
    made = await programs.run("token", "mint", "--subscribe", "a", env=SECRET)
    mint = await redirected(programs, redirection, "token", "mint", "--subscribe", "a", env=SECRET)
    assert await mint.ended() == Ended(6, err=TOLD % why)
    check = await redirected(programs, redirection, "token", "check", env=SECRET)
    await check.feed(made.out)
    check.end_input()
    assert await check.ended() == Ended(6, err=TOLD % why)


async def test_an_event_that_cannot_be_printed_does_not_move_the_cursor(
    serve: Serve, programs: Programs, tmp_path: Path
) -> None:
    server, state = await serve(), tmp_path / "state"
    await server.broadcaster.broadcast("x")
    use = ("subscribe", "--since", "earliest", "--state", str(state), "--count", "1", "--url", server.url)
    assert (await (await redirected(programs, ">/dev/full", *use)).ended()).code == 6
    assert await programs.run(*use) == Ended(0, b"x\n")


async def test_a_command_that_prints_nothing_needs_no_output(server: Server, programs: Programs) -> None:
    """`subscribe --exec` is one."""
    await server.broadcaster.broadcast("x")
    use = ("subscribe", "--since", "earliest", "--count", "1", "--exec", "true", "--url", server.url)
    for arguments in (use, ("health", "--url", server.url)):
        assert await (await redirected(programs, ">&-", *arguments)).ended() == Ended(0)


@pytest.mark.parametrize("use", [("serve", "--show-config"), ("--help",)], ids=" ".join)
async def test_a_closed_pipe_is_no_error(programs: Programs, use: tuple[str, ...]) -> None:
    """Nothing is printed, as by other programs in a pipeline."""
    reading, writing = os.pipe()
    os.close(reading)
    command = await programs.start(
        sys.executable, "-c", INTO, str(writing), str(SCRIPT), *use, descriptors=(writing,)
    )
    os.close(writing)
    assert await command.ended() == Ended(1)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("redirection", [">&- 2>&-", "<&- >&- 2>&-", "<&-"])
async def test_closed_standard_streams_keep_the_exit_code(
    programs: Programs, redirection: str, loop: str
) -> None:
    """No socket gets the descriptor of a standard stream: libuv would abort."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = await redirected(programs, redirection, "serve", "--event-loop", loop, "--port", port)
        assert (await command.ended()).code == 3


async def test_a_server_with_closed_output_logs_it(programs: Programs) -> None:
    flags = ("--port", "0", "--log-format", "text")
    command = await redirected(programs, ">&-", "serve", *flags)
    said = b" WARNING sse_broadcast.process: standard output: cannot be written: %b\n"
    assert (await command.error_line()).endswith(said % CLOSED)


# The unit, without a command.


@pytest.fixture
def full() -> Iterator[TextIO]:
    raw = io.FileIO("/dev/full", "w")
    stream = io.TextIOWrapper(io.BufferedWriter(raw), write_through=True)
    yield stream
    raw.close()  # otherwise it would be retried


def write(output: CheckedStdout, data: str | bytes) -> None:
    output.write(data)
    output.flush()


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_write_error_is_an_output_error(full: TextIO, size: int) -> None:
    output = CheckedStdout(full)
    for stream, data in ((output, "x" * size), (output.buffer, b"x" * size)):
        with pytest.raises(OutputError) as caught:
            write(stream, data)
        assert str(caught.value) == "standard output: cannot be written: no space left on device"
        assert caught.value.strerror == "no space left on device"


def test_other_methods_are_those_of_the_stream() -> None:
    kept = io.BytesIO()
    output = CheckedStdout(io.TextIOWrapper(kept, encoding="utf-8"))
    assert (output.write("é"), output.encoding) == (1, "utf-8")
    output.flush()
    assert output.buffer.write(b"!") == 1
    assert kept.getvalue() == "é!".encode()
    with pytest.raises(TypeError):
        output.write(b"x")


def test_an_unrelated_os_error_is_no_output_error(capsys: pytest.CaptureFixture[str]) -> None:
    """It keeps its traceback."""

    @click.group(cls=Commands)
    def main() -> None:
        """Run as a command."""

    @main.command()
    def broken() -> None:
        raise OSError(5, "of another file")

    before = sys.stdout
    try:
        with pytest.raises(OSError, match="of another file"):
            main(["broken"])
    finally:
        sys.stdout = before
    assert capsys.readouterr() == ("", "")
