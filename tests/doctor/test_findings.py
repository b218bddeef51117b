"""Findings of probes."""

from sse_broadcast.doctor.findings import Fault, Finding, Level, has_fault, note, ok, skipped

BAD = Finding("cache", Level.FAULT, "seen", "meaning", "cure", Fault.CACHE)


def test_only_a_fault_is_one() -> None:
    fine = [ok("a", "seen"), note("b", "seen", "meaning"), skipped("c", "why")]
    assert not has_fault(fine)
    assert has_fault([*fine, BAD])


def test_programs_get_every_part() -> None:
    assert BAD.as_object() == {
        "probe": "cache",
        "level": "fault",
        "fault": "cache",
        "seen": "seen",
        "meaning": "meaning",
        "cure": "cure",
    }
    assert ok("a", "seen").as_object()["fault"] is None
