"""Reminder: a log line at most once in a while."""

import time

import pytest

from sse_broadcast.reminder import Reminder


def test_each_thing_is_due_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reminder = Reminder(60.0)
    assert [reminder.is_due(what) for what in ("a", "a", "b")] == [True, False, True]
    now += 59.9
    assert not reminder.is_due("a")
    now += 0.2
    assert [reminder.is_due("a"), reminder.is_due("a")] == [True, False]
