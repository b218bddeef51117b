"""A log that cannot be written: the server serves on, and says what was lost as soon as it can."""

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
"""So many that a line of the log that names them, as it does twice, has sixteen kilobytes."""


async def serve(programs: Programs, redirection: str, *arguments: str) -> Serving:
    """Start a server that logs everything, as JSON, to where the shell is told."""
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


async def see_it_lose(serving: Serving) -> None:
    """Wait until lines of the log were lost: they are gathered for a moment before they are written."""
    client = await RawClient.open(serving.port)
    try:
        async with asyncio.timeout(PATIENCE):
            while not await lost(client):
                await asyncio.sleep(0.01)
    finally:
        client.close()


async def see_it_serve(serving: Serving) -> int:
    """See that what is published is delivered, and give how many lines of the log were lost by then."""
    reader, publisher = await RawClient.open(serving.port), await RawClient.open(serving.port)
    try:
        await reader.subscribe()
        await publish(publisher, 50)
        assert [event.data for event in await reader.events(50)] == [str(number) for number in range(50)]
        return await lost(publisher)
    finally:
        reader.close()
        publisher.close()


async def see_it_stop(serving: Serving, *signals: signal.Signals) -> int:
    """Return the exit code; nothing but the log has been on standard error."""
    for number in signals:
        serving.process.send_signal(number)
    ended = await serving.process.ended()
    assert (ended.out, ended.err) == (b"", b"")
    return ended.code


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_full_disk_stops_nothing(programs: Programs, loop: str) -> None:
    """Lines are lost and counted; the exit code is that of a good end."""
    serving = await serve(programs, "2>/dev/full", "--event-loop", loop)
    await see_it_serve(serving)
    await see_it_lose(serving)
    assert await see_it_stop(serving, signal.SIGTERM) == 0


async def test_a_closed_standard_error_stops_nothing(programs: Programs) -> None:
    """Nor is the log written to what has its number then."""
    serving = await serve(programs, "2>&-")
    assert await see_it_serve(serving) == 0
    assert await see_it_stop(serving, signal.SIGTERM) == 0


async def test_a_full_disk_for_standard_output_stops_nothing(programs: Programs, tmp_path: Path) -> None:
    """What cannot be announced is warned about, where a log can still be written."""
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
    """Return the lines of a log, up to one with a message that begins so."""
    lines: list[dict[str, str]] = []
    async with asyncio.timeout(PATIENCE):
        while not (lines and lines[-1]["message"].startswith(begin)):
            await asyncio.sleep(0.01)
            whole = log.read_text() if log.exists() else ""
            lines = [json.loads(line) for line in whole.splitlines(keepends=True) if line.endswith("\n")]
    return lines


class Reader:
    """The reader of a named pipe, which reads when it is told to, and may leave."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, 4096)

    async def up_to(self, found: Callable[[bytes], object]) -> bytes:
        """Read until something is found in what was read."""
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
def pipe(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path / "pipe")
    yield reader
    reader.leave()


async def overfill(serving: Serving) -> int:
    """Have more logged than a pipe and the server have room for, and give how many lines were lost."""
    client = await RawClient.open(serving.port)
    try:
        while not (count := await lost(client)):
            await publish(client, 100, f"/send/{CHANNELS}")
    finally:
        client.close()
    return count


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_pipe_that_nobody_reads_stops_nothing(programs: Programs, pipe: Reader, loop: str) -> None:
    """What waits for a reader is bounded; it does not keep the server from its end either."""
    serving = await serve(programs, f"2>{pipe.path}", "--event-loop", loop)
    await overfill(serving)
    await see_it_serve(serving)
    await see_it_lose(serving)
    assert await see_it_stop(serving, signal.SIGTERM) == 0


async def test_a_pipe_that_nobody_reads_does_not_keep_a_second_signal(
    programs: Programs, pipe: Reader
) -> None:
    serving = await serve(programs, f"2>{pipe.path}", "--drain-delay", "3600")
    await overfill(serving)
    probe = await RawClient.open(serving.port)
    serving.process.send_signal(signal.SIGTERM)
    while (await probe.ask("GET", "/readyz"))[0] == 200:
        pass
    probe.close()
    assert await see_it_stop(serving, signal.SIGTERM) == 5


async def test_a_pipe_that_is_read_again_has_what_waited_and_what_was_lost(
    programs: Programs, pipe: Reader
) -> None:
    """Each line whole, in its order, and then how many are missing; from then on all is as before."""
    serving = await serve(programs, f"2>{pipe.path}")
    count = await overfill(serving)
    read = await pipe.up_to(lambda data: b" lines were lost: " in data and data.endswith(b"\n"))
    lines = [json.loads(line) for line in read.splitlines()]
    told = [line for line in lines if "lost" in line]
    assert sum(line["lost"] for line in told) >= count
    assert {line["reason"] for line in told} == {"more than could be written"}
    assert {(line["level"], line["logger"]) for line in told} == {("warning", "sse_broadcast.logs")}
    ids = [int(line["id"].partition("-")[2]) for line in lines if line["message"].startswith("published ")]
    assert ids == sorted(ids)
    client = await RawClient.open(serving.port)
    await publish(client, 1)
    await pipe.up_to(lambda data: b'"message":"published ' in data)
    client.close()
    assert await see_it_stop(serving, signal.SIGTERM) == 0


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_pipe_whose_reader_is_gone_stops_nothing(programs: Programs, pipe: Reader, loop: str) -> None:
    serving = await serve(programs, f"2>{pipe.path}", "--event-loop", loop)
    pipe.leave()
    await see_it_serve(serving)
    await see_it_lose(serving)
    assert await see_it_stop(serving, signal.SIGTERM) == 0


async def test_a_fault_that_cannot_be_told_keeps_its_code(programs: Programs) -> None:
    """Which is all that is left to tell it by."""
    command = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh", str(SCRIPT), "serve")
    for arguments, code in ((("--port", "x"), 2), (("--certificate", "/none", "--port", "0"), 4)):
        assert (await (await programs.start(*command, *arguments)).ended()).code == code
