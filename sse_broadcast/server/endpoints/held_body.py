"""Count the bytes of a request's body in its caller's share while it is read and published."""

from types import TracebackType
from typing import Self

from aiohttp import web

from sse_broadcast.server.access.authorization import PRINCIPAL
from sse_broadcast.server.access.shares import UNCOUNTED, Callers, callers_of
from sse_broadcast.server.services import SHARES, services_of


class HeldBody:
    """Counts one body, or the unfinished line of one, from its first growth until the end of `with`.

    A short body costs next to nothing: its callers are looked up only beyond `UNCOUNTED` bytes.
    """

    __slots__ = ("_callers", "_counted", "_request")

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._callers: Callers = ()
        self._counted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._counted:
            self._request.app[SHARES].release(self._callers, self._counted)
            self._counted = 0

    def resize(self, size: int) -> None:
        """Hold so many bytes now. Raises `Problem` beyond a share, and holds what it held before."""
        counted = max(0, size - UNCOUNTED)
        if counted == self._counted:
            return
        shares = self._request.app[SHARES]
        if counted < self._counted:
            shares.release(self._callers, self._counted - counted)
        else:
            if not self._counted:
                address = services_of(self._request).proxies.limit_key(self._request)
                self._callers = callers_of(self._request[PRINCIPAL], address)
            shares.hold(self._callers, counted - self._counted)
        self._counted = counted
