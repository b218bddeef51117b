"""A log that cannot be written: the server keeps running, and reports lost lines when it can."""

import asyncio
import fcntl
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import process
from tests.support.process import SCRIPT, Programs, Serving, announced
from tests.support.sockets import PATIENCE, RawClient

programs = pytest.fixture(process.programs)

LOOPS = ["asyncio", "uvloop"]

CHANNELS = ",".join(f"{number:03}".ljust(128, "x") for number in range(60))
"""With these a log line, which has them twice, is sixteen kilobytes long."""


async def serve(programs: Programs, redirection: str, *arguments: str) -> Serving:
    """Start a server that logs everything as JSON to where the shell redirects it."""
    flags = ("--port", "0", "--log-level", "debug", *arguments)
    command = ("sh", "-c", f'exec "$@" {redirection}', "sh", str(SCRIPT), "serve", *flags)
    return await announced(await programs.start(*command))


async def publish(client: RawClient, times: int, path: str = "/send") -> None:
    for number in range(times):
        status, _ = await client.ask("POST", path, body=b"%d" % number)
        assert status == 200


async def lost(client: RawClient) -> int:
    _, body = await client.ask("GET", "/metrics")
    (count,) = re.findall(rb"^sse_broadcast_lost_log_lines_total (\S+)$", body, re.MULTILINE)
    return int(float(count))


async def wait_until_lines_are_lost(serving: Serving) -> None:
    """Wait until log lines were lost: they are batched before they are written."""
    client = await RawClient.open(serving.port)
    try:
        async with asyncio.timeout(PATIENCE):
            while not await lost(client):
                await asyncio.sleep(0.01)
    finally:
        client.close()


async def assert_serving(serving: Serving) -> int:
    """Assert that events are delivered, and return the number of log lines lost by then."""
    subscriber, publisher = await RawClient.open(serving.port), await RawClient.open(serving.port)
    try:
        await subscriber.subscribe()
        await publish(publisher, 50)
        assert [event.data for event in await subscriber.events(50)] == [str(number) for number in range(50)]
        return await lost(publisher)
    finally:
        subscriber.close()
        publisher.close()


async def assert_stops(serving: Serving, *signals: signal.Signals) -> int:
    """Stop the server, and return its exit code. Standard error must have had the log only."""
    for number in signals:
        serving.process.send_signal(number)
    ended = await serving.process.ended()
    assert (ended.out, ended.err) == (b"", b"")
    return ended.code


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_full_disk_does_not_stop_the_server(programs: Programs, loop: str) -> None:
    """Lost lines are counted. The exit code is 0."""
    serving = await serve(programs, "2>/dev/full", "--event-loop", loop)
    await assert_serving(serving)
    await wait_until_lines_are_lost(serving)
    assert await assert_stops(serving, signal.SIGTERM) == 0


async def test_a_closed_standard_error_does_not_stop_the_server(programs: Programs) -> None:
    """The log is not written to another file with its descriptor."""
    serving = await serve(programs, "2>&-")
    assert await assert_serving(serving) == 0
    assert await assert_stops(serving, signal.SIGTERM) == 0


async def test_a_full_disk_for_standard_output_does_not_stop_the_server(
    programs: Programs, tmp_path: Path
) -> None:
    """The log warns that the banner could not be printed."""
    log = tmp_path / "log"
    command = f'exec "$@" >/dev/full 2>{log}'
    started = await programs.start("sh", "-c", command, "sh", str(SCRIPT), "serve", "--port", "0")
    lines = await read_until(log, "started: ")
    messages = [line["message"] for line in lines]
    assert messages[0] == "standard output: cannot be written: no space left on device"
    assert (await programs.run("status", "--url", lines[1]["urls"])).code == 0
    started.send_signal(signal.SIGTERM)
    ended = await started.ended()
    assert (ended.code, ended.err) == (0, b"")


async def read_until(log: Path, begin: str) -> list[dict[str, str]]:
    """Return the lines of a log up to one whose message begins with this text."""
    lines: list[dict[str, str]] = []
    async with asyncio.timeout(PATIENCE):
        while not (lines and lines[-1]["message"].startswith(begin)):
            await asyncio.sleep(0.01)
            whole = log.read_text() if log.exists() else ""
            lines = [json.loads(line) for line in whole.splitlines(keepends=True) if line.endswith("\n")]
    return lines


class PipeReader:
    """The reading end of a named pipe: a test says when to read and when to close."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, 4096)

    async def up_to(self, found: Callable[[bytes], object]) -> bytes:
        """Read until the data contains this text."""
        data = b""
        async with asyncio.timeout(PATIENCE):
            while not found(data):
                try:
                    data += os.read(self._descriptor, 65_536)
                except BlockingIOError:
                    await asyncio.sleep(0.002)
        return data

    def leave(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[PipeReader]:
    reader = PipeReader(tmp_path / "pipe")
    yield reader
    reader.leave()


async def overfill(serving: Serving) -> int:
    """Log more than a pipe and the server can hold, and return the number of lost lines."""
    client = await RawClient.open(serving.port)
    try:
        while not (count := await lost(client)):
            await publish(client, 100, f"/send/{CHANNELS}")
    finally:
        client.close()
    return count


@pytest.mark.parametrize("loop", LOOPS)
async def test_an_unread_pipe_does_not_stop_the_server(
    programs: Programs, pipe: PipeReader, loop: str
) -> None:
    """The waiting lines are limited, and do not delay the exit."""
    serving = await serve(programs, f"2>{pipe.path}", "--event-loop", loop)
    await overfill(serving)
    await assert_serving(serving)
    await wait_until_lines_are_lost(serving)
    assert await assert_stops(serving, signal.SIGTERM) == 0


async def test_an_unread_pipe_does_not_delay_a_second_signal(programs: Programs, pipe: PipeReader) -> None:
    serving = await serve(programs, f"2>{pipe.path}", "--drain-delay", "3600")
    await overfill(serving)
    probe = await RawClient.open(serving.port)
    serving.process.send_signal(signal.SIGTERM)
    while (await probe.ask("GET", "/readyz"))[0] == 200:
        pass
    probe.close()
    assert await assert_stops(serving, signal.SIGTERM) == 5


async def test_a_pipe_read_again_gets_the_waiting_lines_and_the_number_of_lost(
    programs: Programs, pipe: PipeReader
) -> None:
    """The lines are complete and in order. Logging then works as before."""
    serving = await serve(programs, f"2>{pipe.path}")
    count = await overfill(serving)
    read = await pipe.up_to(lambda data: b" lines were lost: " in data and data.endswith(b"\n"))
    lines = [json.loads(line) for line in read.splitlines()]
    reported = [line for line in lines if "lost" in line]
    assert sum(line["lost"] for line in reported) >= count
    assert {line["reason"] for line in reported} == {"more than could be written"}
    assert {(line["level"], line["logger"]) for line in reported} == {("warning", "sse_broadcast.logs")}
    ids = [int(line["id"].partition("-")[2]) for line in lines if line["message"].startswith("published ")]
    assert ids == sorted(ids)
    client = await RawClient.open(serving.port)
    await publish(client, 1)
    await pipe.up_to(lambda data: b'"message":"published ' in data)
    client.close()
    assert await assert_stops(serving, signal.SIGTERM) == 0


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_closed_pipe_does_not_stop_the_server(
    programs: Programs, pipe: PipeReader, loop: str
) -> None:
    serving = await serve(programs, f"2>{pipe.path}", "--event-loop", loop)
    pipe.leave()
    await assert_serving(serving)
    await wait_until_lines_are_lost(serving)
    assert await assert_stops(serving, signal.SIGTERM) == 0


async def test_an_error_that_cannot_be_printed_keeps_its_exit_code(programs: Programs) -> None:
    """Nothing else reports the error."""
    command = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh", str(SCRIPT), "serve")
    for arguments, code in ((("--port", "x"), 2), (("--certificate", "/none", "--port", "0"), 4)):
        assert (await (await programs.start(*command, *arguments)).ended()).code == code
