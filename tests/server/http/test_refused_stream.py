"""Refused streams: for clients that stop for good at any status but 200."""

import math

import pytest

from sse_broadcast.server.http.refused_stream import (
    COME_BACK,
    RefusalReason,
    refused_stream,
    wants_event_stream,
)
from tests.server.blocks import close_block


@pytest.mark.parametrize(
    "accept",
    [
        "text/event-stream",
        "Text/Event-Stream",
        "text/event-stream;q=0.9, */*",
        "application/json,text/event-stream",
        "text/event-stream; charset=utf-8",
    ],
)
def test_a_client_that_accepts_the_type_wants_an_event_stream(accept: str) -> None:
    assert wants_event_stream(accept)


@pytest.mark.parametrize("accept", ["", "*/*", "text/*", "text/html", "application/x-ndjson"])
def test_a_client_that_does_not_name_the_type_wants_none(accept: str) -> None:
    """curl, a page's fetch and clients of NDJSON look at the status."""
    assert not wants_event_stream(accept)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (RefusalReason.FULL, "full"),
        (RefusalReason.ADDRESS, "address"),
        (RefusalReason.TOKEN, "token"),
        (RefusalReason.RATE, "rate"),
        (RefusalReason.DRAIN, "drain"),
        (RefusalReason.BACKEND, "backend"),
    ],
)
def test_a_refusal_is_one_block_with_reason_and_retry(reason: RefusalReason, said: str) -> None:
    """The retry time is 20 seconds with a jitter of half. The header has it in whole seconds."""
    waits = set()
    for _ in range(50):
        headers, block = refused_stream(reason, brought="")
        found = close_block(said, None).fullmatch(block)
        assert found
        wait = int(found[1])
        assert COME_BACK / 2 <= wait <= COME_BACK * 1.5
        waits.add(wait)
        assert headers == {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "Retry-After": str(math.ceil(wait / 1000)),
        }
    assert len(waits) > 10


def test_every_reason_is_in_the_test_above() -> None:
    assert set(RefusalReason) == {"full", "address", "token", "rate", "drain", "backend"}


@pytest.mark.parametrize(
    ("brought", "id"), [("", None), ("0123abcd-7", "0123abcd-7"), ("a b", None), ("a\n\ndata: x", None)]
)
def test_the_last_event_id_is_repeated(brought: str, id: str | None) -> None:
    _, block = refused_stream(RefusalReason.RATE, brought=brought)
    assert close_block("rate", id).fullmatch(block)


def test_the_retry_is_at_least_the_wait_of_a_limit() -> None:
    """The client would reconnect sooner by itself."""
    headers, block = refused_stream(RefusalReason.RATE, brought="", retry_after=600)
    assert headers["Retry-After"] == "600"
    assert block == b'event: $close\nretry: 600000\ndata: {"reason": "rate"}\n\n'
    headers, _ = refused_stream(RefusalReason.RATE, brought="", retry_after=1)
    assert int(headers["Retry-After"]) >= 10
