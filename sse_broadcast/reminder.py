"""Reminder: a limit on how often the same thing is logged."""

import time


class Reminder:
    """Decides whether a repeated event is due to be logged: the first time, then once in `seconds`."""

    __slots__ = ("_logged", "_seconds")

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        # Keyed by constants of the code, never by a caller's text: so it stays small.
        self._logged: dict[str, float] = {}

    def is_due(self, what: str) -> bool:
        """Return whether to log it now. If so, its interval starts again."""
        now = time.monotonic()
        last = self._logged.get(what)
        if last is not None and now - last < self._seconds:
            return False
        self._logged[what] = now
        return True
