"""Suggestions: the known name that an unknown one was probably meant to be."""

import difflib
from collections.abc import Collection, Iterable, Mapping

SIMILARITY = 0.8
"""difflib's ratio from which a name counts as a typing error."""

MAX_COMPARED = 32
"""Maximum characters of a name to compare. Known names are all shorter."""

SYNONYMS: Mapping[str, str] = {
    **dict.fromkeys(("topic", "topics", "stream", "room", "queue", "to", "subject"), "channel"),
    **dict.fromkeys(("type", "event_type", "eventtype", "event_name", "name", "kind"), "event"),
    **dict.fromkeys(("text", "msg", "content", "body"), "message"),
    **dict.fromkeys(("payload", "json", "value"), "data"),
    **dict.fromkeys(("last_event_id", "lasteventid", "event_id", "eventid", "uuid"), "id"),
    **dict.fromkeys(("retry_ms", "reconnect"), "retry"),
    **dict.fromkeys(("conflation_key", "collapse_key", "tag"), "key"),
}
"""Words of Mercure, Centrifugo, ntfy, nchan, Pusher and Server-Sent Events, and ours for each."""


def nearest(name: str, known: Iterable[str], *, ratio: float = SIMILARITY) -> str | None:
    """Return the known name that is most similar to `name`, or None if none is similar enough."""
    near = difflib.get_close_matches(name, similar(name, known, ratio=ratio), n=1, cutoff=ratio)
    return near[0] if near else None


def similar(name: str, known: Iterable[str], *, ratio: float = SIMILARITY) -> list[str]:
    """Return the known names that can reach the ratio: those whose length and letters allow it."""
    # difflib takes 30 us for each comparison. Its ratio is at most that of the letters common to both names,
    # in any order, which is cheap to count.
    if len(name) > MAX_COMPARED:
        return []
    size = len(name)
    fitting = (each for each in known if 2 * min(size, len(each)) >= ratio * (size + len(each)))
    return [each for each in fitting if 2 * _common(name, each) >= ratio * (size + len(each))]


def _common(name: str, other: str) -> int:
    """Return how many letters both names have, in any order."""
    before = len(other)
    for letter in name:
        if letter in other:
            other = other.replace(letter, "", 1)
    return before - len(other)


def meant(name: str, known: Collection[str]) -> str | None:
    """Return the known name that was probably meant, or None."""
    if len(name) > MAX_COMPARED:
        return None
    word = name.lower()
    synonym = word if word in known else SYNONYMS.get(word.replace("-", "_"))
    return synonym if synonym in known else nearest(name, known)
