"""The events with which the server ends a stream or reports a loss."""

import pytest

from sse_broadcast.backends.base import ResetReason
from sse_broadcast.encoding import CHUNKED_TEXT, JSON, NDJSON, TEXT, Encoding, own_block
from sse_broadcast.event import Event, jittered
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.fanout.system_events import close_event, reset_event, reset_publication


@pytest.mark.parametrize("encoding", [TEXT, JSON])
def test_close_is_one_block(encoding: Encoding) -> None:
    """It has the reason, the reconnection time and the id to resume from."""
    close = b'event: $close\nretry: 2500\ndata: {"reason": "drain"}\nid: 0123abcd-7\n\n'
    assert own_block(encoding.format, close_event(CloseReason.DRAIN, 2500), "0123abcd-7") == close


def test_close_is_one_line_in_a_format_of_lines() -> None:
    """It is an envelope without a channel, as all system events."""
    said = own_block(NDJSON.format, close_event("slow", 2500), "0123abcd-7")
    before, _, time = said.partition(b'"time":')
    assert before == b'{"channel":null,"id":"0123abcd-7","event":"$close","data":{"reason": "slow"},'
    assert time.endswith(b"}\n")


def test_jitter_spreads_reconnections() -> None:
    """They come over half the retry time more, or over the given time if that is longer."""
    near, far = ([jittered(3000, spread=spread) for _ in range(2000)] for spread in (0, 100_000))
    assert len(set(near)) > 50
    assert 1500 <= min(near) <= max(near) <= 4500
    assert 1500 <= min(far) < 7000
    assert 90_000 < max(far) <= 101_500
    assert max(jittered(3000, spread=100) for _ in range(2000)) > 4000
    assert jittered(0, spread=0) == jittered(0) == 0


def test_a_reset_in_each_encoding() -> None:
    """Its id is the cursor to resume from, its data is JSON, and it has no channel."""
    reset = reset_publication(ResetReason.SLOW, ["a", "b*"], epoch="0123abcd", position=5, missed=118)
    loss = b'{"reason": "slow", "channels": ["a", "b*"], "missed": 118}'
    frame = b"event: $reset\ndata: " + loss + b"\nid: 0123abcd-5\n\n"
    assert reset.frame(TEXT) == reset.frame(JSON) == frame
    assert reset.frame(CHUNKED_TEXT) == b"%x\r\n%b\r\n" % (len(frame), frame)
    assert reset.frame(NDJSON).startswith(
        b'{"channel":null,"id":"0123abcd-5","event":"$reset","data":' + loss + b',"time":'
    )
    assert reset.frame(NDJSON).endswith(b"}\n")
    assert (reset.position, reset.id, reset.channels, reset.size) == (5, "0123abcd-5", (), len(frame))


@pytest.mark.parametrize("reason", list(ResetReason))
def test_an_uncounted_loss_is_null(reason: ResetReason) -> None:
    reset = reset_publication(reason, ["a"], epoch="0123abcd", position=5, missed=None)
    assert reset.event.data == f'{{"reason": "{reason}", "channels": ["a"], "missed": null}}'


def test_a_reset_of_the_first_frames_is_the_same_event() -> None:
    """Its id is that of the first frames, which it precedes."""
    event = reset_event(ResetReason.EVICTED, ("a", "b*"), missed=None)
    assert event == Event(
        '{"reason": "evicted", "channels": ["a", "b*"], "missed": null}', type="$reset", json=True
    )
    placed = reset_publication(ResetReason.EVICTED, ("a", "b*"), epoch="0123abcd", position=5, missed=None)
    assert placed.event == event
