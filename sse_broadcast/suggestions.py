"""What was meant by a name that is not known: a typing error, or the word of another product."""

import difflib
from collections.abc import Collection, Iterable, Mapping

NEARLY = 0.8
"""difflib's ratio from which a name is taken for a typing error."""

LONGEST = 32
"""Characters of a name that is compared. A longer one is too far from each that is known."""

SYNONYMS: Mapping[str, str] = {
    **dict.fromkeys(("topic", "topics", "stream", "room", "queue", "to", "subject"), "channel"),
    **dict.fromkeys(("type", "event_type", "eventtype", "event_name", "name", "kind"), "event"),
    **dict.fromkeys(("text", "msg", "content", "body"), "message"),
    **dict.fromkeys(("payload", "json", "value"), "data"),
    **dict.fromkeys(("last_event_id", "lasteventid", "event_id", "eventid", "uuid"), "id"),
    **dict.fromkeys(("retry_ms", "reconnect"), "retry"),
    **dict.fromkeys(("conflation_key", "collapse_key", "tag"), "key"),
}
"""Words of Mercure, Centrifugo, ntfy, nchan, Pusher and of Server-Sent Events themselves."""


def nearest(name: str, known: Iterable[str], *, ratio: float = NEARLY) -> str | None:
    """Return the known name of which this one is a typing error, or None."""
    if len(name) > LONGEST:
        return None
    near = difflib.get_close_matches(name, [*known], n=1, cutoff=ratio)
    return near[0] if near else None


def meant(name: str, known: Collection[str]) -> str | None:
    """Return the known name that was probably meant, or None."""
    if len(name) > LONGEST:
        return None
    word = name.lower()
    synonym = word if word in known else SYNONYMS.get(word.replace("-", "_"))
    return synonym if synonym in known else nearest(name, known)
