"""What `status --watch` shows: on a terminal of any size, in a pipe, and of a server that comes and goes."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import pytest
from aiohttp import web

from sse_broadcast.cli import live_status
from sse_broadcast.cli.live_status import (
    JsonView,
    LineView,
    Snapshot,
    rates,
    render,
    short,
    span,
    take_snapshot,
)
from sse_broadcast.client import Client
from sse_broadcast.config.schema import Config, Overflow
from sse_broadcast.errors import ClientError
from sse_broadcast.server.runner import Server
from tests.conftest import Connect, Serve
from tests.support import process
from tests.support.asking import ask, bearer
from tests.support.credentials import STATIC, caller, static
from tests.support.process import Programs
from tests.support.sockets import until
from tests.support.terminal import Terminal, terminals

programs = pytest.fixture(process.programs)
terminal = pytest.fixture(terminals)

Start = Callable[..., Awaitable[Terminal]]

STATUS = {"connected_clients": 3, "published": 1200, "closed": {"left": 4, "slow": 1}, "dropped": {}}
SLOWEST = [
    {
        "id": "17",
        "address": "2001:db8::7",
        "channels": ["orders.*", "news"],
        "state": "full",
        "age": 100_000.0,
        "drops": 123_456_789,
        "behind": 1024,
        "queued_bytes": 1_048_576,
        "lag": 83.26,
    },
    {
        "id": "4",
        "address": "unix",
        "channels": ["default"],
        "state": "catching-up",
        "age": 0.04,
        "drops": 0,
        "behind": 1,
        "queued_bytes": 0,
        "lag": 0.99,
    },
]
SEEN = Snapshot(at=100.0, time=1_700_000_000.0, status=STATUS, slowest=SLOWEST)


@pytest.fixture(autouse=True)
def _greenwich(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def screen(seen: Snapshot, rates: Mapping[str, float] | None = None, *, lines: int = 24) -> list[str]:
    return render(seen, rates, title="http://x, every 2 s", size=os.terminal_size((80, lines)))


def test_a_screen_is_these_lines() -> None:
    """What is counted in a second, why, and who is furthest behind."""
    assert screen(SEEN, {"published": 12.34, "closed": 0.5, "dropped": 0.0}) == [
        "22:13:20  http://x, every 2 s",
        "",
        "subscribers 3",
        "",
        "                    a second      in all",
        "published               12.3        1200",
        "closed                   0.5           5  4 left, 1 slow",
        "dropped                  0.0           0",
        "",
        "slowest    lag behind  bytes  drops    age  state        address      channels",
        "     17  1m23s   1024  1048k   123M  1d03h  full         2001:db8::7  orders.*,news",
        "      4   0.9s      1      0      0   0.0s  catching-up  unix         default",
    ]


def test_channels_have_what_room_there_is() -> None:
    """Usual readers leave them 17 characters of 80, whatever their numbers are."""
    usual = {"address": "127.0.0.1", "state": "live"}
    for changes in (
        {"lag": 86_399.0, "behind": 99_999_999, "age": 3599.0, "drops": 99_999_999},
        {"lag": 0.0},
    ):
        *_, row = screen(replace(SEEN, slowest=[{**SLOWEST[1], **usual, **changes}]))
        assert row.index("  default") + len("  ") == 80 - 17


def test_a_screen_of_few_lines_has_the_first_of_them() -> None:
    """Nothing scrolls."""
    assert screen(SEEN, lines=3) == ["22:13:20  http://x, every 2 s", "", "subscribers 3"]


def test_what_has_nothing_to_be_compared_with_has_no_rate() -> None:
    """The first look, and the first at a server that began anew."""
    assert screen(SEEN)[5:7] == [
        "published                  -        1200",
        "closed                     -           5  4 left, 1 slow",
    ]


def test_a_server_that_is_gone_is_said_to_be() -> None:
    """Since when and why, above what was seen last."""
    gone = replace(SEEN, time=SEEN.time + 100, trouble="cannot reach it", since=SEEN.time)
    assert screen(gone)[:5] == [
        "22:15:00  http://x, every 2 s",
        "",
        "NO ANSWER since 22:13:20: cannot reach it",
        "",
        "subscribers 3",
    ]
    assert screen(gone)[2:] == ["NO ANSWER since 22:13:20: cannot reach it", "", *screen(SEEN)[2:]]


def test_readers_that_may_not_be_seen_are_said_not_to_be() -> None:
    """With what the server said."""
    hidden = replace(SEEN, slowest=None, hidden="403: no")
    assert screen(hidden)[9:] == ["slowest readers: not to be seen: 403: no"]


def test_nobody_is_a_heading() -> None:
    """A server without readers has no slowest one."""
    assert len(screen(replace(SEEN, slowest=[]))) == 10


def later(seconds: float, status: Mapping[str, Any], **others: Any) -> Snapshot:
    return replace(SEEN, at=SEEN.at + seconds, status=status, **others)


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        (None, SEEN, None),
        (
            SEEN,
            later(2, {**STATUS, "published": 1300, "closed": {"left": 5, "drain": 2}}),
            {"published": 50.0, "closed": 1.0, "dropped": 0.0},
        ),
        (
            SEEN,
            later(2, {**STATUS, "connected_clients": 0}),
            {"published": 0.0, "closed": 0.0, "dropped": 0.0},
        ),
        (SEEN, later(2, {**STATUS, "new": 4}), {"published": 0.0, "closed": 0.0, "dropped": 0.0, "new": 2.0}),
        (SEEN, later(2, {**STATUS, "published": 0}), None),
        (SEEN, later(2, {**STATUS, "closed": {}}), None),
        (SEEN, later(2, STATUS, trouble="gone"), None),
        (SEEN, SEEN, None),
    ],
)
def test_a_rate_is_what_was_counted_between_two_looks(
    before: Snapshot | None, now: Snapshot, found: Mapping[str, float] | None
) -> None:
    """By all reasons together; none where one cannot be said, as of a server that began anew."""
    assert rates(before, now) == found


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.0s"),
        (0.99, "0.9s"),
        (59.99, "59.9s"),
        (60.0, "1m00s"),
        (3599.9, "59m59s"),
        (3600.0, "1h00m"),
        (86_399.0, "23h59m"),
        (86_400.0, "1d00h"),
        (86_400.0 * 400 + 7200, "400d02h"),
    ],
)
def test_a_time_has_two_units(seconds: float, shown: str) -> None:
    """Cut, and never more than eight characters."""
    assert span(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (99_999, "99999"),
        (100_000, "100k"),
        (99_999_999, "99999k"),
        (10**8, "100M"),
        (10**12, "1000G"),
    ],
)
def test_a_number_is_short(number: int, shown: str) -> None:
    """Cut, so that it stands in its column."""
    assert short(number) == shown


def test_a_line_is_this() -> None:
    """For a file or a pipe: what is counted, and who is furthest behind if anybody is."""
    line = LineView().line
    assert line(SEEN, None) == (
        "22:13:20 subscribers 3, published -, closed -, dropped -, slowest 17 of 2001:db8::7: 1m23s behind"
    )
    nobody = replace(SEEN, slowest=[{**SLOWEST[0], "lag": 0.0}])
    assert line(nobody, {"published": 1.25, "closed": 0, "dropped": 0}) == (
        "22:13:20 subscribers 3, published 1.2/s, closed 0.0/s, dropped 0.0/s"
    )
    gone = replace(SEEN, trouble="cannot reach it", since=SEEN.time - 60)
    assert line(gone, None) == "22:13:20 no answer since 22:12:20: cannot reach it"


def test_a_record_is_this() -> None:
    """For programs: all that was seen, whether there is anything new or not."""
    assert json.loads(JsonView().line(SEEN, {"published": 1 / 3})) == {
        "time": 1_700_000_000.0,
        "status": STATUS,
        "rates": {"published": 0.333},
        "slowest": SLOWEST,
        "hidden": None,
        "trouble": None,
    }


# A server that is not as it should be.

Speak = Callable[..., Awaitable[str]]


@pytest.fixture
async def speak() -> AsyncIterator[Speak]:
    """Start a server that answers as a test says, and give where it is."""
    runners: list[web.AppRunner] = []

    async def start(**answers: Any) -> str:
        app = web.Application()
        for name, answer in answers.items():
            app.router.add_get(f"/{name}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{site.port}"

    yield start
    for runner in runners:
        await runner.cleanup()


def saying(content: object, status: int = 200) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(content, status=status)

    return answer


async def hang(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_who_may_not_see_readers_sees_the_rest(speak: Speak, status: int) -> None:
    """And what the server said of it."""
    url = await speak(status=saying(STATUS), subscribers=saying({}, status))
    async with Client(url) as client:
        seen = await take_snapshot(client)
    assert (seen.status, seen.slowest) == (STATUS, None)
    assert seen.hidden.startswith(f"{url}/subscribers?sort=lag&limit=100: {status} ")


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"status": saying(STATUS), "subscribers": saying({}, 500)}, r".*: 500 .*"),
        ({"status": saying(STATUS), "subscribers": saying({})}, r".*: does not answer as this server does"),
        ({"status": saying({}, 401)}, r".*: 401 .*"),
        ({"status": hang}, r"no answer within 0\.1 seconds"),
        ({"status": saying(STATUS), "subscribers": hang}, r"no answer within 0\.1 seconds"),
    ],
)
async def test_a_look_that_fails_says_why(
    speak: Speak, monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], told: str
) -> None:
    """In one error, also when nothing is said at all."""
    monkeypatch.setattr(live_status, "ALIVE", 0.1)
    async with Client(await speak(**answers)) as client:
        with pytest.raises(ClientError) as raised:
            await take_snapshot(client)
    assert re.fullmatch(told, str(raised.value))


class Kept:
    """Keeps what is shown, and lets a test go on after each."""

    def __init__(self, upto: int) -> None:
        self.shown: list[tuple[Snapshot, Mapping[str, float] | None]] = []
        self._upto = upto
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True

    def show(self, look: Snapshot, rates: Mapping[str, float] | None) -> None:
        self.shown.append((look, rates))

    async def rest(self, seconds: float) -> None:
        if len(self.shown) == self._upto:
            raise asyncio.CancelledError


def in_turn(*contents: tuple[object, int]) -> Callable[[web.Request], Awaitable[web.Response]]:
    answers = iter(contents)

    async def answer(_: web.Request) -> web.Response:
        content, status = next(answers)
        return web.json_response(content, status=status)

    return answer


async def test_a_server_that_is_away_is_waited_for(speak: Speak) -> None:
    """What it said last is shown with the trouble, and the rate afterwards is that of all the time."""
    more = {**STATUS, "published": 1300}
    busy = [503, 429, 408, 425, 502, 521]
    url = await speak(
        status=in_turn((STATUS, 200), *(({}, status) for status in busy), (more, 200)),
        subscribers=saying({"subscribers": []}),
    )
    kept = Kept(upto=8)
    with pytest.raises(asyncio.CancelledError):
        await live_status.watch(Client(url), kept, interval=1)
    (first, _), *away, (last, rate) = kept.shown
    assert [each.status for each, _ in away] == [STATUS] * 6
    assert [int(each.trouble.split(": ")[1][:3]) for each, _ in away] == busy
    assert [each.since for each, _ in away] == [first.time] * 6
    assert [found for _, found in away] == [None] * 6
    assert (last.status, last.trouble) == (more, "")
    assert rate is not None
    assert rate["published"] == pytest.approx(100 / (last.at - first.at))
    assert kept.ended


@pytest.mark.parametrize("status", [401, 404, 501])
async def test_a_server_that_refuses_is_not_waited_for(speak: Speak, status: int) -> None:
    """A token that is good no more will not be again."""
    url = await speak(status=in_turn((STATUS, 200), ({}, status)), subscribers=saying({"subscribers": []}))
    kept = Kept(upto=5)
    with pytest.raises(ClientError, match=f": {status} "):
        await live_status.watch(Client(url), kept, interval=1)
    assert (len(kept.shown), kept.ended) == (1, True)


# On a terminal.

HEADING = re.compile(r"slowest    lag behind  bytes  drops    age  state +address +channels")
ROW = re.compile(r" *(\d+) +(\S+) +(\d+) +(\d+k?) +(\d+) +\d+\.\ds  (\S+) +127\.0\.0\.1  (\S+)")


def rows(lines: list[str]) -> list[tuple[str, ...]]:
    return [found.groups() for line in lines if (found := ROW.fullmatch(line))]


async def until_drawn(terminal: Terminal) -> list[str]:
    return await terminal.shows(lambda lines: any(HEADING.fullmatch(line) for line in lines))


async def test_a_terminal_shows_rates_and_readers(serve: Serve, connect: Connect, terminal: Start) -> None:
    """On a screen of its own, from its first line, without a cursor; what is new is drawn over the old."""
    server = await serve()
    for name in ("a", "b"):
        await (await connect(server)).subscribe(path=f"/events/{name}")
    await until(lambda: server.broadcaster.client_count == 2)
    shown = await terminal("status", "--watch", "--interval", "0.1", "--url", server.url)
    lines = await until_drawn(shown)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  {server.url}, every 0\.1 s", lines[0])
    assert lines[1:5] == ["", "subscribers 2", "", "                    a second      in all"]
    assert rows(lines) == [
        ("1", "0.0s", "0", "0", "0", "live", "a"),
        ("2", "0.0s", "0", "0", "0", "live", "b"),
    ]
    assert (shown.cursor_is_hidden, shown.is_second_screen, shown.scrolled) == (True, True, [])
    await server.broadcaster.broadcast("x")
    await shown.shows(lambda lines: any(re.fullmatch(r"published +[\d.]+ +1", line) for line in lines))
    assert [re.fullmatch(r"opened +[\d.]+ +2", line) is not None for line in shown.lines].count(True) == 1
    assert (shown.scrolled, len(rows(shown.lines))) == ([], 2)


async def test_the_slowest_reader_comes_first(serve: Serve, connect: Connect, terminal: Start) -> None:
    """With how far it is behind, in seconds, events and bytes."""
    server = await serve(
        send_buffer=16_384, heartbeat=3600.0, overflow=Overflow.DROP_OLDEST, queue_size=100, write_timeout=60
    )
    await (await connect(server)).subscribe()
    await until(lambda: server.broadcaster.client_count == 1)
    frozen = await connect(server, receive_buffer=4096)
    await frozen.request("GET", "/events/a")
    await until(lambda: server.broadcaster.client_count == 2)
    while not server.broadcaster.counts.dropped:
        await server.broadcaster.broadcast("x" * 4000, channels=["a"])
        await asyncio.sleep(0)
    shown = await terminal("status", "--watch", "--interval", "0.1", "--url", server.url)
    found = rows(await until_drawn(shown))
    (first, *numbers, state, channels), (second, *_) = found
    assert (first, second, state, channels) == ("2", "1", "full", "a")
    lag, behind, waiting, drops = numbers
    assert float(lag.rstrip("s")) >= 0.0
    assert (behind, int(drops) > 0) == ("100", True)
    assert re.fullmatch(r"40[0-9]k", waiting)


async def test_a_terminal_may_change_its_size(serve: Serve, connect: Connect, terminal: Start) -> None:
    """It is drawn on again at once: as much as there is room for, and nothing scrolls."""
    server = await serve()
    for _ in range(30):
        await (await connect(server)).subscribe(path=f"/events/{'c' * 100}")
    await until(lambda: server.broadcaster.client_count == 30)
    # So long that nothing is drawn but for the size.
    shown = await terminal("status", "--watch", "--interval", "3600", "--url", server.url, size=(200, 50))
    whole = await until_drawn(shown)
    assert sum("c" * 100 in line for line in whole) == 30
    for columns, height in ((100, 24), (40, 5), (120, 12), (10, 2), (200, 50)):
        shown.resize(columns, height)
        expected = [line[: columns - 1].rstrip() for line in whole[:height]]
        await shown.shows(expected.__eq__)
        assert shown.scrolled == []


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
async def test_the_end_leaves_the_terminal_as_it_was(serve: Serve, terminal: Start, how: str) -> None:
    """With its cursor and its first screen, and nothing is said."""
    server = await serve()
    shown = await terminal("status", "--watch", "--url", server.url)
    await until_drawn(shown)
    if how == "Ctrl-C":
        shown.type(b"\x03")
    else:
        shown.send_signal(signal.SIGTERM)
    assert await shown.ended() == 130
    assert (shown.cursor_is_hidden, shown.is_second_screen) == (False, False)
    assert shown.raw.endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"Traceback" not in shown.raw


async def test_a_server_that_comes_back_is_shown_again(terminal: Start) -> None:
    """What is shown of the one that is gone stays meanwhile; of the new one there is no rate at first."""
    first = Server(Config(port=0))
    await first.start()
    port, url = first.port, first.url
    await first.broadcaster.broadcast("x")
    shown = await terminal("status", "--watch", "--interval", "0.1", "--url", url)
    await shown.shows(lambda lines: any(re.fullmatch(r"published +0\.0 +1", line) for line in lines))
    await first.stop()
    gone = await shown.shows(lambda lines: lines[2].startswith("NO ANSWER since "))
    assert re.fullmatch(r"NO ANSWER since \d\d:\d\d:\d\d: cannot reach http.*", gone[2])
    assert gone[4] == "subscribers 0"
    assert any(re.fullmatch(r"published +- +1", line) for line in gone)
    second = Server(Config(port=port))
    await second.start()
    try:
        back = await shown.shows(lambda lines: lines[2] == "subscribers 0")
        assert any(re.fullmatch(r"published +(-|0\.0) +0", line) for line in back)
        assert shown.scrolled == []
    finally:
        await second.stop()


async def test_who_is_refused_is_told_on_the_terminal_as_it_was(serve: Serve, terminal: Start) -> None:
    """Nothing is drawn."""
    server = await serve(token=STATIC)
    shown = await terminal("status", "--watch", "--url", server.url)
    assert await shown.ended() == 1
    told = " ".join(shown.lines).strip()
    assert told.startswith(
        f"sse-broadcast: {server.url}/status: 401 Unauthorized: inspect '*': needs a token"
    )
    assert b"\x1b" not in shown.raw


async def test_who_is_refused_later_is_told_on_the_terminal_as_it_was(serve: Serve, terminal: Start) -> None:
    """The screen goes, and the cursor comes back, before it is said."""
    server = await serve(token=STATIC, caller=(caller("watcher", inspect=("*",)),))
    env = {"SSE_BROADCAST_TOKEN": static("watcher")}
    shown = await terminal("status", "--watch", "--interval", "0.1", "--url", server.url, env=env)
    await until_drawn(shown)
    headers = f"Content-Type: application/json\r\n{bearer(STATIC)}"
    await ask(server, "POST", "/revoke", headers=headers, body=b'{"caller": "watcher"}')
    assert await shown.ended() == 1
    assert (shown.cursor_is_hidden, shown.is_second_screen) == (False, False)
    after = shown.raw.rpartition(b"\x1b[?25h\x1b[?1049l")[2]
    assert after.startswith(f"sse-broadcast: {server.url}/status: 401 Unauthorized: ".encode())
    assert static("watcher").encode() not in shown.raw


async def test_what_a_server_says_does_nothing_to_a_terminal(speak: Speak, terminal: Start) -> None:
    """Whatever it says."""
    evil = {**SLOWEST[0], "address": "\x1b[2J\x07", "channels": ["\x1b]0;title\x07"]}
    status = {"connected_clients": 1, "\x1b[31mred": 7, "closed": {"\x1b[5m": 1}}
    url = await speak(status=saying(status), subscribers=saying({"subscribers": [evil]}))
    shown = await terminal("status", "--watch", "--url", url)
    lines = await until_drawn(shown)
    assert any("?[2J?" in line for line in lines)
    ours = rb"\x1b\[(\?1049h|\?25l|H|K|J)"
    assert b"\x1b" not in re.sub(ours, b"", shown.raw)
    assert b"\x07" not in shown.raw


# Elsewhere.

LINE = re.compile(rb"\d\d:\d\d:\d\d subscribers 0, published (-|0\.0/s), .*\n")


async def test_a_pipe_gets_a_line_for_each_look(serve: Serve, programs: Programs) -> None:
    """The first without rates; nothing in them is for a terminal."""
    server = await serve()
    watched = await programs.cli("status", "--watch", "--interval", "0.1", "--url", server.url)
    found = [LINE.fullmatch(await watched.line()) for _ in range(3)]
    assert [each and each[1] for each in found] == [b"-", b"0.0/s", b"0.0/s"]
    watched.signal_all(signal.SIGINT)
    assert (await watched.ended()).code == 130


async def test_a_pipe_gets_json_for_each_look(serve: Serve, connect: Connect, programs: Programs) -> None:
    """With --json: what the server said, and the rates."""
    server = await serve()
    await (await connect(server)).subscribe()
    await until(lambda: server.broadcaster.client_count == 1)
    watched = await programs.cli("status", "--watch", "--json", "--interval", "0.1", "--url", server.url)
    first, second = [json.loads(await watched.line()) for _ in range(2)]
    assert list(first) == ["time", "status", "rates", "slowest", "hidden", "trouble"]
    assert first["rates"] is None
    assert second["rates"]["published"] == 0.0
    assert (second["status"]["connected_clients"], second["hidden"], second["trouble"]) == (1, None, None)
    assert [each["id"] for each in second["slowest"]] == ["1"]
    watched.signal_all(signal.SIGINT)
    assert (await watched.ended()).code == 130


async def test_a_terminal_gets_json_if_it_is_asked_for(serve: Serve, terminal: Start) -> None:
    """As in a pipe."""
    server = await serve()
    shown = await terminal("status", "--watch", "--json", "--interval", "0.1", "--url", server.url)
    await shown.shows(lambda lines: lines[0].startswith('{"time": '))
    assert b"\x1b" not in shown.raw


async def test_a_terminal_that_cannot_be_drawn_on_gets_lines(serve: Serve, terminal: Start) -> None:
    """As a pipe does."""
    server = await serve()
    env = {"TERM": "dumb"}
    shown = await terminal("status", "--watch", "--interval", "0.1", "--url", server.url, env=env)
    await shown.shows(lambda lines: LINE.fullmatch(f"{lines[1]}\n".encode()) is not None)
    assert b"\x1b" not in shown.raw


async def test_a_pipe_that_closes_is_the_end(serve: Serve, programs: Programs) -> None:
    """As of `head`, and nothing is said of it."""
    server = await serve()
    command = f"'{process.SCRIPT}' status --watch --interval 0.1 --url {server.url} | head -n 1"
    piped = await programs.start("sh", "-c", command)
    ended = await piped.ended()
    assert (ended.code, ended.err, ended.out.count(b"\n")) == (0, b"", 1)
