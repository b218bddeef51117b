"""`sse-broadcast subscribe`."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from sse_broadcast.server.run import Server
from tests.conftest import Serve
from tests.support import process
from tests.support.process import SCRIPT, Ended, Process, Programs
from tests.support.sockets import PATIENCE, until

programs = pytest.fixture(process.programs)

ODD = '"quoted"\n\n\U0001f600 é\t\\'


async def subscribe(programs: Programs, server: Server, *arguments: str) -> Process:
    """Start the command, and wait until the server has it among its readers."""
    before = server.broadcaster.client_count
    started = await programs.cli("subscribe", "--url", server.url, *arguments)
    await until(lambda: server.broadcaster.client_count > before)
    return started


async def shell(programs: Programs, server: Server, script: str) -> Process:
    """Start a shell script in which `$0` is the command and `$1` the server's URL."""
    before = server.broadcaster.client_count
    started = await programs.start("sh", "-c", script, str(SCRIPT), server.url)
    await until(lambda: server.broadcaster.client_count > before)
    return started


async def reach(programs: Programs, url: str, message: str) -> None:
    """Publish until there is a reader whom it reaches."""
    async with asyncio.timeout(PATIENCE):
        while (await programs.run("publish", message, "--url", url)).out != b"sent to 1 clients\n":
            pass


async def test_text_is_the_data(serve: Serve, programs: Programs) -> None:
    """Each event's data and a line end, as it comes."""
    server = await serve()
    subscribing = await subscribe(programs, server, "--count", "3")
    await server.broadcaster.broadcast("one")
    assert await subscribing.line() == b"one\n"
    await server.broadcaster.broadcast("two", event="other")
    assert await subscribing.line() == b"two\n"
    await server.broadcaster.broadcast(ODD)
    assert await subscribing.ended() == Ended(0, f"{ODD}\n".encode())


async def test_json_is_an_object_a_line(serve: Serve, programs: Programs) -> None:
    """With all that an event says, and the server's own events among them."""
    server = await serve()
    subscribing = await subscribe(programs, server, "--format", "json")
    await server.broadcaster.broadcast(ODD, event="greeting")
    assert await subscribing.line() == (
        b'{"event": "greeting", "id": null, "data": "\\"quoted\\"\\n\\n'
        + "\U0001f600 é".encode()
        + b'\\t\\\\"}\n'
    )
    await server.stop()
    assert json.loads(await subscribing.line()) == {
        "event": "$close",
        "id": None,
        "data": '{"reason": "drain"}',
    }


async def test_raw_is_the_stream_s_own_bytes(serve: Serve, programs: Programs) -> None:
    """The opening too; what curl -N would show."""
    server = await serve(retry=1000)
    subscribing = await subscribe(programs, server, "--format", "raw", "--count", "1")
    await server.broadcaster.broadcast("one\ntwo", event="greeting")
    ended = await subscribing.ended()
    assert (ended.code, ended.err) == (0, b"")
    assert re.fullmatch(rb":\nretry: \d+\nevent: greeting\ndata: one\ndata: two\n\n", ended.out)


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("text", b"0\n1\n2\n"),
        ("json", b"".join(b'{"event": "message", "id": null, "data": "%d"}\n' % n for n in range(3))),
    ],
)
async def test_it_ends_after_so_many_events(
    serve: Serve, programs: Programs, form: str, shown: bytes
) -> None:
    """Not one more, though they arrive together."""
    server = await serve()
    subscribing = await subscribe(programs, server, "--count", "3", "--format", form)
    for number in range(10):
        await server.broadcaster.broadcast(str(number))
    assert await subscribing.ended() == Ended(0, shown)
    await until(lambda: not server.broadcaster.client_count)


@pytest.mark.parametrize("count", ["0", "-1", "x"])
async def test_a_count_is_a_number_from_1(programs: Programs, count: str) -> None:
    """Anything else is bad usage."""
    ended = await programs.run("subscribe", "--count", count)
    assert (ended.code, ended.out) == (2, b"")
    assert b"\nError: Invalid value for '--count': " in ended.err


async def test_a_command_runs_for_each_event(serve: Serve, programs: Programs, tmp_path: Path) -> None:
    """One at a time, with the data on its standard input and the fields in its environment."""
    file = tmp_path / "seen"
    server = await serve()
    command = f'{{ printf "%s|%s|%s|" "$SSE_EVENT" "$SSE_DATA" "$SSE_ID"; cat; echo; }} >> {file}; echo ran'
    subscribing = await subscribe(programs, server, "--exec", command, "--count", "2")
    await server.broadcaster.broadcast("one'; exit 9 #", event="greeting")
    assert await subscribing.line() == b"ran\n"
    await server.broadcaster.broadcast(ODD)
    assert await subscribing.ended() == Ended(0, b"ran\n")
    assert file.read_text() == f"greeting|one'; exit 9 #||one'; exit 9 #\nmessage|{ODD}||{ODD}\n"


async def test_commands_run_in_order(serve: Serve, programs: Programs) -> None:
    """The next event waits for the command of the one before."""
    server = await serve()
    subscribing = await subscribe(programs, server, "--exec", "cat; echo .", "--count", "5")
    for number in range(10):
        await server.broadcaster.broadcast(str(number))
    assert await subscribing.ended() == Ended(0, b"0.\n1.\n2.\n3.\n4.\n")


async def test_a_command_that_fails_is_told_and_the_next_runs(serve: Serve, programs: Programs) -> None:
    """One that reads nothing is no failure, however much there is to read."""
    server = await serve()
    subscribing = await subscribe(programs, server, "--exec", 'exit "$SSE_EVENT"', "--count", "3")
    await server.broadcaster.broadcast("x", event="7")
    await server.broadcaster.broadcast("x" * 500_000, event="0")
    await server.broadcaster.broadcast("x", event="9")
    assert await subscribing.ended() == Ended(
        0, err=b"sse-broadcast: the command ended with 7\nsse-broadcast: the command ended with 9\n"
    )


async def test_what_no_environment_holds_is_left_out(serve: Serve, programs: Programs) -> None:
    """Long data comes by standard input alone, as does data with NUL; a long type is not told."""
    server = await serve()
    command = 'echo "${SSE_EVENT-none} ${SSE_DATA-none} $(tr "\\0" 0 | wc -c)"'
    subscribing = await subscribe(programs, server, "--exec", command, "--count", "3")
    await server.broadcaster.broadcast("x" * 300_000, event="long")
    await server.broadcaster.broadcast("a\0b", event="nul")
    await server.broadcaster.broadcast("data", event="x" * 300_000)
    assert await subscribing.ended() == Ended(0, b"long none 300000\nnul none 3\nnone data 4\n")


async def test_the_command_s_environment_is_not_an_earlier_event_s(
    serve: Serve, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out is not there, though the command line itself was started by such a command."""
    monkeypatch.setenv("SSE_DATA", "of another")
    server = await serve()
    subscribing = await subscribe(programs, server, "--exec", 'echo "${SSE_DATA-none}"', "--count", "1")
    await server.broadcaster.broadcast("x" * 300_000)
    assert await subscribing.ended() == Ended(0, b"none\n")


async def test_it_ends_when_the_reader_of_its_output_has_left(serve: Serve, programs: Programs) -> None:
    """`| head -1` ends with the first event, without a word and without waiting for a second one."""
    server = await serve()
    piped = await shell(programs, server, '{ "$0" subscribe --url "$1"; echo "exit $?" >&2; } | head -1')
    await server.broadcaster.broadcast("one")
    assert await piped.ended() == Ended(0, b"one\n", b"exit 0\n")
    await until(lambda: not server.broadcaster.client_count)


async def test_it_ends_when_nobody_ever_reads_its_output(serve: Serve, programs: Programs) -> None:
    """Nor does it wait for a first one."""
    server = await serve()
    script = '{ "$0" subscribe --url "$1"; echo "exit $?" >&2; } | true'
    piped = await programs.start("sh", "-c", script, str(SCRIPT), server.url)
    assert await piped.ended() == Ended(0, err=b"exit 0\n")


async def test_its_output_may_be_a_file(serve: Serve, programs: Programs, tmp_path: Path) -> None:
    """A file, which no event loop can watch, is written as a pipe is."""
    file = tmp_path / "out"
    server = await serve()
    started = await shell(programs, server, f'"$0" subscribe --url "$1" --count 1 > {file}')
    await server.broadcaster.broadcast("one")
    assert await started.ended() == Ended(0)
    assert file.read_bytes() == b"one\n"


async def test_ctrl_c_is_130(serve: Serve, programs: Programs) -> None:
    """Without a traceback, as any interrupted command."""
    server = await serve()
    subscribing = await subscribe(programs, server)
    await server.broadcaster.broadcast("one")
    assert await subscribing.line() == b"one\n"
    subscribing.send_signal(signal.SIGINT)
    assert await subscribing.ended() == Ended(130)
    await until(lambda: not server.broadcaster.client_count)


async def test_ctrl_c_while_it_waits_to_reconnect_is_130(serve: Serve, programs: Programs) -> None:
    """A server that is away does not keep the command."""
    server = await serve(retry=60_000)
    subscribing = await subscribe(programs, server)
    await server.stop()
    assert await subscribing.error_line() == b'sse-broadcast: $close {"reason": "drain"}\n'
    subscribing.send_signal(signal.SIGINT)
    assert await subscribing.ended() == Ended(130)


async def test_it_goes_on_after_a_restart(programs: Programs) -> None:
    """It says on standard error that the server left, and goes on with the next one at the same place."""
    first = await programs.serve("--retry", "1", "--log-level", "warning")
    subscribing = await programs.cli("subscribe", "--url", first.url, "--count", "2")
    await reach(programs, first.url, "one")
    assert await subscribing.line() == b"one\n"
    first.process.send_signal(signal.SIGTERM)
    assert await first.process.ended() == Ended(0)

    second = await programs.serve("--port", str(first.port), "--log-level", "warning")
    assert second.url == first.url
    await reach(programs, second.url, "two")
    assert await subscribing.ended() == Ended(0, b"two\n", b'sse-broadcast: $close {"reason": "drain"}\n')


async def test_it_goes_on_after_a_crash(programs: Programs) -> None:
    """Nor need the server say that it leaves."""
    first = await programs.serve("--retry", "1")
    subscribing = await programs.cli("subscribe", "--url", first.url, "--format", "raw", "--count", "1")
    assert await subscribing.line() == b":\n"
    first.process.send_signal(signal.SIGKILL)
    await first.process.ended()

    second = await programs.serve("--port", str(first.port))
    await reach(programs, second.url, "two")
    ended = await subscribing.ended()
    assert (ended.code, ended.err) == (0, b"")
    assert re.fullmatch(rb"retry: \d\n:\nretry: \d+\ndata: two\n\n", ended.out)


async def test_no_stream_at_that_path_is_one_line(serve: Serve, programs: Programs) -> None:
    """A 404 is told and not tried again."""
    server = await serve()
    assert await programs.run("subscribe", "--url", f"{server.url}/nope") == Ended(
        1,
        err=f"sse-broadcast: {server.url}/nope/events: 404 Not Found: nothing is at /nope/events\n".encode(),
    )


async def test_the_server_may_be_named_by_a_variable(serve: Serve, programs: Programs) -> None:
    """SSE_BROADCAST_URL is where the server is."""
    server = await serve()
    subscribing = await programs.cli("subscribe", "--count", "1", env={"SSE_BROADCAST_URL": server.url})
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("one")
    assert await subscribing.ended() == Ended(0, b"one\n")
