"""Reconnection: when a client opens its next connection."""

from types import SimpleNamespace

import pytest

from sse_broadcast import backoff
from sse_broadcast.backoff import AttemptError
from sse_broadcast.event import Event
from sse_broadcast.reconnection import SILENCE, STEADY, ConnectionAttempt, Reconnections
from tests.support.clock import Clock

OPENING = b': \nretry: 3127\nevent: $open\ndata: {"heartbeat": 4}\nid: k3f9-1041\n\n'
HEARTBEAT = b"event: $heartbeat\ndata: {}\nid: k3f9-1055\n\n"
RESET = b'event: $reset\ndata: {"reason": "epoch"}\nid: k3f9-1041\n\n'
REFUSED = b'event: $close\nretry: 20000\ndata: {"reason": "full"}\nid: a-7\n\n'
FINISHED = b'event: $close\nretry: 70000\ndata: {"reason": "finished"}\nid: k3f9-1041\n\n'


@pytest.fixture(autouse=True)
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the jitter by its longest wait."""
    monkeypatch.setattr(backoff, "random", SimpleNamespace(uniform=lambda _, high: high))


def opened(data: bytes = b"", *, clock: Clock | None = None) -> ConnectionAttempt:
    connection = ConnectionAttempt("a-7", now=clock or Clock())
    connection.open()
    connection.feed(data)
    return connection


def waits(reconnections: Reconnections, *brought: bytes) -> list[float]:
    """Return the waits after connections with these events each."""
    return [reconnections.wait_after(opened(data)) for data in brought]


@pytest.mark.parametrize(
    ("heartbeat", "silence"),
    [
        ("4", 20.0),
        ("0.01", 20.0),
        ("4.5", 20.0),
        ("15", 60.0),
        ("60", 240.0),
        ("86400", 345_600.0),
        ("1e308", float("inf")),
        *((text, SILENCE) for text in ("0", "-1", "true", "null", '"4"', "1e999", "[")),
    ],
)
def test_the_silence_limit_is_four_heartbeats(heartbeat: str, silence: float) -> None:
    """It is at least the time that TCP needs to repair a loss. An invalid interval changes nothing."""
    connection = opened(f'event: $open\ndata: {{"heartbeat": {heartbeat}}}\nid: 1\n\n'.encode())
    assert connection.silence == silence


@pytest.mark.parametrize("data", ["", "[]", "{}", "4"])
def test_an_unknown_form_of_the_open_event_counts(data: str) -> None:
    connection = opened(f"event: $open\ndata: {data}\nid: 1\n\n".encode())
    assert (connection.silence, connection.worked) == (SILENCE, True)


@pytest.mark.parametrize("data", [OPENING, RESET, HEARTBEAT, b"data: one\n\n", OPENING + REFUSED])
def test_a_connection_with_an_event_is_good(data: bytes) -> None:
    """`$open` counts: the stream has begun."""
    assert opened(data).worked


@pytest.mark.parametrize("data", [b"", b": \nretry: 1\n", b"id: 1\n\n", REFUSED, FINISHED, b"data: half\n"])
def test_a_connection_with_only_a_close_is_a_failure(data: bytes) -> None:
    """The stream was refused."""
    assert not opened(data).worked


def test_a_connection_is_good_if_it_lasts() -> None:
    """Its time begins with its first byte."""
    clock = Clock()
    never, connection = ConnectionAttempt("", now=clock), opened(clock=clock)
    clock.forward(STEADY - 0.5)
    assert not connection.worked
    clock.forward(0.5)
    assert connection.worked
    assert not never.worked


def test_a_connection_yields_events_and_its_cursor() -> None:
    connection = opened(OPENING)
    assert (connection.last_event_id, connection.retry) == ("k3f9-1041", 3.127)
    assert connection.feed(b"data: one\nid: k3f9-1042\n\ndata: half\nid: k3f9-1043\n") == [
        Event("one", id="k3f9-1042")
    ]
    assert connection.last_event_id == "k3f9-1042"


def test_the_next_connection_resumes_at_the_cursor() -> None:
    reconnections = Reconnections("a-7")
    assert reconnections.begin().last_event_id == "a-7"
    for data, id in (
        (b"", "a-7"),
        (OPENING, "k3f9-1041"),
        (HEARTBEAT, "k3f9-1055"),
        (b"id\ndata: x\n\n", ""),
    ):
        reconnections.wait_after(opened(data))
        assert reconnections.begin().last_event_id == id


def test_waits_grow_while_connections_bring_nothing() -> None:
    """They grow from the last `retry` to a minute, and start again after a good one."""
    empty = [b""] * 6
    assert waits(Reconnections(""), *empty) == [6.0, 12.0, 24.0, 48.0, 60.0, 60.0]
    assert waits(Reconnections(""), OPENING, b"", b"", OPENING, b"") == [3.127, 6.254, 12.508, 3.127, 6.254]
    assert waits(Reconnections(""), REFUSED, REFUSED, REFUSED) == [40.0, 60.0, 60.0]
    assert waits(Reconnections(""), b"retry: 0\n", b"", b"data: x\n\n") == [1.0, 2.0, 0.5]


def test_retry_after_applies_once() -> None:
    """It is about this outage, whereas `retry` is about the server."""
    reconnections = Reconnections("")
    assert reconnections.wait_after(opened(), retry_after=100.0) == 125.0
    assert reconnections.wait_after(opened()) == 12.0


def test_a_finished_stream_is_requested_soon_and_once() -> None:
    """Its `retry` is for clients that ignore 204. Without a 204 the wait is its minute."""
    assert waits(Reconnections(""), OPENING + FINISHED) == [3.0]
    assert waits(Reconnections(""), FINISHED, FINISHED) == [6.0, 70.0]
    assert waits(Reconnections(""), OPENING + FINISHED, OPENING + FINISHED, OPENING) == [3.0, 70.0, 3.127]
    quick = FINISHED.replace(b"70000", b"600")
    assert waits(Reconnections(""), OPENING + quick) == [0.6]


@pytest.mark.parametrize("data", ["", "{}", "finished", '"finished"', '{"reason": 7}', '{"reason": "drain"}'])
def test_another_end_is_not_finished(data: str) -> None:
    assert not opened(f"event: $close\ndata: {data}\n\n".encode()).finished


AWAY = AttemptError("refused", transient=True, unsure=False)
BUSY = AttemptError("busy", status=502, transient=True, unsure=True)
GONE = AttemptError("gone", status=404, transient=False, unsure=False)


@pytest.mark.parametrize("error", [AWAY, GONE])
def test_a_failed_first_attempt_is_the_end(error: AttemptError) -> None:
    """The URL is probably wrong, and the user gets the error at once."""
    with pytest.raises(AttemptError) as caught:
        Reconnections("").fail(ConnectionAttempt(""), error)
    assert caught.value is error


def test_a_temporary_first_status_is_not_the_end() -> None:
    """A program responded there. It may be unreachable later."""
    reconnections = Reconnections("")
    reconnections.fail(ConnectionAttempt(""), BUSY)
    reconnections.fail(ConnectionAttempt(""), AWAY)


@pytest.mark.parametrize("before", ["now", "earlier"])
def test_a_stream_that_had_begun_is_resumed(before: str) -> None:
    reconnections = Reconnections("")
    connection = opened()
    if before == "earlier":
        reconnections.wait_after(connection)
        connection = ConnectionAttempt("")
    reconnections.fail(connection, AWAY)
    with pytest.raises(AttemptError):
        reconnections.fail(connection, GONE)
