"""A stopped process and a changed date: no event is lost."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Program
from tests.support import process
from tests.support.process import Programs, Serving
from tests.support.sockets import PATIENCE, RawClient

programs = pytest.fixture(process.programs)

DAY = 86_400


@pytest.fixture
async def clients() -> AsyncIterator[list[RawClient]]:
    """Return a list of sockets to close when the test ends."""
    opened: list[RawClient] = []
    yield opened
    for client in opened:
        client.close()


async def connect(serving: Serving, clients: list[RawClient]) -> RawClient:
    client = await RawClient.open(serving.port)
    clients.append(client)
    return client


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


async def test_a_stopped_process_continues(programs: Programs, clients: list[RawClient]) -> None:
    serving = await programs.serve("--heartbeat", "0.05", "--write-timeout", "0.05")
    subscriber, publisher = await connect(serving, clients), await connect(serving, clients)
    await subscriber.subscribe()
    serving.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE):
            while state_of(serving.process.id) != "T":
                await asyncio.sleep(0.01)
        await publisher.request("POST", "/send", body=b"meanwhile")
        latecomer = await connect(serving, clients)
        await latecomer.request("GET", "/healthz")
        # Several heartbeats, and the time that a socket may stay full.
        await asyncio.sleep(0.3)
    finally:
        serving.process.send_signal(signal.SIGCONT)
    status, answer = await publisher.answer()
    assert (status, json.loads(answer)["clients"]) == (200, 1)
    assert [event.data for event in await subscriber.events(1)] == ["meanwhile"]
    assert (await latecomer.answer())[0] == 200


class Date:
    """The date of a process, shifted by a number of seconds. No other clock is."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._file = folder / "date"
        self.set(0)
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
        }

    def set(self, seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._file)


@pytest.fixture
def date(tmp_path: Path, program: Program) -> Date:
    program("faketime")
    return Date(tmp_path, next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")))


async def test_setting_the_date_loses_nothing(
    programs: Programs, clients: list[RawClient], date: Date
) -> None:
    """Subscribers resume without a loss, a used idempotency key publishes nothing, and times change."""
    settings = ("--history-age", "60", "--idempotency-window", "60")
    serving = await programs.serve(*settings, env=date.env)
    publisher = await connect(serving, clients)
    live = await connect(serving, clients)
    await live.subscribe(path="/events?format=json")

    times: list[float] = []

    async def publish(text: str, key: str) -> str:
        body, headers = text.encode(), f"Idempotency-Key: {key}\r\n"
        status, answer = await publisher.ask("POST", "/send", body=body, headers=headers)
        assert status == 200
        (event,) = await live.events(1)
        times.append(json.loads(event.data)["time"])
        return str(json.loads(answer)["id"])

    first = await publish("0", "key-0")
    for turn, jump in enumerate((30 * DAY, -30 * DAY, 1, 365 * DAY, 0), 1):
        date.set(jump)
        await publish(str(turn), f"key-{turn}")
    again = await publisher.ask("POST", "/send", body=b"0", headers="Idempotency-Key: key-0\r\n")
    assert json.loads(again[1])["id"] == first

    comer = await connect(serving, clients)
    await comer.subscribe(headers=f"Last-Event-ID: {first}\r\n")
    assert [event.data for event in await comer.events(5)] == ["1", "2", "3", "4", "5"]
    days = [round((time - times[0]) / DAY) for time in times]
    assert days == [0, 30, -30, 0, 365, 0]
