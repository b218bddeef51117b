"""`status --watch`: requests, rates, and its output into a pipe."""

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import pytest
from aiohttp import web

from sse_broadcast.cli import live_status
from sse_broadcast.cli.live_status import JsonView, LineView, Snapshot, rates, span, take_snapshot
from sse_broadcast.client import Client
from sse_broadcast.errors import ClientError
from sse_broadcast.server.runner import Server
from tests.cli import snapshots
from tests.cli.snapshots import SEEN, SLOWEST, STATUS, StartScripted, json_handler
from tests.conftest import Connect
from tests.support import process
from tests.support.process import Programs
from tests.support.sockets import until
from tests.support.terminal import Terminal, terminals

utc = pytest.fixture(snapshots.in_utc, autouse=True)
scripted_server = pytest.fixture(snapshots.scripted_server)
terminal = pytest.fixture(terminals)
programs = pytest.fixture(process.programs)

Start = Callable[..., Awaitable[Terminal]]


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
def test_a_rate_is_the_difference_of_two_snapshots(
    before: Snapshot | None, now: Snapshot, found: Mapping[str, float] | None
) -> None:
    """Reasons are added up. There is no rate after a restart of the server."""
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
def test_a_duration_has_two_units(seconds: float, shown: str) -> None:
    """It is rounded down, and eight characters at most."""
    assert span(seconds) == shown


def test_a_line_of_the_live_status() -> None:
    """A file or pipe gets counts, and the subscriber with the largest backlog if there is one."""
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


def test_a_record_of_the_live_status() -> None:
    """A program gets the whole snapshot, changed or not."""
    assert json.loads(JsonView().line(SEEN, {"published": 1 / 3})) == {
        "time": 1_700_000_000.0,
        "status": STATUS,
        "rates": {"published": 0.333},
        "slowest": SLOWEST,
        "hidden": None,
        "trouble": None,
    }


async def hang(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_without_permission_to_see_subscribers_the_rest_is_shown(
    scripted_server: StartScripted, status: int
) -> None:
    url = await scripted_server(status=json_handler(STATUS), subscribers=json_handler({}, status))
    async with Client(url) as client:
        seen = await take_snapshot(client)
    assert (seen.status, seen.slowest) == (STATUS, None)
    assert seen.hidden.startswith(f"{url}/subscribers?sort=lag&limit=100: {status} ")


@pytest.mark.parametrize(
    ("answers", "reported"),
    [
        ({"status": json_handler(STATUS), "subscribers": json_handler({}, 500)}, r".*: 500 .*"),
        (
            {"status": json_handler(STATUS), "subscribers": json_handler({})},
            r".*: does not answer as this server does",
        ),
        ({"status": json_handler({}, 401)}, r".*: 401 .*"),
        ({"status": hang}, r"no answer within 0\.1 seconds"),
        ({"status": json_handler(STATUS), "subscribers": hang}, r"no answer within 0\.1 seconds"),
    ],
)
async def test_a_failed_request_has_its_reason(
    scripted_server: StartScripted, monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], reported: str
) -> None:
    monkeypatch.setattr(live_status, "ALIVE", 0.1)
    async with Client(await scripted_server(**answers)) as client:
        with pytest.raises(ClientError) as raised:
            await take_snapshot(client)
    assert re.fullmatch(reported, str(raised.value))


class RecordingView:
    """Records what is shown, and lets a test continue after each snapshot."""

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


async def test_an_unreachable_server_is_waited_for(scripted_server: StartScripted) -> None:
    """Its last snapshot is shown with the error. The next rate is over the whole time."""
    more = {**STATUS, "published": 1300}
    busy = [503, 429, 408, 425, 502, 521]
    url = await scripted_server(
        status=in_turn((STATUS, 200), *(({}, status) for status in busy), (more, 200)),
        subscribers=json_handler({"subscribers": []}),
    )
    kept = RecordingView(upto=8)
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
async def test_a_refusal_ends_the_live_status(scripted_server: StartScripted, status: int) -> None:
    """A bad token stays bad."""
    url = await scripted_server(
        status=in_turn((STATUS, 200), ({}, status)), subscribers=json_handler({"subscribers": []})
    )
    kept = RecordingView(upto=5)
    with pytest.raises(ClientError, match=f": {status} "):
        await live_status.watch(Client(url), kept, interval=1)
    assert (len(kept.shown), kept.ended) == (1, True)


LINE = re.compile(rb"\d\d:\d\d:\d\d subscribers 0, published (-|0\.0/s), .*\n")


async def test_a_pipe_gets_a_line_for_each_snapshot(server: Server, programs: Programs) -> None:
    watched = await programs.cli("status", "--watch", "--interval", "0.1", "--url", server.url)
    found = [LINE.fullmatch(await watched.line()) for _ in range(3)]
    assert [each and each[1] for each in found] == [b"-", b"0.0/s", b"0.0/s"]
    watched.signal_all(signal.SIGINT)
    assert (await watched.ended()).code == 130


async def test_a_pipe_gets_json_for_each_snapshot(
    server: Server, connect: Connect, programs: Programs
) -> None:
    """--json has the response of the server, and the rates."""
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


async def test_a_terminal_gets_json_on_request(server: Server, terminal: Start) -> None:
    shown = await terminal("status", "--watch", "--json", "--interval", "0.1", "--url", server.url)
    await shown.shows(lambda lines: lines[0].startswith('{"time": '))
    assert b"\x1b" not in shown.raw


async def test_a_terminal_without_cursor_control_gets_lines(server: Server, terminal: Start) -> None:
    env = {"TERM": "dumb"}
    shown = await terminal("status", "--watch", "--interval", "0.1", "--url", server.url, env=env)
    await shown.shows(lambda lines: LINE.fullmatch(f"{lines[1]}\n".encode()) is not None)
    assert b"\x1b" not in shown.raw


async def test_a_closed_pipe_is_the_end(server: Server, programs: Programs) -> None:
    """`head` may close it: nothing is printed."""
    command = f"'{process.SCRIPT}' status --watch --interval 0.1 --url {server.url} | head -n 1"
    piped = await programs.start("sh", "-c", command)
    ended = await piped.ended()
    assert (ended.code, ended.err, ended.out.count(b"\n")) == (0, b"", 1)
