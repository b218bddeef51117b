"""Findings: what a probe has seen, what that means, and the cure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad a finding is. Only a fault changes the exit code."""

    OK = "ok"
    NOTE = "note"
    FAULT = "fault"
    SKIPPED = "skipped"


class Fault(StrEnum):
    """The kinds of faults that have cures."""

    BUFFERING = "buffering"
    COMPRESSION = "compression"
    IDLE = "idle timeout"
    HTTP_1_0 = "HTTP/1.0 upstream"
    LAST_EVENT_ID = "Last-Event-ID stripped"
    HISTORY = "no history"
    CACHE = "cache"
    AWAY = "server away"
    REFUSED = "refused"
    NOT_A_STREAM = "not a stream"
    HEADERS = "headers"
    CORS = "CORS"
    REDIRECT = "redirect"
    CERTIFICATE = "certificate"
    CLOCK = "clock"
    LEAVING = "leaving unnoticed"
    HELD_BODY = "publish held"
    EVICTION = "eviction"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one probe, each part one line of plain text."""

    probe: str
    level: Level
    seen: str
    meaning: str = ""
    cure: str = ""
    fault: Fault | None = None

    def as_object(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "probe": self.probe,
            "level": self.level.value,
            "fault": None if self.fault is None else self.fault.value,
            "seen": self.seen,
            "meaning": self.meaning,
            "cure": self.cure,
        }


def ok(probe: str, seen: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(probe, Level.OK, seen)


def note(probe: str, seen: str, meaning: str) -> Finding:
    """Return a finding that is worth knowing, and no fault."""
    return Finding(probe, Level.NOTE, seen, meaning)


def skipped(probe: str, why: str) -> Finding:
    """Return a finding for a probe that was not run."""
    return Finding(probe, Level.SKIPPED, why)


def has_fault(findings: Sequence[Finding]) -> bool:
    """Return whether any finding is a fault."""
    return any(finding.level is Level.FAULT for finding in findings)
