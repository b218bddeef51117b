"""`sse-broadcast publish`."""

import asyncio
import http
import os
import pty
import re
import signal
from pathlib import Path

import pytest

from sse_broadcast.config.schema import Config
from sse_broadcast.publication import Received
from sse_broadcast.server.runner import Server
from sse_broadcast.stream import Stream
from tests.conftest import Serve
from tests.support import process, scripted
from tests.support.process import Ended, Programs
from tests.support.scripted import Speak, plain
from tests.support.sockets import PATIENCE, until

programs = pytest.fixture(process.programs)
speak = pytest.fixture(scripted.speak)

ODD = "\"quoted\" 'twice'\n\ntab\tbackslash \\n $HOME `x` \U0001f600 \u2028 é"


MISSING = f"422 {http.HTTPStatus(422).phrase}: line {{}}: message: is missing.*"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lines"


async def received(stream: Stream, count: int) -> list[tuple[str, str]]:
    return [(event.event, event.data) for event in [await anext(stream) for _ in range(count)]]


async def test_an_argument_is_published(server: Server, programs: Programs) -> None:
    async with server.broadcaster.subscribe() as stream:
        assert await programs.run("publish", "hello", "--url", server.url) == Ended(0, b"sent to 1 client\n")
        assert await received(stream, 1) == [("message", "hello")]


async def test_an_event_may_have_a_type(server: Server, programs: Programs) -> None:
    """`--event` is the name that addEventListener takes."""
    async with server.broadcaster.subscribe() as stream:
        ended = await programs.run("publish", "--event", "price", '{"EUR": 1.08}', "--url", server.url)
        assert ended == Ended(0, b"sent to 1 client\n")
        assert await received(stream, 1) == [("price", '{"EUR": 1.08}')]


@pytest.mark.parametrize("message", [ODD, "", " ", "--help", "-"])
async def test_any_text_is_published_unchanged(server: Server, programs: Programs, message: str) -> None:
    """It may have quotes, line ends and emoji, or be empty.

    It may begin with a dash after `--`, or be a dash in a line.
    """
    async with server.broadcaster.subscribe() as stream:
        if message == "-":
            ended = await programs.run("publish", "--url", server.url, "--", "-", stdin=b"-\n")
            assert ended == Ended(0, b"sent 1 line\n")
        else:
            ended = await programs.run("publish", "--url", server.url, "--", message)
            assert ended == Ended(0, b"sent to 1 client\n")
        assert await received(stream, 1) == [("message", message)]


@pytest.mark.parametrize("arguments", [("-",), ()])
async def test_lines_are_published_as_they_come(
    server: Server, programs: Programs, arguments: tuple[str, ...]
) -> None:
    """Subscribers have the first one before the second is written."""
    async with server.broadcaster.subscribe() as stream:
        publishing = await programs.cli("publish", *arguments, "--event", "log", "--url", server.url)
        for line in ("one", "", ODD.replace("\n", " ")):
            await publishing.feed(f"{line}\n".encode())
            assert await received(stream, 1) == [("log", line)]
        await publishing.feed(b"CRLF\r\nwithout an end")
        publishing.end_input()
        assert await publishing.ended() == Ended(0, b"sent 5 lines\n")
        assert await received(stream, 2) == [("log", "CRLF"), ("log", "without an end")]


async def test_no_lines_are_no_error(server: Server, programs: Programs) -> None:
    assert await programs.run("publish", "-", "--url", server.url) == Ended(0, b"sent 0 lines\n")
    assert server.broadcaster.counts.published == 0


async def test_lines_may_come_from_a_file(server: Server, programs: Programs, file: Path) -> None:
    """Event loops cannot wait for a regular file, so a thread reads it."""
    file.write_text("one\ntwo\n")
    async with server.broadcaster.subscribe() as stream:
        script = f'"$0" publish - --url "$1" < {file}'
        shell = await programs.start("sh", "-c", script, str(process.SCRIPT), server.url)
        assert await shell.ended() == Ended(0, b"sent 2 lines\n")
        assert await received(stream, 2) == [("message", "one"), ("message", "two")]


async def test_ctrl_c_ends_a_wait_for_a_line(server: Server, programs: Programs) -> None:
    """It ends at once, with the exit code of an interrupted command."""
    async with server.broadcaster.subscribe() as stream:
        publishing = await programs.cli("publish", "-", "--url", server.url)
        await publishing.feed(b"one\n")
        assert await received(stream, 1) == [("message", "one")]
        publishing.send_signal(signal.SIGINT)
        assert await publishing.ended() == Ended(130)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("$x", "event: types that begin with $ are reserved for the server: '$x'"),
        ("", "event: must not be empty"),
        ("a\nb", "event: must not contain LF: 'a\\nb'"),
    ],
)
async def test_a_refusal_of_the_server_is_one_line(
    server: Server, programs: Programs, event: str, reason: str
) -> None:
    status = f"422 {http.HTTPStatus(422).phrase}"
    assert await programs.run("publish", "--event", event, "x", "--url", server.url) == Ended(
        1, err=f"sse-broadcast: {server.url}/send: {status}: {reason}\n".encode()
    )
    assert server.broadcaster.counts.published == 0


async def test_an_event_that_is_too_large_is_one_line(serve: Serve, programs: Programs) -> None:
    server = await serve(max_event=100)
    ended = await programs.run("publish", "-", "--url", server.url, stdin=b"one\n" + b"x" * 101 + b"\ntwo\n")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err.startswith(f"sse-broadcast: {server.url}/send: 413 ".encode())
    assert ended.err.endswith(
        b": line 2: data: is 101 bytes, more than the 100 that max_event allows; 1 published\n"
    )
    assert server.broadcaster.counts.published == 1


async def test_bytes_that_are_not_utf8_are_one_line(server: Server, programs: Programs) -> None:
    assert await programs.run("publish", "-", "--url", server.url, stdin=b"ok\nab\xff\nok\n") == Ended(
        1, err=b"sse-broadcast: line 2: is not UTF-8 at byte 2; 1 published\n"
    )
    typed = await programs.start(
        "sh", "-c", '"$0" publish --url "$1" "$(printf "ab\\377")"', str(process.SCRIPT), server.url
    )
    assert await typed.ended() == Ended(
        1, err=b"sse-broadcast: cannot publish a lone surrogate, '\\udcff', at character 2\n"
    )
    assert server.broadcaster.counts.published == 1


async def history(server: Server, *channels: str) -> list[Received]:
    """Return all published data, from the history."""
    count = server.broadcaster.counts.published
    async with (
        asyncio.timeout(PATIENCE),
        server.broadcaster.subscribe(*channels or ("*",), since="earliest") as stream,
    ):
        return [await anext(stream) for _ in range(count)]


# Channels, and fields of an event.


async def test_an_event_may_go_to_several_channels(server: Server, programs: Programs) -> None:
    """It is one event: a subscriber of both gets it once."""
    async with server.broadcaster.subscribe("news", "alerts") as stream:
        ended = await programs.run(
            "publish", "--channel", "news", "--channel", "alerts", "x", "--url", server.url
        )
        assert ended == Ended(0, b"sent to 1 client\n")
        assert (await anext(stream)).channel == "news"
    assert server.broadcaster.channel("alerts").events == 1
    assert server.broadcaster.channel("default").events == 0


async def test_lines_go_to_their_channel(server: Server, programs: Programs) -> None:
    ended = await programs.run("publish", "--channel", "logs", "--url", server.url, stdin=b"one\ntwo\n")
    assert ended == Ended(0, b"sent 2 lines\n")
    assert [event.data for event in await history(server, "logs")] == ["one", "two"]


async def test_an_event_may_have_an_id_and_a_retry(server: Server, programs: Programs) -> None:
    ended = await programs.run("publish", "--id", "order-17", "--retry", "700", "x", "--url", server.url)
    assert ended == Ended(0, b"sent to 0 clients\n")
    assert await history(server) == [Received("default", "x", "message", "order-17", 700)]


async def test_every_line_has_the_given_type_key_and_retry(server: Server, programs: Programs) -> None:
    """The server gets the key, and refuses an empty one."""
    arguments = ("publish", "--event", "log", "--retry", "700", "--url", server.url)
    ended = await programs.run(*arguments, "--key", "k", stdin=b"one\ntwo\n")
    assert ended == Ended(0, b"sent 2 lines\n")
    assert [(event.event, event.retry) for event in await history(server)] == [("log", 700), ("log", 700)]
    ended = await programs.run(*arguments, "--key", "", stdin=b"one\ntwo\n")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err.endswith(b": line 1: key: must be 1 to 128 characters: ''; 0 published\n")


@pytest.mark.parametrize(
    ("channel", "path", "reason"),
    [
        ("a/b", "send?channel=a/b", "channel: must not contain '/': 'a/b'"),
        ("a,b", "send?channel=a,b", "channel: must not contain ',': 'a,b'"),
        ("a b", "send?channel=a+b", "channel: must not contain ' ': 'a b'"),
        ("?", "send?channel=?", "channel: must not contain '?': '?'"),
        ("..", "send?channel=..", "channel: must not be '..', which clients resolve as a folder in a path"),
        ("", "send?channel=", "channel: must be 1 to 128 characters: ''"),
        ("a*", "send/a*", "channel: must not contain '*': 'a*'"),
        ("x" * 129, f"send/{'x' * 129}", f"channel: must be 1 to 128 characters: '{'x' * 80}'"),
    ],
)
async def test_a_bad_channel_is_one_line(
    server: Server, programs: Programs, channel: str, path: str, reason: str
) -> None:
    """The error is the server's, for any characters that mean something in a URL."""
    assert await programs.run("publish", "--channel", channel, "x", "--url", server.url) == Ended(
        1, err=f"sse-broadcast: {server.url}/{path}: 400 Bad Request: {reason}\n".encode()
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--id", "x"), "--id: needs MESSAGE, since every line cannot have the same id."),
        (("--id", "x", "-"), "--id: needs MESSAGE, since every line cannot have the same id."),
        (("--id", "x", "--file", "f"), "--id: needs MESSAGE, since every line cannot have the same id."),
        (("--file", "f", "x"), "MESSAGE and --file: give only one of them."),
        (
            ("--format", "json", "--event", "x", "{}"),
            "--event: not with this --format, put it in the JSON of each event.",
        ),
        (
            ("--format", "ndjson", "--retry", "700"),
            "--retry: not with this --format, put it in the JSON of each event.",
        ),
        (
            ("--retry-for", "-1", "x"),
            "Invalid value for '--retry-for': -1.0 is not in the range 0<=x<=86400.",
        ),
        (("--retry", "-1", "x"), "Invalid value for '--retry': -1 is not in the range 500<=x<=3600000."),
    ],
)
async def test_contradicting_options_are_bad_usage(
    programs: Programs, arguments: tuple[str, ...], reason: str
) -> None:
    """The error comes before anything is read or published."""
    ended = await programs.run("publish", *arguments)
    assert (ended.code, ended.out) == (2, b"")
    assert ended.err.endswith(f"\nError: {reason}\n".encode())


# JSON.


@pytest.mark.parametrize("way", ["argument", "pipe", "file"])
async def test_json_is_one_event(server: Server, programs: Programs, tmp_path: Path, way: str) -> None:
    """It is an object of any number of lines, as an argument or from a file."""
    text = '{"data": {"EUR": 1.080},\n "event": "price",\n "channel": "rates", "id": "r1"}\n'
    file = tmp_path / "event.json"
    file.write_text(text)
    given = {"argument": (text,), "pipe": ("-",), "file": ("--file", str(file))}[way]
    arguments = ("publish", "--format", "json", *given, "--url", server.url)
    assert await programs.run(*arguments, stdin=text.encode()) == Ended(0, b"sent to 0 clients\n")
    assert await history(server) == [Received("rates", '{"EUR":1.080}', "price", "r1")]


async def test_a_json_array_is_published_whole_or_not_at_all(server: Server, programs: Programs) -> None:
    arguments = ("publish", "--format", "json", "--channel", "c", "--url", server.url)
    async with server.broadcaster.subscribe("c") as stream:
        ended = await programs.run(*arguments, '[{"message": "one"}, {"message": "two"}]')
        assert ended == Ended(0, b"sent 2 events to 1 client\n")
        assert await received(stream, 2) == [("message", "one"), ("message", "two")]
        ended = await programs.run(*arguments, '[{"message": "one"}, {"event": "two"}]')
    status = f"422 {http.HTTPStatus(422).phrase}"
    reported = f"sse-broadcast: {server.url}/send/c: {status}: item 2: message: is missing"
    assert (ended.code, ended.out, ended.err.count(b"\n")) == (1, b"", 1)
    assert ended.err.startswith(reported.encode())
    assert server.broadcaster.counts.published == 2


@pytest.mark.parametrize("text", ["", "{", "no JSON"])
async def test_malformed_json_is_one_line(server: Server, programs: Programs, text: str) -> None:
    ended = await programs.run("publish", "--format", "json", "--url", server.url, stdin=text.encode())
    assert (ended.code, ended.out) == (1, b"")
    reported = f"sse-broadcast: {server.url}/send: 400 Bad Request: body: is not JSON: "
    assert ended.err.startswith(reported.encode())
    assert ended.err.count(b"\n") == 1


# NDJSON, and many lines.


async def test_ndjson_is_one_event_per_line(server: Server, programs: Programs) -> None:
    lines = (
        b'{"message": "one", "channel": "a"}\r\n\n'
        b'{"data": [2], "event": "n", "channels": ["b", "c"]}\n   \n'
        b'{"message": "three", "id": "x"}'
    )
    ended = await programs.run("publish", "--format", "ndjson", "--url", server.url, stdin=lines)
    assert ended == Ended(0, b"sent 3 events\n")
    assert [(event.channel, event.event, event.data) for event in await history(server)] == [
        ("a", "message", "one"),
        ("b", "n", "[2]"),
        ("default", "message", "three"),
    ]


async def test_ndjson_is_published_as_it_comes(server: Server, programs: Programs) -> None:
    """Its pipe is slow, and a read may end within a line."""
    async with server.broadcaster.subscribe() as stream:
        publishing = await programs.cli("publish", "--format", "ndjson", "--url", server.url)
        for message in ("one", "two"):
            await publishing.feed(b'{"mess')
            await publishing.feed(b'age": "%b"}\n{"mess' % message.encode())
            assert await received(stream, 1) == [("message", message)]
            await publishing.feed(b'age": "and"}\n')
            assert await received(stream, 1) == [("message", "and")]
        publishing.end_input()
        assert await publishing.ended() == Ended(0, b"sent 4 events\n")


@pytest.mark.parametrize(
    ("bad", "line", "reason"),
    [
        (1, b'{"event": "x"}', MISSING),
        (2, b'{"event": "x"}', MISSING),
        (500, b'{"event": "x"}', MISSING),
        (501, b'{"event": "x"}', MISSING),
        (1700, b"{}}", "400 Bad Request: line {}: body: is not JSON: .+"),
        (3000, b'{"message": "\xff"}', r"400 Bad Request: line {}: body: is not UTF-8 at byte \d+"),
    ],
)
async def test_a_bad_line_ends_the_command(
    serve: Serve, programs: Programs, tmp_path: Path, bad: int, line: bytes, reason: str
) -> None:
    server = await serve(history_size=10_000)
    lines = [b'{"message": "%d"}' % number for number in range(1, 3001)]
    lines[bad - 1] = line
    file = tmp_path / "events"
    file.write_bytes(b"\n".join(lines))
    ended = await programs.run("publish", "--format", "ndjson", "--file", str(file), "--url", server.url)
    assert (ended.code, ended.out) == (1, b"")
    reported = f"sse-broadcast: {server.url}/send: {reason.format(bad)}; {bad - 1} published\n"
    assert re.fullmatch(reported.encode(), ended.err), ended.err
    assert [int(event.data) for event in await history(server)] == list(range(1, bad))


@pytest.mark.parametrize("form", ["text", "ndjson"])
@pytest.mark.parametrize("way", ["file", "pipe"])
async def test_a_long_file_is_published_in_order(
    serve: Serve, programs: Programs, file: Path, form: str, way: str
) -> None:
    """It has 20,000 lines. None is lost, and there are far fewer requests."""
    server = await serve(history_size=20_000, history_bytes=1 << 27)
    made = '{{"message": "{}"}}\n' if form == "ndjson" else "{}\n"
    file.write_text("".join(made.format(number) for number in range(20_000)))
    given = f"--file {file}" if way == "file" else "-"
    script = f'cat {file} | "$0" publish {given} --format {form} --url "$1"'
    shell = await programs.start("sh", "-c", script, str(process.SCRIPT), server.url)
    noun = b"events" if form == "ndjson" else b"lines"
    assert await shell.ended() == Ended(0, b"sent 20000 %b\n" % noun)
    assert [event.data for event in await history(server)] == [str(number) for number in range(20_000)]


async def test_batches_respect_the_limits_of_the_server(serve: Serve, programs: Programs) -> None:
    """The client finds them by trying. The error names a line that exceeds them alone."""
    server = await serve(max_batch=7, max_body=700, max_event=90)
    lines = b"".join(b'{"message": "%d"}\n' % number for number in range(100))
    ended = await programs.run("publish", "--format", "ndjson", "--url", server.url, stdin=lines)
    assert ended == Ended(0, b"sent 100 events\n")
    assert [int(event.data) for event in await history(server)] == list(range(100))
    long = lines + b'{"message": "%b"}\n' % (b"x" * 6000)
    ended = await programs.run("publish", "--format", "ndjson", "--url", server.url, stdin=long)
    assert (ended.code, ended.out) == (1, b"")
    assert re.fullmatch(rb"sse-broadcast: \S+: 413 [\w ]+: line 101: .+; 100 published\n", ended.err)


# Networks.


async def test_publishing_from_a_pipe_survives_a_restart(programs: Programs, unused_tcp_port: int) -> None:
    """The next server publishes the lines written meanwhile, once and in order."""
    first, second = (Server(Config(port=unused_tcp_port, shutdown_timeout=4.0)) for _ in range(2))
    url = f"http://127.0.0.1:{unused_tcp_port}"
    await first.start()
    try:
        publishing = await programs.cli("publish", "--url", url)
        async with first.broadcaster.subscribe() as stream:
            await publishing.feed(b"one\n")
            assert await received(stream, 1) == [("message", "one")]
    finally:
        await first.stop()
    await publishing.feed(b"two\nthree\n")
    away = f"sse-broadcast: cannot reach {url}: refused; trying again for 60 s\n"
    assert await publishing.error_line() == away.encode()
    await publishing.feed(b"four\n")
    publishing.end_input()
    await second.start()
    try:
        assert await publishing.ended() == Ended(0, b"sent 4 lines\n")
        assert [event.data for event in await history(second)] == ["two", "three", "four"]
    finally:
        await second.stop()


async def test_waiting_for_a_server_has_the_given_time_limit(programs: Programs) -> None:
    """The error has the first line that was not published."""
    url = "http://127.0.0.1:1"
    away = f"sse-broadcast: cannot reach {url}: refused"
    ended = await programs.run("publish", "--retry-for", "0.1", "--url", url, stdin=b"one\ntwo\n")
    lost = "line 1 and all after it were not published; 0 published"
    assert ended == Ended(1, err=f"{away}; trying again for 0.1 s\n{away}; {lost}\n".encode())
    ended = await programs.run("publish", "--retry-for", "0", "--url", url, stdin=b"one\ntwo\n")
    assert ended == Ended(1, err=f"{away}; {lost}\n".encode())


@pytest.mark.parametrize("what", [("hello",), ("--format", "json", "{}")])
async def test_a_single_message_does_not_wait_unless_asked(programs: Programs, what: tuple[str, ...]) -> None:
    url = "http://127.0.0.1:1"
    away = f"sse-broadcast: cannot reach {url}: refused"
    assert await programs.run("publish", *what, "--url", url) == Ended(1, err=f"{away}\n".encode())
    ended = await programs.run("publish", *what, "--retry-for", "0.1", "--url", url)
    assert ended == Ended(1, err=f"{away}; trying again for 0.1 s\n{away}\n".encode())


async def test_lines_that_may_have_been_published_are_named(speak: Speak, programs: Programs) -> None:
    receipt = plain("200 OK", "application/json", '{"clients": 0, "count": 1, "id": "a-1"}')
    script = await speak(receipt, b"", receipt)
    publishing = await programs.cli("publish", "--url", script.url)
    await publishing.feed(b"one\n")
    await until(lambda: len(script.heads) == 1)
    await publishing.feed(b"two\nthree\n")
    publishing.end_input()
    ended = await publishing.ended()
    assert (ended.code, ended.out) == (1, b"")
    reported = f"sse-broadcast: cannot reach {script.url}: .+, with lines 2 to 3 under way; 1 published\n"
    assert re.fullmatch(reported.encode(), ended.err), ended.err
    assert len(script.heads) == 2


async def test_an_outage_is_printed_below_the_progress_bar(programs: Programs, file: Path) -> None:
    file.write_text("one\n")
    url, script = "http://127.0.0.1:1", f'"$0" publish --retry-for 0.1 --url "$1" < {file}'
    ended, shown = await on_a_terminal(programs, url, script)
    assert ended.code == 1
    away = f"sse-broadcast: cannot reach {url}: refused; trying again for 0.1 s"
    assert away.encode() in shown.splitlines()


# Files.


async def test_a_file_may_be_a_named_pipe(server: Server, programs: Programs, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with server.broadcaster.subscribe() as stream:
        publishing = await programs.cli("publish", "--file", str(pipe), "--url", server.url)
        writer = await asyncio.to_thread(pipe.open, "wb", buffering=0)
        writer.write(b"one\n")
        assert await received(stream, 1) == [("message", "one")]
        writer.close()
        assert await publishing.ended() == Ended(0, b"sent 1 line\n")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/none", "/none: cannot be read: No such file or directory"),
        ("/", "/: cannot be read: Is a directory"),
    ],
)
@pytest.mark.parametrize("form", ["text", "json", "ndjson"])
async def test_a_file_that_cannot_be_read_is_one_line(
    programs: Programs, form: str, path: str, reason: str
) -> None:
    ended = await programs.run("publish", "--format", form, "--file", path)
    assert ended == Ended(2, err=f"sse-broadcast: --file: {reason}\n".encode())


async def test_a_closed_standard_input_is_one_line(programs: Programs) -> None:
    shell = await programs.start("sh", "-c", '"$0" publish <&-', str(process.SCRIPT))
    assert await shell.ended() == Ended(2, err=b"sse-broadcast: standard input is closed\n")


# The progress bar.


async def on_a_terminal(programs: Programs, url: str, script: str) -> tuple[Ended, bytes]:
    """Run a shell script with standard error on a terminal, and return the terminal's output."""
    ours, theirs = pty.openpty()
    try:
        reported = f"exec 2> {os.ttyname(theirs)}; {script}"
        shell = await programs.start("sh", "-c", reported, str(process.SCRIPT), url)
        ended = await shell.ended()
        os.set_blocking(ours, False)
        shown = b""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    shown += os.read(ours, 1 << 16)
                except BlockingIOError:
                    return ended, shown
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("given", ["--file {file}", "< {file}"])
async def test_a_file_has_a_progress_bar_on_a_terminal(
    server: Server, programs: Programs, file: Path, given: str
) -> None:
    file.write_text("x" * 99 + "\n" + "a line\n" * 50_000)
    ended, shown = await on_a_terminal(
        programs, server.url, f'"$0" publish --url "$1" {given.format(file=file)}'
    )
    assert ended == Ended(0, b"sent 50001 lines\n")
    assert b"publishing" in shown
    assert b"100%" in shown
    assert shown.endswith(b"\x1b[?25h\r\n")  # The terminal's cursor is visible again.


async def test_a_pipe_has_no_progress_bar(server: Server, programs: Programs) -> None:
    """Its length is not known."""
    ended, shown = await on_a_terminal(programs, server.url, 'echo x | "$0" publish --url "$1"')
    assert (ended, shown) == (Ended(0, b"sent 1 line\n"), b"")


async def test_an_error_is_printed_below_the_progress_bar(
    server: Server, programs: Programs, file: Path
) -> None:
    file.write_text("{}\n")
    ended, shown = await on_a_terminal(
        programs, server.url, f'"$0" publish --format ndjson --url "$1" < {file}'
    )
    assert (ended.code, ended.out) == (1, b"")
    assert shown.splitlines()[-1].endswith(b"; 0 published")
    assert shown.splitlines()[-1].startswith(b"sse-broadcast: ")


# What hands type.


async def test_the_channel_comes_first_of_two(server: Server, programs: Programs) -> None:
    async with server.broadcaster.subscribe("*") as everything:
        for words, stdin in ((("news", "hello"), b""), (("a,b", "both"), b""), (("news", "-"), b"a line\n")):
            assert (await programs.run("publish", *words, "--url", server.url, stdin=stdin)).code == 0
        received = [await anext(everything) for _ in range(3)]
    assert [(each.channel, each.data) for each in received] == [
        ("news", "hello"),
        ("a", "both"),
        ("news", "a line"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("news", "hello", "world"),
            (
                "3 words: at most a channel and a message are taken. "
                "Put quotes around the message: publish news 'hello world'"
            ),
        ),
        (("news", "hello", "--channel", "x"), "'news' and --channel: only one of them may say the channel."),
    ],
)
async def test_what_is_not_clear_is_refused_with_what_to_write(
    programs: Programs, arguments: tuple[str, ...], said: str
) -> None:
    ended = await programs.run("publish", *arguments, env={"COLUMNS": "200"})
    assert ended.code == 2
    assert ended.err.decode().splitlines()[-1] == f"Error: {said}"
