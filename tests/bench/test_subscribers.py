"""Subscribers of a run: bytes in, counts out."""

import pytest

from sse_broadcast.bench.payload import Marker, Markers
from sse_broadcast.bench.subscribers import Subscription, Tally
from tests.support.scripted import STREAM, chunk

RUN = "abc"


@pytest.fixture
def tally() -> Tally:
    return Tally(Markers(RUN))


def subscription(tally: Tally, *, frozen: bool = False) -> Subscription:
    return Subscription(tally, channel=0, publishers=1, frozen=frozen)


def event(sequence: int, *, due: float = 10.0, channel: int = 0) -> bytes:
    text = Markers(RUN).encode(Marker(due, 0, sequence, channel), size=80)
    return f"data: {text}\nid: {sequence}\n\n".encode()


async def test_latency_counts_from_when_an_event_was_due(tally: Tally) -> None:
    one = subscription(tally)
    one.feed(STREAM, 9.0)
    assert one.is_open
    assert one.opened.result()
    one.feed(chunk(event(1, due=10.0)), 10.25)
    assert tally.deliveries == 1
    assert tally.latency.percentile(100) == pytest.approx(0.25, rel=0.001)
    assert dict(tally.per_second) == {10: 1}
    assert dict(tally.slowest_in) == {10: 0.25}


async def test_an_event_counts_once_however_it_is_cut(tally: Tally) -> None:
    stream = STREAM + chunk(event(1)) + chunk(event(2) + event(3))
    one = subscription(tally)
    for index in range(len(stream)):
        one.feed(stream[index : index + 1], 10.0)
    assert (tally.deliveries, tally.repeats, tally.late) == (3, 0, 0)
    assert one.check.lost(0, sent=3) == 0


async def test_repeats_disorder_and_foreign_events_are_counted(tally: Tally) -> None:
    one = subscription(tally)
    one.feed(STREAM + chunk(b"".join(map(event, (1, 3, 2, 3))) + event(1, channel=7)), 10.0)
    assert (tally.deliveries, tally.repeats, tally.late, tally.misrouted) == (5, 1, 1, 1)


async def test_a_reset_is_counted(tally: Tally) -> None:
    one = subscription(tally)
    one.feed(STREAM + chunk(b'\nevent: $reset\ndata: {"reason": "slow"}\nid: 7\n\n'), 10.0)
    assert tally.resets == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", "text/html"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "no content type"),
        (b"SSH-2.0\r\n", "no HTTP"),
    ],
)
async def test_what_is_no_stream_is_told(tally: Tally, answer: bytes, reason: str) -> None:
    one = subscription(tally)
    one.feed(answer, 10.0)
    assert not one.opened.result()
    assert dict(tally.refusals) == {reason: 1}


async def test_the_end_of_a_stream_is_told_by_its_kind(tally: Tally) -> None:
    for kind in range(3):
        one = subscription(tally)
        one.feed(STREAM, 10.0)
        if kind == 0:
            one.feed(b"0\r\n\r\n", 11.0)
        else:
            one.lost(ConnectionResetError() if kind == 1 else None)
        assert not one.is_open
    subscription(tally).lost(None)
    assert dict(tally.disconnects) == {"ended by the server": 1, "reset by the server": 1, "cut off": 1}
    assert dict(tally.refusals) == {"closed without a response": 1}


async def test_what_the_run_itself_closes_is_not_counted(tally: Tally) -> None:
    one = subscription(tally)
    one.feed(STREAM, 10.0)
    tally.counts = False
    one.lost(None)
    assert not tally.disconnects


async def test_a_frozen_subscriber_stops_reading_with_the_head(tally: Tally) -> None:
    paused: list[bool] = []
    one = subscription(tally, frozen=True)
    one.pause = lambda: paused.append(True)
    one.feed(STREAM, 10.0)
    assert paused == [True]


async def test_what_comes_after_a_thaw_is_not_counted(tally: Tally) -> None:
    resumed: list[bool] = []
    one = subscription(tally, frozen=True)
    one.resume = lambda: resumed.append(True)
    one.feed(STREAM, 10.0)
    one.thaw()
    one.feed(chunk(event(1)), 10.0)
    assert (resumed, tally.deliveries, one.is_open) == ([True], 0, True)
    one.lost(ConnectionResetError())
    assert not one.is_open
    assert not tally.disconnects  # it is counted as frozen
