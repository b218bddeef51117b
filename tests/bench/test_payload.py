"""The payload of an event, and how it is found in a stream."""

import re

import pytest

from sse_broadcast.bench import payload
from sse_broadcast.bench.payload import Marker, Markers

MARKER = Marker(12.345678, 3, 42, 1)


def found(markers: Markers, lines: bytes) -> list[Marker]:
    return [markers[text] for text in markers.find(lines)]


def test_a_marker_comes_back_from_a_stream() -> None:
    markers = Markers("abc")
    text = markers.encode(MARKER, size=60)
    assert text == "T12.345678 P3 S42 C1 Babc " + "x" * 34
    assert found(markers, f"data: {text}\nid: 1\n\n".encode()) == [MARKER]


@pytest.mark.parametrize(
    "line",
    [
        'data:{"pub":{"data":"%s","offset":3}}',
        'data: {"channel": "a", "data": "%s"}',
        "data:%s\r",
    ],
)
def test_a_marker_is_found_in_what_another_server_wraps_around_it(line: str) -> None:
    markers = Markers("abc")
    text = markers.encode(MARKER, size=0)
    assert found(markers, (line % text + "\n\n").encode()) == [MARKER]


def test_events_of_another_run_are_none() -> None:
    text = Markers("abd").encode(MARKER, size=0)
    assert found(Markers("abc"), f"data: {text}\n\nid: {text}\n".encode()) == []


def test_only_data_lines_count() -> None:
    markers = Markers("abc")
    text = markers.encode(MARKER, size=0)
    assert found(markers, f": {text}\nid: {text}\nevent: {text}\n".encode()) == []


def test_two_runs_have_different_names() -> None:
    first, second = Markers().run, Markers().run
    assert first != second
    assert re.fullmatch("[0-9a-f]{12}", first)


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "MAX_REMEMBERED", 3)
    markers = Markers("abc")
    for number in range(10):
        assert markers[b"T1.000000 P0 S%d C0" % number].sequence == number
    assert len(markers) <= 3
