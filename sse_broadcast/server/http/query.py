"""Query parameters: the known ones, and typing errors of them."""

import itertools
from collections.abc import Callable, Collection, Iterator

from aiohttp import web
from multidict import MultiMapping

from sse_broadcast.config.suggestions import meant, nearest, similar
from sse_broadcast.server.http.problem import Problem, given_several_times

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
"""Default and maximum number of entries in a page."""

LOOKED_AT = 10
"""Maximum unknown parameters to examine, a few microseconds each."""

COMPARED = 2
"""Maximum unknown parameters to compare with known ones by difflib, 30 us each."""


def refuse_misspelt(
    query: MultiMapping[str], known: Collection[str], *, also: Callable[[str], bool] = lambda _: False
) -> None:
    """Refuse a parameter that resembles a known one. Others, of a cache or a proxy, are ignored.

    `also` returns whether a name is known in addition. Call it after the authorization.
    """
    # A misspelt parameter that is ignored would subscribe to something else. After the authorization, so
    # that a stranger learns no names and costs no comparisons.
    unknown = itertools.islice(_unknown(query, known, also), LOOKED_AT)
    near = ((name, candidates) for name in unknown if (candidates := similar(name, known)))
    for name, candidates in itertools.islice(near, COMPARED):
        if suggestion := nearest(name, candidates):
            raise Problem(400, f"{name[:80]}: unknown parameter; did you mean {suggestion}?")


def refuse_unknown(query: MultiMapping[str], known: Collection[str]) -> None:
    """Refuse every unknown parameter: a publish cannot be taken back."""
    for name in _unknown(query, known, lambda _: False):
        suggestion = meant(name, known)
        hint = f"did you mean {suggestion}?" if suggestion else f"{', '.join(sorted(known))} are known"
        raise Problem(400, f"{name[:80]}: unknown parameter; {hint}")


def _unknown(query: MultiMapping[str], known: Collection[str], also: Callable[[str], bool]) -> Iterator[str]:
    return (name for name in dict.fromkeys(query) if name not in known and not also(name))


def only(values_by_name: MultiMapping[str], name: str) -> str | None:
    """Return a parameter or a header that may appear once, or None. Raises `Problem` for several."""
    values = values_by_name.getall(name, ())
    if len(values) > 1:
        raise given_several_times(name, len(values))
    return values[0] if values else None


def limit(request: web.Request) -> int:
    """Return the page size that a request asks for. Raises `Problem`."""
    text = only(request.query, "limit")
    if text is None:
        return DEFAULT_PAGE_SIZE
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_PAGE_SIZE):
        raise Problem(400, f"limit: must be 1 to {MAX_PAGE_SIZE}, not {text[:80]!a}")
    return int(text)
