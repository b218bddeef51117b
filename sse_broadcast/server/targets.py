"""Request targets: what the library of URLs keeps of them, and until when."""

from collections.abc import Callable
from types import ModuleType

from aiohttp import web
from yarl import _parse, _url

from sse_broadcast.server.problem import Problem

SHORT_TARGET = 64
"""Characters of a target that is looked at no further: it has 32 parameters at most."""

KEPT_PATH = 256
"""Characters of a target without a query that yarl may keep."""

MAX_TARGET = 16_384
"""Bytes of the path and query of a request."""

OTHER_PARAMETERS = 100
"""Parameters of a query beside those that name a channel each."""

_CACHES = (
    (_url, "build_pre_encoded_url"),
    (_url, "pre_encoded_url"),
    (_parse, "split_netloc"),
)
"""By what aiohttp has a URL made of each target. Each keeps the last 128, with all that was found out of
them: 200 KB of 8 KB of parameters, whoever sent them. They have no setting, and so are emptied."""


def require_fitting_target(request: web.Request, *, max_channels: int) -> None:
    """Refuse a target that is too long, or has too many parameters, before it is taken apart.

    Call it first. It also has the URL forgotten when its request is over. Raises `Problem`.
    """
    target = request.raw_path
    if len(target) <= SHORT_TARGET:
        return
    asks = "?" in target
    if asks or len(target) > KEPT_PATH:
        forget_targets()
    if len(target) > MAX_TARGET:
        raise Problem(
            414,
            f"request line: is {len(target)} bytes, and may be {MAX_TARGET};"
            " POST /events takes a long list of channels in its body",
        )
    most = max_channels + OTHER_PARAMETERS
    if asks and (count := target.count("&") + 1) > most:
        raise Problem(400, f"query: {count} parameters are too many, {most} may be given")


def forget_targets() -> None:
    """Have nothing kept of the targets of requests."""
    for clear in _CLEAR:
        clear()


def _clear_of(module: ModuleType, name: str) -> Callable[[], None] | None:
    # They are yarl's own, and another version may have others, or none.
    clear: Callable[[], None] | None = getattr(getattr(module, name, None), "cache_clear", None)
    return clear


_CLEAR = tuple(clear for module, name in _CACHES if (clear := _clear_of(module, name)) is not None)
