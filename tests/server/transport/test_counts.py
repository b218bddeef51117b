"""Who is counted, and by what."""

from sse_broadcast.metrics import Metrics
from sse_broadcast.server.transport.counts import Attendance


def test_everyone_is_counted_and_an_address_by_itself() -> None:
    """What is not counted by its address is counted among all."""
    attendance = Attendance(Metrics())
    for key in ("192.0.2.1", "192.0.2.1", "2001:db8::/64", None):
        attendance.enter(key, private=key is None)
    assert (attendance.count, attendance.public) == (4, 3)
    assert attendance.of("192.0.2.1") == 2
    assert attendance.of("2001:db8::/64") == 1
    assert attendance.of("192.0.2.2") == 0
    attendance.leave("192.0.2.1", private=False)
    attendance.leave(None, private=True)
    assert (attendance.count, attendance.public, attendance.of("192.0.2.1")) == (2, 2, 1)


def test_an_address_that_left_is_forgotten() -> None:
    """Memory is of those that are here, and not of all that ever were."""
    attendance = Attendance(Metrics())
    for number in range(100):
        attendance.enter(f"192.0.2.{number}", private=False)
    for number in range(100):
        attendance.leave(f"192.0.2.{number}", private=False)
    assert (attendance.count, attendance._of) == (0, {})
