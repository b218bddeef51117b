"""`status --watch` on a terminal: any size, and servers that restart."""

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import pytest

from sse_broadcast.cli.live_status import Snapshot
from sse_broadcast.cli.screen import render, short
from sse_broadcast.config.schema import Config, Overflow
from sse_broadcast.server.runner import Server
from tests.cli import snapshots
from tests.cli.snapshots import SEEN, SLOWEST, StartScripted, json_handler
from tests.conftest import Connect, Serve
from tests.support.asking import ask, bearer
from tests.support.credentials import STATIC, caller, static
from tests.support.sockets import until
from tests.support.terminal import Terminal, terminals

utc = pytest.fixture(snapshots.in_utc, autouse=True)
scripted_server = pytest.fixture(snapshots.scripted_server)
terminal = pytest.fixture(terminals)

Start = Callable[..., Awaitable[Terminal]]


def screen(seen: Snapshot, rates: Mapping[str, float] | None = None, *, lines: int = 24) -> list[str]:
    return render(seen, rates, title="http://x, every 2 s", size=os.terminal_size((80, lines)))


def test_the_lines_of_a_screen() -> None:
    assert screen(SEEN, {"published": 12.34, "closed": 0.5, "dropped": 0.0}) == [
        "22:13:20  http://x, every 2 s",
        "",
        "subscribers 3",
        "",
        "                  per second       total",
        "published               12.3        1200",
        "closed                   0.5           5  4 left, 1 slow",
        "dropped                  0.0           0",
        "",
        "slowest    lag behind  bytes  drops    age  state        address      channels",
        "     17  1m23s   1024  1048k   123M  1d03h  full         2001:db8::7  orders.*,news",
        "      4   0.9s      1      0      0   0.0s  catching-up  unix         default",
    ]


def test_channels_take_the_remaining_width() -> None:
    """Usual rows leave 17 of 80 characters for them, whatever the numbers are."""
    usual = {"address": "127.0.0.1", "state": "live"}
    for changes in (
        {"lag": 86_399.0, "behind": 99_999_999, "age": 3599.0, "drops": 99_999_999},
        {"lag": 0.0},
    ):
        *_, row = screen(replace(SEEN, slowest=[{**SLOWEST[1], **usual, **changes}]))
        assert row.index("  default") + len("  ") == 80 - 17


def test_a_low_screen_has_the_first_lines() -> None:
    assert screen(SEEN, lines=3) == ["22:13:20  http://x, every 2 s", "", "subscribers 3"]


def test_the_first_snapshot_has_no_rate() -> None:
    assert screen(SEEN)[5:7] == [
        "published                  -        1200",
        "closed                     -           5  4 left, 1 slow",
    ]


def test_an_unreachable_server_is_shown_as_such() -> None:
    """The time and the reason are above its last snapshot."""
    gone = replace(SEEN, time=SEEN.time + 100, trouble="cannot reach it", since=SEEN.time)
    assert screen(gone)[:5] == [
        "22:15:00  http://x, every 2 s",
        "",
        "NO ANSWER since 22:13:20: cannot reach it",
        "",
        "subscribers 3",
    ]
    assert screen(gone)[2:] == ["NO ANSWER since 22:13:20: cannot reach it", "", *screen(SEEN)[2:]]


def test_missing_permission_to_see_subscribers_is_shown() -> None:
    hidden = replace(SEEN, slowest=None, hidden="403: no")
    assert screen(hidden)[9:] == ["slowest subscribers: not available: 403: no"]


def test_without_subscribers_there_is_a_heading_only() -> None:
    assert len(screen(replace(SEEN, slowest=[]))) == 10


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
    assert short(number) == shown


HEADING = re.compile(r"slowest    lag behind  bytes  drops    age  state +address +channels")

ROW = re.compile(r" *(\d+) +(\S+) +(\d+) +(\d+k?) +(\d+) +\d+\.\ds  (\S+) +127\.0\.0\.1  (\S+)")


def rows(lines: list[str]) -> list[tuple[str, ...]]:
    return [found.groups() for line in lines if (found := ROW.fullmatch(line))]


async def until_drawn(terminal: Terminal) -> list[str]:
    return await terminal.shows(lambda lines: any(HEADING.fullmatch(line) for line in lines))


async def test_a_terminal_shows_rates_and_subscribers(
    server: Server, connect: Connect, terminal: Start
) -> None:
    """The alternate screen is drawn from its first line, without a cursor, and overwritten by the next."""
    for name in ("a", "b"):
        await (await connect(server)).subscribe(path=f"/events/{name}")
    await until(lambda: server.broadcaster.client_count == 2)
    shown = await terminal("status", "--watch", "--interval", "0.1", "--url", server.url)
    lines = await until_drawn(shown)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  {server.url}, every 0\.1 s", lines[0])
    assert lines[1:5] == ["", "subscribers 2", "", "                  per second       total"]
    assert rows(lines) == [
        ("1", "0.0s", "0", "0", "0", "live", "a"),
        ("2", "0.0s", "0", "0", "0", "live", "b"),
    ]
    assert (shown.cursor_is_hidden, shown.is_second_screen, shown.scrolled) == (True, True, [])
    await server.broadcaster.broadcast("x")
    await shown.shows(lambda lines: any(re.fullmatch(r"published +[\d.]+ +1", line) for line in lines))
    assert [re.fullmatch(r"opened +[\d.]+ +2", line) is not None for line in shown.lines].count(True) == 1
    assert (shown.scrolled, len(rows(shown.lines))) == ([], 2)


async def test_the_subscriber_with_the_largest_lag_comes_first(
    serve: Serve, connect: Connect, terminal: Start
) -> None:
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


async def test_a_terminal_is_redrawn_when_its_size_changes(
    server: Server, connect: Connect, terminal: Start
) -> None:
    """It is redrawn at once with as many lines as fit, and nothing scrolls."""
    for _ in range(30):
        await (await connect(server)).subscribe(path=f"/events/{'c' * 100}")
    await until(lambda: server.broadcaster.client_count == 30)
    # so long that only a new size causes a redraw
    shown = await terminal("status", "--watch", "--interval", "3600", "--url", server.url, size=(200, 50))
    whole = await until_drawn(shown)
    assert sum("c" * 100 in line for line in whole) == 30
    for columns, height in ((100, 24), (40, 5), (120, 12), (10, 2), (200, 50)):
        shown.resize(columns, height)
        expected = [line[: columns - 1].rstrip() for line in whole[:height]]
        await shown.shows(expected.__eq__)
        assert shown.scrolled == []


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
async def test_the_terminal_is_restored_at_the_end(server: Server, terminal: Start, how: str) -> None:
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


async def test_a_restarted_server_is_shown_again(terminal: Start) -> None:
    """Its last snapshot stays meanwhile. The first one after the restart has no rate."""
    first = Server(Config(port=0))
    await first.start()
    port, url = first.port, first.url
    await first.broadcaster.broadcast("x")
    shown = await terminal("status", "--watch", "--interval", "0.1", "--url", url)
    await shown.shows(lambda lines: any(re.fullmatch(r"published +0\.0 +1", line) for line in lines))
    await first.stop()
    gone = await shown.shows(lambda lines: lines[2].startswith("NO ANSWER since "))
    assert re.fullmatch(r"NO ANSWER since \d\d:\d\d:\d\d: cannot reach http.*", gone[2])
    assert re.fullmatch("subscribers 0(  [▁█]+)?", gone[4])
    assert any(re.fullmatch(r"published +- +1", line) for line in gone)
    second = Server(Config(port=port))
    await second.start()
    try:
        back = await shown.shows(lambda lines: re.fullmatch("subscribers 0(  [▁█]+)?", lines[2]) is not None)
        assert any(re.fullmatch(r"published +(-|0\.0) +0", line) for line in back)
        assert shown.scrolled == []
    finally:
        await second.stop()


async def test_a_refusal_is_printed_on_the_restored_terminal(serve: Serve, terminal: Start) -> None:
    server = await serve(token=STATIC)
    shown = await terminal("status", "--watch", "--url", server.url)
    assert await shown.ended() == 1
    reported = " ".join(shown.lines).strip()
    assert reported.startswith(
        f"sse-broadcast: {server.url}/status: 401 Unauthorized: inspect '*': needs a token"
    )
    assert b"\x1b" not in shown.raw


async def test_a_later_refusal_is_printed_on_the_restored_terminal(serve: Serve, terminal: Start) -> None:
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


async def test_a_response_cannot_control_the_terminal(
    scripted_server: StartScripted, terminal: Start
) -> None:
    evil = {**SLOWEST[0], "address": "\x1b[2J\x07", "channels": ["\x1b]0;title\x07"]}
    status = {"connected_clients": 1, "\x1b[31mred": 7, "closed": {"\x1b[5m": 1}}
    url = await scripted_server(
        status=json_handler(status), subscribers=json_handler({"subscribers": [evil]})
    )
    shown = await terminal("status", "--watch", "--url", url)
    lines = await until_drawn(shown)
    assert any("?[2J?" in line for line in lines)
    ours = rb"\x1b\[(\?1049h|\?25l|H|K|J)"
    assert b"\x1b" not in re.sub(ours, b"", shown.raw)
    assert b"\x07" not in shown.raw
