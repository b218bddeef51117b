"""What a query may say: known parameters, and those that are nearly known."""

import itertools
from collections.abc import Callable, Collection, Iterator

from aiohttp import web
from multidict import MultiMapping

from sse_broadcast.config.suggestions import meant, nearest, similar
from sse_broadcast.server.http.problem import Problem, given_several_times

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
"""What an answer lists, if it is not said, and at most."""

LOOKED_AT = 10
"""Unknown parameters that are looked at, some microseconds each."""

COMPARED = 2
"""Those of them that are compared with known ones letter by letter: that takes 30 us each."""


def refuse_misspelt(
    query: MultiMapping[str], known: Collection[str], *, also: Callable[[str], bool] = lambda _: False
) -> None:
    """Refuse a parameter that is nearly a known one; others, of a cache or a proxy, are ignored.

    `also` says of a name whether it is known too. A typing error must not give something else than was meant.
    Call it behind the grant: a stranger is not told what was meant, and has nothing compared.
    """
    unknown = itertools.islice(_unknown(query, known, also), LOOKED_AT)
    near = ((name, candidates) for name in unknown if (candidates := similar(name, known)))
    for name, candidates in itertools.islice(near, COMPARED):
        if suggestion := nearest(name, candidates):
            raise Problem(400, f"{name[:80]}: unknown parameter; {suggestion} was meant?")


def refuse_unknown(query: MultiMapping[str], known: Collection[str]) -> None:
    """Refuse any parameter that is not known, since what is published cannot be taken back."""
    for name in _unknown(query, known, lambda _: False):
        suggestion = meant(name, known)
        hint = f"{suggestion} was meant?" if suggestion else f"{', '.join(sorted(known))} are known"
        raise Problem(400, f"{name[:80]}: unknown parameter; {hint}")


def _unknown(query: MultiMapping[str], known: Collection[str], also: Callable[[str], bool]) -> Iterator[str]:
    return (name for name in dict.fromkeys(query) if name not in known and not also(name))


def only(values_by_name: MultiMapping[str], name: str) -> str | None:
    """Return a parameter or a header that may be there once, or None. Raises `Problem` for several."""
    values = values_by_name.getall(name, ())
    if len(values) > 1:
        raise given_several_times(name, len(values))
    return values[0] if values else None


def limit(request: web.Request) -> int:
    """Return how many an answer may list. Raises `Problem`."""
    text = only(request.query, "limit")
    if text is None:
        return DEFAULT_PAGE_SIZE
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_PAGE_SIZE):
        raise Problem(400, f"limit: must be 1 to {MAX_PAGE_SIZE}, not {text[:80]!a}")
    return int(text)
