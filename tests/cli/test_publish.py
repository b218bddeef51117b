"""`sse-broadcast publish`."""

import http
import signal
from pathlib import Path

import pytest

from sse_broadcast.stream import Stream
from tests.conftest import Serve
from tests.support import process
from tests.support.process import Ended, Programs

programs = pytest.fixture(process.programs)

ODD = "\"quoted\" 'twice'\n\ntab\tbackslash \\n $HOME `x` \U0001f600 \u2028 é"


async def received(stream: Stream, count: int) -> list[tuple[str, str]]:
    """Give the types and data of what came next."""
    return [(event.event, event.data) for event in [await anext(stream) for _ in range(count)]]


async def test_an_argument_is_published(serve: Serve, programs: Programs) -> None:
    """And the command says how many got it."""
    server = await serve()
    async with server.broadcaster.subscribe() as stream:
        assert await programs.run("publish", "hello", "--url", server.url) == Ended(0, b"sent to 1 clients\n")
        assert await received(stream, 1) == [("message", "hello")]


async def test_an_event_may_have_a_type(serve: Serve, programs: Programs) -> None:
    """`--event` is what addEventListener takes."""
    server = await serve()
    async with server.broadcaster.subscribe() as stream:
        ended = await programs.run("publish", "--event", "price", '{"EUR": 1.08}', "--url", server.url)
        assert ended == Ended(0, b"sent to 1 clients\n")
        assert await received(stream, 1) == [("price", '{"EUR": 1.08}')]


@pytest.mark.parametrize("message", [ODD, "", " ", "--help", "-"])
async def test_any_text_is_published_as_it_is(serve: Serve, programs: Programs, message: str) -> None:
    """Quotes, line ends, emoji, nothing at all; a dash at the beginning after `--`, a bare dash as a line."""
    server = await serve()
    async with server.broadcaster.subscribe() as stream:
        if message == "-":
            ended = await programs.run("publish", "--url", server.url, "--", "-", stdin=b"-\n")
            assert ended == Ended(0, b"sent 1 lines\n")
        else:
            ended = await programs.run("publish", "--url", server.url, "--", message)
            assert ended == Ended(0, b"sent to 1 clients\n")
        assert await received(stream, 1) == [("message", message)]


@pytest.mark.parametrize("arguments", [("-",), ()])
async def test_lines_are_published_as_they_come(
    serve: Serve, programs: Programs, arguments: tuple[str, ...]
) -> None:
    """The first line is with the readers before the second is written, and long before the end."""
    server = await serve()
    async with server.broadcaster.subscribe() as stream:
        publishing = await programs.cli("publish", *arguments, "--event", "log", "--url", server.url)
        for line in ("one", "", ODD.replace("\n", " ")):
            await publishing.feed(f"{line}\n".encode())
            assert await received(stream, 1) == [("log", line)]
        await publishing.feed(b"CRLF\r\nwithout an end")
        publishing.end_input()
        assert await publishing.ended() == Ended(0, b"sent 5 lines\n")
        assert await received(stream, 2) == [("log", "CRLF"), ("log", "without an end")]


async def test_lines_may_be_none(serve: Serve, programs: Programs) -> None:
    """An empty input publishes nothing, which is no error."""
    server = await serve()
    assert await programs.run("publish", "-", "--url", server.url) == Ended(0, b"sent 0 lines\n")
    assert server.broadcaster.counts.published == 0


async def test_lines_may_be_a_file(serve: Serve, programs: Programs, tmp_path: Path) -> None:
    """A file, which no event loop can wait for, is read as a pipe is."""
    file = tmp_path / "lines"
    file.write_text("one\ntwo\n")
    server = await serve()
    async with server.broadcaster.subscribe() as stream:
        script = f'"$0" publish - --url "$1" < {file}'
        shell = await programs.start("sh", "-c", script, str(process.SCRIPT), server.url)
        assert await shell.ended() == Ended(0, b"sent 2 lines\n")
        assert await received(stream, 2) == [("message", "one"), ("message", "two")]


async def test_ctrl_c_ends_it_while_it_waits_for_a_line(serve: Serve, programs: Programs) -> None:
    """At once, with the exit code of an interrupted command, and not with the next line."""
    server = await serve()
    async with server.broadcaster.subscribe() as stream:
        publishing = await programs.cli("publish", "-", "--url", server.url)
        await publishing.feed(b"one\n")
        assert await received(stream, 1) == [("message", "one")]
        publishing.send_signal(signal.SIGINT)
        assert await publishing.ended() == Ended(130)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("$x", "event: types beginning with $ are the server's own: '$x'"),
        ("", "event: must not be empty"),
        ("a\nb", "event: must not contain LF: 'a\\nb'"),
    ],
)
async def test_what_the_server_refuses_is_one_line(
    serve: Serve, programs: Programs, event: str, reason: str
) -> None:
    """The line says what is wrong, in the server's words, and the exit code is 1."""
    server = await serve()
    status = f"422 {http.HTTPStatus(422).phrase}"
    assert await programs.run("publish", "--event", event, "x", "--url", server.url) == Ended(
        1, err=f"sse-broadcast: {server.url}/send: {status}: {reason}\n".encode()
    )
    assert server.broadcaster.counts.published == 0


async def test_what_is_too_large_is_one_line(serve: Serve, programs: Programs) -> None:
    """A refusal in the middle of the lines ends the command; what came before it is published."""
    server = await serve(max_event=100)
    ended = await programs.run("publish", "-", "--url", server.url, stdin=b"one\n" + b"x" * 101 + b"\ntwo\n")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err.startswith(f"sse-broadcast: {server.url}/send: 413 ".encode())
    assert ended.err.endswith(b": data: is 101 bytes, and an event may be 100\n")
    assert server.broadcaster.counts.published == 1


async def test_bytes_that_are_not_utf_8_are_one_line(serve: Serve, programs: Programs) -> None:
    """Refused and not cleaned, whether typed or read."""
    server = await serve()
    refusal = Ended(1, err=b"sse-broadcast: cannot publish a lone surrogate, '\\udcff', at character 2\n")
    assert await programs.run("publish", "-", "--url", server.url, stdin=b"ab\xff\n") == refusal
    typed = await programs.start(
        "sh", "-c", '"$0" publish --url "$1" "$(printf "ab\\377")"', str(process.SCRIPT), server.url
    )
    assert await typed.ended() == refusal
    assert server.broadcaster.counts.published == 0


async def test_the_server_may_be_named_by_a_variable(serve: Serve, programs: Programs) -> None:
    """SSE_BROADCAST_URL is where the server is, unless --url says otherwise."""
    server = await serve()
    env = {"SSE_BROADCAST_URL": server.url}
    assert await programs.run("publish", "x", env=env) == Ended(0, b"sent to 0 clients\n")
    env = {"SSE_BROADCAST_URL": "http://not.used.invalid"}
    assert (await programs.run("publish", "y", "--url", server.url, env=env)).code == 0
    assert server.broadcaster.counts.published == 2
