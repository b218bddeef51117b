"""Body share: count the bytes of a request body in its caller's share while the server holds them."""

from types import TracebackType
from typing import Self

from aiohttp import web

from sse_broadcast.server.access.authorization import PRINCIPAL
from sse_broadcast.server.access.shares import UNCOUNTED, Callers, callers_of
from sse_broadcast.server.services import SHARES, services_of


class BodyShare:
    """Counts the bytes of a body, or of its unfinished line, from the first `resize` to the end of `with`.

    Bytes up to `UNCOUNTED` are free: the callers of a short body are not even looked up.
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
        """Set the number of bytes held. Raises `Problem` beyond a share, and leaves the number as it was."""
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
