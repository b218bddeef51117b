"""`sse-broadcast subscribe`."""

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sse_broadcast.cli.subscribe import Outage, first, one_by_one
from sse_broadcast.client import StreamChunk
from sse_broadcast.errors import ClientError
from sse_broadcast.event import Event
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import process, scripted
from tests.support.process import SCRIPT, Ended, Process, Programs
from tests.support.scripted import END, NO_CONTENT, OPENED, RETRY, STREAM, Held, Speak, chunk, plain
from tests.support.sockets import PATIENCE, until
from tests.support.terminal import Terminal, terminals

programs = pytest.fixture(process.programs)
speak = pytest.fixture(scripted.speak)
terminal = pytest.fixture(terminals)

Start = Callable[..., Awaitable[Terminal]]

TOKEN = "a-token-that-is-random-0123456789"

ODD = '"quoted"\n\n\U0001f600 é\t\\'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state"


async def subscribe(programs: Programs, server: Server, *arguments: str) -> Process:
    """Start the command, and wait until the server has its subscriber."""
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
    """Publish until an event reaches a subscriber."""
    async with asyncio.timeout(PATIENCE):
        while (await programs.run("publish", message, "--url", url)).out != b"sent to 1 client\n":
            pass


async def test_text_is_the_data(server: Server, programs: Programs) -> None:
    subscribing = await subscribe(programs, server, "--count", "3")
    await server.broadcaster.broadcast("one")
    assert await subscribing.line() == b"one\n"
    await server.broadcaster.broadcast("two", event="other")
    assert await subscribing.line() == b"two\n"
    await server.broadcaster.broadcast(ODD)
    assert await subscribing.ended() == Ended(0, f"{ODD}\n".encode())


async def test_json_is_one_object_per_line(server: Server, programs: Programs) -> None:
    """It has all fields of an event, JSON data as JSON, and system events too."""
    subscribing = await subscribe(programs, server, "--format", "json")
    for event in (Event(ODD, "greeting"), Event('{\n "EUR": 1.080}', id="r1", json=True), Event('{"a": 1}')):
        await server.broadcaster.publish(event)
    first, second, third = [await subscribing.line() for _ in range(3)]
    time = rb"\d+\.\d+"
    id = server.broadcaster.cursor.partition("-")[0].encode()
    assert re.fullmatch(
        b'{"channel":"default","id":"%b-1","event":"greeting","data":' % id
        + re.escape('"\\"quoted\\"\\n\\n\U0001f600 é\\t\\\\"'.encode())
        + b',"time":%b}\n' % time,
        first,
    )
    price = rb'{"channel":"default","id":"r1","event":"message","data":{"EUR":1.080},"time":%b}\n'
    assert re.fullmatch(price % time, second)
    assert json.loads(third)["data"] == '{"a": 1}'
    await server.stop()
    reported = await subscribing.line()
    assert reported == b'{"channel":null,"id":"%b-3","event":"$close","data":{"reason":"drain"}}\n' % id


async def test_raw_is_the_bytes_of_the_stream(serve: Serve, programs: Programs) -> None:
    """It begins with the first frames, as with curl -N."""
    server = await serve(retry=1000)
    subscribing = await subscribe(programs, server, "--format", "raw", "--count", "1")
    await server.broadcaster.broadcast("one\ntwo", event="greeting")
    ended = await subscribing.ended()
    assert (ended.code, ended.err) == (0, b"")
    epoch = server.broadcaster.cursor.partition("-")[0]
    assert re.fullmatch(
        f": \nretry: \\d+\nevent: \\$open\ndata: .+\nid: {epoch}-0\n\n"
        f"event: greeting\ndata: one\ndata: two\nid: {epoch}-1\n\n".encode(),
        ended.out,
    )


EVIL = "a\x1b[2J\x1b]0;x\x07\x9b31m\x7f\r\x08\u202eb\tc\nd é\U0001f600"
SHOWN = "a\\u001b[2J\\u001b]0;x\\u0007\\u009b31m\\u007f\\u000d\\u0008\\u202eb\tc\nd é\U0001f600"


@pytest.mark.parametrize("form", ["text", "json", "raw"])
async def test_control_characters_are_escaped_on_a_terminal(
    server: Server, terminal: Start, form: str
) -> None:
    shown = await terminal("subscribe", "--url", server.url, "--format", form, "--count", "1")
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.publish(Event(EVIL, "\x1b]52;c;x\x07"))
    assert await shown.ended() == 0
    text = shown.raw.decode().replace("\r\n", "\n")
    assert not {each for each in text if not each.isprintable()} - {"\t", "\n"}
    # In an event stream CR ends a line, and arrives as LF.
    expected = {
        "text": SHOWN.replace("\\u000d", "\n"),
        "raw": SHOWN.replace("\\u000d", "\n").replace("\n", "\ndata: "),
        "json": SHOWN.replace("\\u000d", "\\r")
        .replace("\\u0008", "\\b")
        .replace("\t", "\\t")
        .replace("\n", "\\n"),
    }
    assert expected[form] in text
    if form != "text":
        assert "\\u001b]52;c;x\\u0007" in text


async def test_a_pipe_gets_control_characters_unchanged(server: Server, programs: Programs) -> None:
    """Another program may want them."""
    subscribing = await subscribe(programs, server, "--count", "1")
    await server.broadcaster.broadcast(EVIL)
    assert await subscribing.ended() == Ended(0, f"{EVIL}\n".replace("\r", "\n").encode())


async def test_the_command_ends_after_the_given_count(server: Server, programs: Programs) -> None:
    as_text = await subscribe(programs, server, "--count", "3")
    as_json = await subscribe(programs, server, "--count", "3", "--format", "json")
    for number in range(10):
        await server.broadcaster.broadcast(str(number))
    assert await as_text.ended() == Ended(0, b"0\n1\n2\n")
    ended = await as_json.ended()
    assert (ended.code, ended.err) == (0, b"")
    assert [json.loads(line)["data"] for line in ended.out.splitlines()] == ["0", "1", "2"]
    await until(lambda: not server.broadcaster.client_count)


@pytest.mark.parametrize("count", ["0", "-1", "x"])
async def test_a_count_is_1_or_more(programs: Programs, count: str) -> None:
    ended = await programs.run("subscribe", "--count", count)
    assert (ended.code, ended.out) == (2, b"")
    assert b"\nError: Invalid value for '--count': " in ended.err


async def test_a_command_runs_for_each_event(server: Server, programs: Programs, tmp_path: Path) -> None:
    """One runs at a time. It has the data on standard input and the fields in its environment."""
    file = tmp_path / "seen"
    fields = '"$SSE_CHANNEL" "$SSE_EVENT" "$SSE_DATA" "$SSE_ID"'
    command = f'{{ printf "%s|%s|%s|%s|" {fields}; cat; echo; }} >> {file}; echo ran'
    subscribing = await subscribe(programs, server, "--exec", command, "--count", "2")
    await server.broadcaster.broadcast("one'; exit 9 #", event="greeting")
    assert await subscribing.line() == b"ran\n"
    await server.broadcaster.broadcast(ODD)
    assert await subscribing.ended() == Ended(0, b"ran\n")
    epoch = server.broadcaster.cursor.partition("-")[0]
    assert file.read_text() == (
        f"default|greeting|one'; exit 9 #|{epoch}-1|one'; exit 9 #\ndefault|message|{ODD}|{epoch}-2|{ODD}\n"
    )


async def test_commands_run_in_order(server: Server, programs: Programs) -> None:
    subscribing = await subscribe(programs, server, "--exec", "cat; echo .", "--count", "5")
    for number in range(10):
        await server.broadcaster.broadcast(str(number))
    assert await subscribing.ended() == Ended(0, b"0.\n1.\n2.\n3.\n4.\n")


async def test_a_failing_command_is_reported_and_the_next_one_runs(
    server: Server, programs: Programs
) -> None:
    """A command that does not read its input has not failed."""
    subscribing = await subscribe(programs, server, "--exec", 'exit "$SSE_EVENT"', "--count", "3")
    await server.broadcaster.broadcast("x", event="7")
    await server.broadcaster.broadcast("x" * 500_000, event="0")
    await server.broadcaster.broadcast("x", event="9")
    assert await subscribing.ended() == Ended(
        0, err=b"sse-broadcast: the command ended with 7\nsse-broadcast: the command ended with 9\n"
    )


async def test_values_that_no_environment_can_hold_are_left_out(server: Server, programs: Programs) -> None:
    """Long data, and data with NUL, is on standard input only. A long type is left out."""
    command = 'echo "${SSE_EVENT-none} ${SSE_DATA-none} $(tr "\\0" 0 | wc -c)"'
    subscribing = await subscribe(programs, server, "--exec", command, "--count", "3")
    await server.broadcaster.broadcast("x" * 300_000, event="long")
    await server.broadcaster.broadcast("a\0b", event="nul")
    await server.broadcaster.broadcast("data", event="x" * 300_000)
    assert await subscribing.ended() == Ended(0, b"long none 300000\nnul none 3\nnone data 4\n")


async def test_the_environment_has_nothing_of_an_earlier_event(
    server: Server, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables left out are unset, also if `subscribe` itself was run by such a command."""
    monkeypatch.setenv("SSE_DATA", "of another")
    subscribing = await subscribe(programs, server, "--exec", 'echo "${SSE_DATA-none}"', "--count", "1")
    await server.broadcaster.broadcast("x" * 300_000)
    assert await subscribing.ended() == Ended(0, b"none\n")


async def test_the_command_gets_no_secret(serve: Serve, programs: Programs) -> None:
    server = await serve(token=TOKEN)
    jwks = "https://id.example.com/jwks?key=s3cret"
    said = {"TOKEN": TOKEN, "TOKEN_SECRET": "s3cret" * 6, "JWT_JWKS": jwks, "QUEUE_SIZE": "5"}
    env = {f"SSE_BROADCAST_{name}": value for name, value in said.items()}
    subscribing = await programs.cli(
        "subscribe", "--url", server.url, "--exec", "env", "--count", "1", env=env
    )
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("x")
    ended = await subscribing.ended()
    given = dict(line.split("=", 1) for line in ended.out.decode().splitlines() if line.startswith("SSE_"))
    ours = {name for name in given if name.startswith("SSE_BROADCAST_")} - {"SSE_BROADCAST_BANNER"}
    assert ours == {"SSE_BROADCAST_QUEUE_SIZE"}
    assert given["SSE_DATA"] == "x"
    assert TOKEN.encode() not in ended.out
    assert b"s3cret" not in ended.out


async def test_the_command_gets_no_password_of_the_url(server: Server, programs: Programs) -> None:
    env = {"SSE_BROADCAST_URL": server.url.replace("://", "://ann:s3cret@")}
    command = 'echo "$SSE_BROADCAST_URL"'
    subscribing = await programs.cli("subscribe", "--exec", command, "--count", "1", env=env)
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("x")
    assert await subscribing.ended() == Ended(0, f"{server.url}\n".encode())


async def test_the_command_ends_when_its_output_is_closed(server: Server, programs: Programs) -> None:
    """`| head -1` ends it after one event, silently and without a second event."""
    piped = await shell(programs, server, '{ "$0" subscribe --url "$1"; echo "exit $?" >&2; } | head -1')
    await server.broadcaster.broadcast("one")
    assert await piped.ended() == Ended(0, b"one\n", b"exit 0\n")
    await until(lambda: not server.broadcaster.client_count)


async def test_the_command_ends_if_its_output_is_closed_from_the_start(
    server: Server, programs: Programs
) -> None:
    script = '{ "$0" subscribe --url "$1"; echo "exit $?" >&2; } | true'
    piped = await programs.start("sh", "-c", script, str(SCRIPT), server.url)
    assert await piped.ended() == Ended(0, err=b"exit 0\n")


async def test_its_output_may_be_a_file(server: Server, programs: Programs, tmp_path: Path) -> None:
    """Event loops cannot watch a regular file, so it is written like a pipe."""
    file = tmp_path / "out"
    started = await shell(programs, server, f'"$0" subscribe --url "$1" --count 1 > {file}')
    await server.broadcaster.broadcast("one")
    assert await started.ended() == Ended(0)
    assert file.read_bytes() == b"one\n"


async def test_ctrl_c_is_130(server: Server, programs: Programs) -> None:
    subscribing = await subscribe(programs, server)
    await server.broadcaster.broadcast("one")
    assert await subscribing.line() == b"one\n"
    subscribing.send_signal(signal.SIGINT)
    assert await subscribing.ended() == Ended(130)
    await until(lambda: not server.broadcaster.client_count)


async def test_ctrl_c_while_waiting_to_reconnect_is_130(serve: Serve, programs: Programs) -> None:
    """The server is unreachable."""
    server = await serve(retry=60_000)
    subscribing = await subscribe(programs, server)
    await server.stop()
    assert await subscribing.error_line() == b'sse-broadcast: $close {"reason": "drain"}\n'
    subscribing.send_signal(signal.SIGINT)
    assert await subscribing.ended() == Ended(130)


def but_for_outages(err: bytes) -> bytes:
    """Return the lines on standard error without those of attempts while there was no server."""
    lines = err.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.endswith(b"; trying again\n"))


async def test_subscribe_continues_after_a_restart(programs: Programs) -> None:
    """Standard error has the end of the stream and the lost history. New events follow."""
    first = await programs.serve("--retry", "1", "--log-level", "warning")
    subscribing = await programs.cli("subscribe", "--url", first.url, "--count", "2")
    await reach(programs, first.url, "one")
    assert await subscribing.line() == b"one\n"
    first.process.send_signal(signal.SIGTERM)
    assert await first.process.ended() == Ended(0)

    second = await programs.serve("--port", str(first.port), "--log-level", "warning")
    assert second.url == first.url
    await reach(programs, second.url, "two")
    # Events published before it reconnected are in a history of which it has nothing.
    reset = '{"reason": "epoch", "channels": ["default"], "missed": null}'
    reported = f'sse-broadcast: $close {{"reason": "drain"}}\nsse-broadcast: $reset {reset}\n'
    ended = await subscribing.ended()
    assert (ended.code, ended.out, but_for_outages(ended.err)) == (0, b"two\n", reported.encode())


async def test_subscribe_continues_after_a_crash(programs: Programs) -> None:
    first = await programs.serve("--retry", "1")
    subscribing = await programs.cli("subscribe", "--url", first.url, "--format", "raw", "--count", "1")
    assert await subscribing.line() == b": \n"
    first.process.send_signal(signal.SIGKILL)
    await first.process.ended()

    second = await programs.serve("--port", str(first.port))
    await reach(programs, second.url, "two")
    ended = await subscribing.ended()
    reported = but_for_outages(ended.err)
    assert (ended.code, reported.count(b"\n")) == (0, 1)
    assert reported.startswith(b'sse-broadcast: $reset {"reason": "epoch",')
    epochs = re.fullmatch(
        rb"retry: \d\nevent: \$open\ndata: .+\nid: (.{8})-0\n\n"
        rb": \nretry: \d+\nevent: \$reset\ndata: .+\nid: (.{8}-\d+)\n\n"
        rb"event: \$open\ndata: .+\nid: (.{8}-\d+)\n\ndata: two\nid: (.{8})-\d+\n\n",
        ended.out,
    )
    assert epochs is not None, ended.out
    assert epochs[2] == epochs[3]
    assert epochs[1] != epochs[4] == epochs[2].partition(b"-")[0]


async def test_a_path_without_a_stream_is_one_line(server: Server, programs: Programs) -> None:
    """A 404 is reported and not retried."""
    assert await programs.run("subscribe", "--url", f"{server.url}/nope") == Ended(
        1,
        err=f"sse-broadcast: {server.url}/nope/events: 404 Not Found: nothing is at /nope/events;"
        " GET /events subscribes, POST /send publishes\n".encode(),
    )


# Networks.


CLOSED = b'event: $close\nretry: 500\ndata: {"reason": "finished"}\nid: k3f9-1041\n\n'
HEARTBEAT = b"event: $heartbeat\ndata: {}\nid: k3f9-1055\n\n"
TOLD = b'sse-broadcast: $close {"reason": "finished"}\n'


async def test_an_error_status_of_a_proxy_does_not_end_it(speak: Speak, programs: Programs) -> None:
    down = plain("521 Down", "text/plain", "")
    script = await speak(
        OPENED + chunk(RETRY + b"data: one\nid: a\n\n") + END,
        down,
        STREAM + chunk(b"data: two\nid: b\n\n") + END,
        down,
        STREAM + chunk(b"data: three\n\n"),
    )
    reported = f"sse-broadcast: {script.url}/events: 521 Down; trying again\n"
    assert await programs.run("subscribe", "--count", "3", "--url", script.url) == Ended(
        0, b"one\ntwo\nthree\n", 2 * reported.encode()
    )
    assert script.resumed_from() == [None, "a", "a", "b", "b"]


def test_an_outage_is_reported_once_per_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """For a response the reason is its status: a proxy may send another text each time."""
    outage = Outage()
    reasons = [
        ClientError("cannot reach it: refused"),
        ClientError("cannot reach it: timed out"),
        ClientError("521 Down: ray 1", status=521),
        ClientError("521 Down: ray 2", status=521),
        ClientError("cannot reach it: refused"),
    ]
    for reason in reasons:
        outage.tell(reason)
    outage.end()
    outage.tell(reasons[0])
    reported = [str(reason) for reason in (*reasons[:3], reasons[0])]
    assert capsys.readouterr().err == "".join(f"sse-broadcast: {each}; trying again\n" for each in reported)


async def test_a_proxy_without_its_server_is_reported_and_retried(speak: Speak, programs: Programs) -> None:
    """It retries from the first response on. A user who sees a wrong URL presses Ctrl-C."""
    script = await speak(plain("502 Bad Gateway", "text/plain", ""), Held(OPENED))
    subscribing = await programs.cli("subscribe", "--url", script.url)
    reported = f"sse-broadcast: {script.url}/events: 502 Bad Gateway; trying again\n"
    assert await subscribing.error_line() == reported.encode()
    subscribing.send_signal(signal.SIGINT)
    assert await subscribing.ended() == Ended(130)


@pytest.mark.parametrize(
    ("url", "reason"), [("http://127.0.0.1:1", "refused"), ("http://nowhere.invalid", "no such host")]
)
async def test_a_server_that_never_responded_is_not_retried(
    programs: Programs, url: str, reason: str
) -> None:
    """Its URL is probably wrong."""
    assert await programs.run("subscribe", "--url", url) == Ended(
        1, err=f"sse-broadcast: cannot reach {url}: {reason}\n".encode()
    )


@pytest.mark.parametrize("arguments", [("--count", "9"), ("--format", "json")])
async def test_a_204_ends_it_with_success(
    speak: Speak, programs: Programs, arguments: tuple[str, ...]
) -> None:
    """This holds whatever --count has left."""
    script = await speak(OPENED + chunk(CLOSED) + END, NO_CONTENT)
    ended = await programs.run("subscribe", "--url", script.url, *arguments)
    as_json = b'{"channel":null,"id":"k3f9-1041","event":"$close","data":{"reason":"finished"}}\n'
    assert ended == (Ended(0, as_json) if "json" in arguments else Ended(0, err=TOLD))
    assert script.resumed_from() == [None, "k3f9-1041"]


async def test_a_204_at_once_is_a_silent_success(speak: Speak, programs: Programs) -> None:
    script = await speak(NO_CONTENT)
    assert await programs.run("subscribe", "--url", script.url) == Ended(0)


async def test_a_refusal_as_a_stream_is_reported_and_retried(speak: Speak, programs: Programs) -> None:
    full = b'event: $close\nretry: 500\ndata: {"reason": "full"}\n\n'
    script = await speak(STREAM + chunk(full) + END, STREAM + chunk(b"data: one\n\n"))
    assert await programs.run("subscribe", "--count", "1", "--url", script.url) == Ended(
        0, b"one\n", b'sse-broadcast: $close {"reason": "full"}\n'
    )


ENVELOPE = b'{"channel":"default","id":"k3f9-1050","event":"message","data":"one","time":1.5}'


@pytest.mark.parametrize(
    ("how", "data", "shown"),
    [
        (("--format", "text"), b"one", b"one\n"),
        (("--format", "json"), ENVELOPE, ENVELOPE + b"\n"),
        (("--exec", 'cat; echo " $SSE_EVENT"'), ENVELOPE, b"one message\n"),
    ],
)
async def test_bookkeeping_events_move_the_cursor_and_are_not_shown(
    speak: Speak, programs: Programs, file: Path, how: tuple[str, str], data: bytes, shown: bytes
) -> None:
    """`$open` and `$heartbeat` do not count for `--count` either."""
    script = await speak(Held(OPENED + chunk(b"data: %b\nid: k3f9-1050\n\n" % data + HEARTBEAT)))
    arguments = ("--url", script.url, "--state", str(file), "--count", "2", *how)
    subscribing = await programs.cli("subscribe", *arguments)
    await recorded(file, "k3f9-1055")
    subscribing.send_signal(signal.SIGINT)
    assert await subscribing.ended() == Ended(130, shown)


async def test_the_first_frames_alone_move_the_cursor(speak: Speak, programs: Programs, file: Path) -> None:
    """Killed before the first event, it resumes where it began."""
    script = await speak(Held(OPENED))
    subscribing = await programs.cli("subscribe", "--url", script.url, "--state", str(file))
    await recorded(file, "k3f9-1041")
    subscribing.send_signal(signal.SIGINT)
    assert await subscribing.ended() == Ended(130)


async def test_raw_shows_all_bytes_once(speak: Speak, programs: Programs) -> None:
    """They are on standard output only. Reports for people are on standard error too."""
    script = await speak(OPENED + chunk(HEARTBEAT + CLOSED) + END, NO_CONTENT)
    opening = scripted.OPENING
    assert await programs.run("subscribe", "--format", "raw", "--url", script.url) == Ended(
        0, opening + HEARTBEAT + CLOSED, TOLD
    )


# Channels and types.


async def test_events_of_several_channels_have_their_channel(server: Server, programs: Programs) -> None:
    """Channels are by name and by pattern. An event of two of them is shown once."""
    wanted = ("--channel", "news", "--channel", "orders.*")
    as_json = await subscribe(programs, server, *wanted, "--format", "json", "--count", "3")
    executing = await subscribe(programs, server, *wanted, "--exec", 'echo "$SSE_CHANNEL"', "--count", "3")
    for channels in (["news"], ["default"], ["orders.17"], ["alerts", "orders.18", "news"]):
        await server.broadcaster.broadcast(channels[0], channels=channels)
    ended = await as_json.ended()
    assert [(line["channel"], line["data"]) for line in map(json.loads, ended.out.splitlines())] == [
        ("news", "news"),
        ("orders.17", "orders.17"),
        ("orders.18", "alerts"),
    ]
    assert await executing.ended() == Ended(0, b"news\norders.17\norders.18\n")


async def test_types_can_be_selected(server: Server, programs: Programs) -> None:
    subscribing = await subscribe(programs, server, "--event", "a", "--event", "message")
    for event_type in ("a", "b", "message"):
        await server.broadcaster.broadcast(event_type, event=event_type)
    assert [await subscribing.line() for _ in range(2)] == [b"a\n", b"message\n"]
    await server.stop()
    assert await subscribing.error_line() == b'sse-broadcast: $close {"reason": "drain"}\n'


async def test_a_subscription_may_begin_in_the_past(server: Server, programs: Programs) -> None:
    """It begins with all history, the newest event of each channel, an age or an id."""
    middle = (await server.broadcaster.broadcast("one")).id
    for message in ("two", "three"):
        await server.broadcaster.broadcast(message)
    for since, shown in (
        ("earliest", b"one\ntwo\nthree\n"),
        ("last", b"three\n"),
        ("10m", b"one\ntwo\nthree\n"),
        (middle, b"two\nthree\n"),
    ):
        count = str(shown.count(b"\n"))
        ended = await programs.run("subscribe", "--since", since, "--count", count, "--url", server.url)
        assert ended == Ended(0, shown), since


@pytest.mark.parametrize(
    ("arguments", "path", "reason"),
    [
        (("--channel", "a/b"), "events?channel=a/b", "channel: must not contain '/': 'a/b'"),
        (
            ("--channel", "a", "--channel", ""),
            "events?channel=a&channel=",
            "channel: must be 1 to 128 characters: ''",
        ),
        (
            ("--channel", "."),
            "events?channel=.",
            "channel: must not be '.', which clients resolve as a folder in a path",
        ),
        (("--channel", "a", "--event", ""), "events/a?event=", "event: must not be empty"),
    ],
)
async def test_a_refusal_of_the_server_is_one_line(
    server: Server, programs: Programs, arguments: tuple[str, ...], path: str, reason: str
) -> None:
    assert await programs.run("subscribe", *arguments, "--url", server.url) == Ended(
        1, err=f"sse-broadcast: {server.url}/{path}: 400 Bad Request: {reason}\n".encode()
    )


# The cursor file.


async def recorded(file: Path, id: str) -> None:
    await until(lambda: file.exists() and file.read_text() == f"{id}\n")


@pytest.mark.parametrize("form", ["text", "json", "raw"])
async def test_a_restart_continues_at_the_cursor(
    server: Server, programs: Programs, file: Path, form: str
) -> None:
    """Events published between two runs are shown in the second, others are not shown twice."""
    arguments = ("--state", str(file), "--format", form)
    subscribing = await subscribe(programs, server, *arguments, "--count", "1")
    receipt = await server.broadcaster.broadcast("one")
    assert b"one" in (await subscribing.ended()).out
    assert file.read_text() == f"{receipt.id}\n"
    await server.broadcaster.broadcast("two")
    again = await programs.run("subscribe", *arguments, "--count", "1", "--url", server.url)
    assert (again.code, again.err) == (0, b"")
    assert b"two" in again.out
    assert b"one" not in again.out
    assert file.read_text() == f"{server.broadcaster.cursor}\n"


async def test_the_cursor_is_written_before_the_first_event(
    server: Server, programs: Programs, file: Path
) -> None:
    """Nothing was ever published to the channel. Killed then, it loses nothing."""
    arguments = ("--state", str(file), "--channel", "quiet")
    subscribing = await subscribe(programs, server, *arguments)
    await recorded(file, server.broadcaster.cursor)
    subscribing.send_signal(signal.SIGKILL)
    await subscribing.ended()
    await server.broadcaster.broadcast("one", channels=("quiet",))
    again = await programs.run("subscribe", *arguments, "--count", "1", "--url", server.url)
    assert again == Ended(0, b"one\n")


async def test_the_cursor_does_not_pass_the_count(server: Server, programs: Programs, file: Path) -> None:
    """Events that arrived with the last one shown are shown by the next run."""
    for number in range(7):
        await server.broadcaster.broadcast(str(number))
    arguments = ("subscribe", "--state", str(file), "--since", "earliest", "--url", server.url)
    for count, shown in (("2", b"0\n1\n"), ("1", b"2\n"), ("3", b"3\n4\n5\n"), ("1", b"6\n")):
        assert await programs.run(*arguments, "--count", count) == Ended(0, shown)
    assert file.read_text() == f"{server.broadcaster.cursor}\n"


async def test_the_cursor_file_precedes_since(server: Server, programs: Programs, file: Path) -> None:
    """--since applies only without a cursor."""
    one = await server.broadcaster.broadcast("one")
    await server.broadcaster.broadcast("two")
    file.write_text(one.id)
    arguments = ("subscribe", "--state", str(file), "--since", "earliest", "--count", "1")
    assert await programs.run(*arguments, "--url", server.url) == Ended(0, b"two\n")


async def test_killed_at_any_moment_it_loses_no_event(serve: Serve, programs: Programs, file: Path) -> None:
    """Each run resumes at the recorded cursor: no event is missing, and no older one comes again."""
    server = await serve(history_size=100_000, history_bytes=1 << 27)
    file.write_text(server.broadcaster.cursor)
    publishing = asyncio.create_task(publish_steadily(server))
    done = 0
    try:
        for patience in (1, 40, 7, 200, 90, 3):
            subscribing = await programs.cli("subscribe", "--state", str(file), "--url", server.url)
            for _ in range(patience):
                await subscribing.line()
            subscribing.send_signal(signal.SIGKILL)
            out = (await subscribing.ended()).out
            lines = patience + out.count(b"\n")
            before, done = done, int(file.read_text().partition("-")[2])
            # It resumed at the recorded cursor, and has recorded no more than it has shown.
            assert before <= done <= before + lines
    finally:
        publishing.cancel()
    count = server.broadcaster.counts.published - done
    rest = await programs.run("subscribe", "--state", str(file), "--count", str(count), "--url", server.url)
    assert [int(line) for line in rest.out.split()] == list(range(done + 1, done + count + 1))


async def publish_steadily(server: Server) -> None:
    """Publish the numbers from 1, which are also the positions."""
    number = 0
    while True:
        for _ in range(5):
            number += 1
            await server.broadcaster.broadcast(str(number))
        await asyncio.sleep(0.001)


async def test_each_run_shows_the_next_event(server: Server, programs: Programs, file: Path) -> None:
    """Killed between two events, it has recorded the first and shows the second in its next run."""
    arguments = ("--state", str(file))
    for number in range(3):
        subscribing = await programs.cli("subscribe", "--url", server.url, *arguments)
        if number == 0:
            await recorded(file, server.broadcaster.cursor)
        receipt = await server.broadcaster.broadcast(str(number))
        assert await subscribing.line() == b"%d\n" % number
        await recorded(file, receipt.id)
        subscribing.send_signal(signal.SIGKILL)
        assert await subscribing.ended() == Ended(-signal.SIGKILL)


async def test_an_event_is_recorded_after_its_command_has_ended(
    server: Server, programs: Programs, file: Path
) -> None:
    """Killed while it runs, the next run repeats the command for that event only."""
    for number in range(1, 4):
        await server.broadcaster.broadcast(str(number))
    arguments = ("--state", str(file), "--since", "earliest", "--url", server.url)
    waiting = 'echo "$SSE_DATA"; [ "$SSE_DATA" != 2 ] || exec sleep 600'
    subscribing = await programs.cli("subscribe", *arguments, "--exec", waiting)
    assert [await subscribing.line() for _ in range(2)] == [b"1\n", b"2\n"]
    assert file.read_text().endswith("-1\n")
    subscribing.signal_all(signal.SIGKILL)
    await subscribing.ended()
    again = await programs.run("subscribe", *arguments, "--exec", 'echo "$SSE_DATA"', "--count", "2")
    assert again == Ended(0, b"2\n3\n")


async def test_a_loss_is_reported_once_and_recorded(programs: Programs, file: Path) -> None:
    """A new server does not know the id. It reports that, and its own id is recorded."""
    first = await programs.serve()
    subscribing = await programs.cli("subscribe", "--state", str(file), "--url", first.url, "--count", "1")
    await reach(programs, first.url, "one")
    assert await subscribing.ended() == Ended(0, b"one\n")
    old = file.read_text()

    second = await programs.serve()
    again = await programs.cli("subscribe", "--state", str(file), "--url", second.url)
    reset = b'sse-broadcast: $reset {"reason": "epoch", "channels": ["default"], "missed": null}\n'
    assert await again.error_line() == reset
    await until(lambda: file.read_text() != old)
    again.send_signal(signal.SIGINT)
    assert await again.ended() == Ended(130)

    await programs.run("publish", "two", "--url", second.url)
    third = await programs.run("subscribe", "--state", str(file), "--count", "1", "--url", second.url)
    assert third == Ended(0, b"two\n")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (".", "is not a file"),
        ("none/state", "No such file or directory"),
        ("odd", "does not hold an event id: 'not an id'"),
        ("empty", "does not hold an event id: ''"),
    ],
)
async def test_an_unusable_cursor_file_is_2(
    programs: Programs, tmp_path: Path, path: str, reason: str
) -> None:
    (tmp_path / "odd").write_text("not an id\n")
    (tmp_path / "empty").touch()
    file = tmp_path / path
    assert await programs.run("subscribe", "--state", str(file), "--url", "http://not.used.invalid") == Ended(
        2, err=f"sse-broadcast: --state: {file}: {reason}\n".encode()
    )
    assert (tmp_path / "odd").read_text() == "not an id\n"


RESET = Event("{}", "$reset", "r")


@pytest.mark.parametrize(
    ("events", "room", "shown", "cursor"),
    [
        ([], 1, 0, "end"),
        ([Event("a", id="1")], 1, 1, "end"),
        ([Event("a", id="1")], 2, 1, "end"),
        ([Event("a", id="1"), Event("b", id="2")], None, 2, "end"),
        ([Event("a", id="1"), Event("b", id="2")], 1, 1, "1"),
        ([RESET, Event("a", id="1"), RESET], 1, 2, "1"),
        ([RESET, Event("a"), Event("b")], 1, 2, "r"),
        ([Event("a"), Event("b", id="2")], 1, 1, "begin"),
    ],
)
def test_a_chunk_is_cut_after_the_last_event_shown(
    events: list[Event], room: int | None, shown: int, cursor: str
) -> None:
    piece = first(StreamChunk(b"raw", events, "end"), "begin", room)
    assert piece == StreamChunk(b"raw", events[:shown], cursor)


def test_a_chunk_may_be_shown_event_by_event() -> None:
    piece = StreamChunk(b"raw", [Event("a"), Event("b", id="2"), Event("c")], "end")
    assert [(part.events, part.last_event_id) for part in one_by_one(piece, "begin")] == [
        ([Event("a")], "begin"),
        ([Event("b", id="2")], "2"),
        ([Event("c")], "2"),
        ([], "end"),
    ]


# What hands type.


@pytest.mark.parametrize(
    "names", [("news", "orders.*"), ("news,orders.*",), ("news", "--channel", "orders.*")]
)
async def test_channels_may_be_named_without_an_option(
    server: Server, programs: Programs, names: tuple[str, ...]
) -> None:
    subscribing = await subscribe(programs, server, *names, "--count", "2")
    await server.broadcaster.broadcast("not this")
    await server.broadcaster.broadcast("one", channels=["news"])
    await server.broadcaster.broadcast("two", channels=["orders.7"])
    assert await subscribing.ended() == Ended(0, b"one\ntwo\n")


async def test_a_terminal_says_that_it_is_connected_and_waits(server: Server, terminal: Start) -> None:
    """On standard error, so that the events alone are in a pipe."""
    shown = await terminal("subscribe", "news", "--url", server.url, "--count", "1")
    told = f"sse-broadcast: connected to {server.url}, waiting for events on news; Ctrl-C ends"
    await shown.shows(lambda lines: lines[0] == told)
    await server.broadcaster.broadcast("hello", channels=["news"])
    assert await shown.ended() == 0
    assert shown.lines[:2] == [told, "hello"]
