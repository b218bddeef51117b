"""Reminder: limit how often the same thing is logged."""

import time


class Reminder:
    """Tells when something that goes on happening is to be logged: at first, and then once in `seconds`."""

    __slots__ = ("_logged", "_seconds")

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        # By what is logged: a few words of the code, none of a caller.
        self._logged: dict[str, float] = {}

    def is_due(self, what: str) -> bool:
        """Return whether it is to be logged now. Its next time is counted from then."""
        now = time.monotonic()
        last = self._logged.get(what)
        if last is not None and now - last < self._seconds:
            return False
        self._logged[what] = now
        return True
