"""Resume probes: whether an id comes through, and whether each subscriber has a stream of its own."""

from collections.abc import Mapping

from sse_broadcast.doctor.connection import ProbeConnection
from sse_broadcast.doctor.findings import Fault, Finding, ok, skipped
from sse_broadcast.doctor.stream_probes import fault

HIT_MARKS = ("x-cache", "cf-cache-status", "x-cache-status", "x-proxy-cache", "cache-status")
"""Headers by which caches say whether an answer was theirs."""


NGINX_MARKS = ("x-cache-status", "x-proxy-cache")
"""Those of them that nginx's documentation has made usual for its own cache."""


async def probe_resume(connection: ProbeConnection, channel: str) -> Finding:
    """Publish three events, and come back after the first: by the header, and by the query."""
    probe, ids = "resume", []
    for number in range(3):
        answer = await connection.publish(channel, f"resume {number}")
        id = None if answer is None else answer.json.get("id")
        if not isinstance(id, str):
            return skipped(probe, "a publish was not answered with an id")
        ids.append(id)
    if await _resumes(connection, f"/events/{channel}", ids, Last_Event_ID=ids[0]):
        return ok(probe, "a subscriber that comes back gets what it missed")
    if await _resumes(connection, f"/events/{channel}?last_event_id={ids[0]}", ids):
        seen = "an id in the query is resumed after, one in the header Last-Event-ID is not"
        meaning = "a browser sends the header: whatever it misses is lost, and nothing says so"
        return fault(Fault.LAST_EVENT_ID, probe, seen, meaning)
    seen = "neither by the header nor by the query"
    return fault(Fault.HISTORY, probe, seen, "a subscriber that is cut off has lost what came meanwhile")


async def _resumes(connection: ProbeConnection, path: str, ids: list[str], **headers: str) -> bool:
    async with connection.stream(path, **headers) as stream:
        if stream is None or not stream.is_stream:
            return False
        return all([await _has(stream.event(None, connection.patience), id) for id in ids[1:]])


async def _has(coming: object, id: str) -> bool:
    found = await coming  # type: ignore[misc]
    return found is not None and found.id == id


async def probe_cache(connection: ProbeConnection, channel: str) -> Finding:
    """Open two streams of one address, publish between them, and see whether the second is its own."""
    probe, path = "cache", f"/events/{channel}"
    async with connection.stream(path) as first:
        opened = None if first is None else await first.event("$open", connection.patience)
        if first is None or opened is None:
            return skipped(probe, "no stream")
        answer = await connection.publish(channel, "between two subscribers")
        if answer is None or answer.status != 200:
            return skipped(probe, "a publish was refused")
        async with connection.stream(path) as second:
            again = None if second is None else await second.event("$open", connection.patience)
            if second is None or again is None:
                seen = "a second subscriber of an address gets nothing while the first is there"
                return fault(
                    Fault.CACHE, probe, seen, "a cache makes it wait for the end of the first stream"
                )
            marks = hit_marks(second.headers)
            if again.id == opened.id and opened.id is not None:
                seen = "a second subscriber is given the first one's stream from its beginning"
                return fault(
                    Fault.CACHE, probe, seen, "a cache answers: old events come again, and no id counts"
                )
    if marks:
        return fault(
            Fault.CACHE, probe, ", ".join(marks), "a cache answers subscribers instead of the server"
        )
    return ok(probe, "none: each subscriber has a stream of its own")


def hit_marks(headers: Mapping[str, str]) -> list[str]:
    """Return the headers by which a cache says that the answer was its own, or is to be."""
    found = [f"{name}: {headers[name]}" for name in HIT_MARKS if "hit" in headers.get(name, "").lower()]
    # A miss of nginx's cache was looked up, and is to be kept. CDNs say `miss` of whatever they pass on.
    found += [f"{name}: MISS" for name in NGINX_MARKS if headers.get(name, "").upper() == "MISS"]
    if headers.get("age", "0") != "0":
        found.append(f"age: {headers['age']}")
    return found
