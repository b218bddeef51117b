"""Pages of history, read from the file by a thread and a connection of their own.

Each answer is of one snapshot, and says of which commit: the event loop uses it no sooner than it has heard
of that commit, and then knows what it had evicted.
"""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from sse_broadcast.backends.sqlite.tables import SEPARATOR
from sse_broadcast.backends.sqlite.terms import Terms
from sse_broadcast.channels import Selector
from sse_broadcast.event import DEFAULT_TYPE, Event
from sse_broadcast.publication import Publication, place

EVENTS_EXAMINED = 512
"""Events that are examined for one page, at most."""

IDS_EXAMINED = 1000
"""Events of one publisher's id that are examined, at most."""

COLUMNS = "event.position, event.time, type, event.id, key, retry, json, channels, data"

AFTER = f"SELECT {COLUMNS} FROM event WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"  # noqa: S608
"""All events after a position, up to another."""

NAMES_AT_ONCE = 100
"""Channels that one statement reads from."""


class Page(msgspec.Struct, frozen=True):
    """Publications up to a position, beyond which there may be more, as of a commit."""

    publications: Sequence[Publication]
    upto: int
    commit: int


class Pages:
    """Reads the tables. Belongs to the reading thread."""

    def __init__(self, db: sqlite3.Connection, terms: Terms) -> None:
        self._db = db
        self._terms = terms

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def page(self, selector: Selector, *, after: int, upto: int, limit: int) -> Page:
        """Return what of a selector came after a position: about `limit` bytes, and nothing beyond `upto`."""
        self._db.execute("BEGIN")
        try:
            return self._page(selector, after, upto, limit)
        finally:
            self._db.execute("COMMIT")

    def _page(self, selector: Selector, after: int, upto: int, limit: int) -> Page:
        commit = self._commit()
        found: list[Publication] = []
        examined, reached = 0, after
        for publication in self._after(selector, after, upto):
            examined += 1
            if selector.first_match(publication.channels) is not None and selector.accepts_type(
                publication.event.type
            ):
                if found and publication.size > limit:
                    return Page(found, reached, commit)
                limit -= publication.size
                found.append(publication)
            reached = publication.position
        return Page(found, upto if examined < EVENTS_EXAMINED else reached, commit)

    def _after(self, selector: Selector, after: int, upto: int) -> Iterator[Publication]:
        if selector.patterns:
            return self._publications(AFTER, (after, upto, EVENTS_EXAMINED))
        positions = self._positions(selector, after, upto)
        return self._at(positions)

    def _positions(self, selector: Selector, after: int, upto: int) -> list[int]:
        """Return the positions of named channels in their order, each once."""
        found: set[int] = set()
        for begin in range(0, len(selector.names), NAMES_AT_ONCE):
            names = selector.names[begin : begin + NAMES_AT_ONCE]
            # Each channel by itself, from its place on: all of them together would be sorted first.
            one = (
                "SELECT position FROM (SELECT position FROM place WHERE channel ="
                " (SELECT id FROM channel WHERE name = ?) AND position > ? AND position <= ?"
                " ORDER BY position LIMIT ?)"
            )
            values = [value for name in names for value in (name, after, upto, EVENTS_EXAMINED)]
            found.update(row[0] for row in self._db.execute(" UNION ".join([one] * len(names)), values))
        return sorted(found)[:EVENTS_EXAMINED]

    def _at(self, positions: Sequence[int]) -> Iterator[Publication]:
        """Yield the publications at these positions, a few at a time: the rest may not be needed."""
        for begin in range(0, len(positions), 64):
            some = positions[begin : begin + 64]
            marks = ",".join("?" * len(some))
            yield from self._publications(
                f"SELECT {COLUMNS} FROM event WHERE position IN ({marks}) ORDER BY position",  # noqa: S608
                some,
            )

    def _publications(self, statement: str, values: Sequence[object]) -> Iterator[Publication]:
        for row in self._db.execute(statement, values):
            yield self.publication(row)

    def publication(self, row: Sequence[object]) -> Publication:
        """Return what a row of `COLUMNS` says."""
        position, time, event_type, id, key, retry, json, channels, data = row
        assert isinstance(position, int)
        assert isinstance(time, float)
        event = Event(
            str(data),
            DEFAULT_TYPE if event_type is None else str(event_type),
            None if id is None else str(id),
            retry if isinstance(retry, int) else None,
            None if key is None else str(key),
            bool(json),
        )
        names = tuple(str(channels).split(SEPARATOR))
        return place(names, event, epoch=self._terms.epoch_at(position), position=position, time=time)

    def first_after(self, selector: Selector, *, after: int, upto: int) -> int | None:
        """Return the position of a selector's first event after another, of any type; None if none is held.

        Of patterns it may be one of an event that they do not match.
        """
        if selector.patterns:
            found = self._db.execute(AFTER, (after, upto, EVENTS_EXAMINED))
            last = None
            for row in found:
                last = int(row[0])
                if selector.first_match(str(row[7]).split(SEPARATOR)) is not None:
                    return last
            return last
        return min(
            (first for name in selector.names if (first := self._first_of(name, after, upto))), default=None
        )

    def holds_between(self, name: str, *, after: int, upto: int) -> bool:
        """Return whether a channel holds anything after a position, up to another."""
        return self._first_of(name, after, upto) is not None

    def _first_of(self, name: str, after: int, upto: int) -> int | None:
        found = self._db.execute(
            "SELECT position FROM place WHERE channel = (SELECT id FROM channel WHERE name = ?)"
            " AND position > ? AND position <= ? ORDER BY position LIMIT 1",
            (name, after, upto),
        ).fetchone()
        return None if found is None else int(found[0])

    def since(self, time: float, *, upto: int) -> int | None:
        """Return the first position that is not older than a time: times rise with positions."""
        low, high = 0, upto + 1
        while low < high:
            middle = (low + high) // 2
            found = self._db.execute(
                "SELECT time FROM event WHERE position >= ? ORDER BY position LIMIT 1", (middle,)
            ).fetchone()
            if found is None or found[0] >= time:
                high = middle
            else:
                low = middle + 1
        found = self._db.execute(
            "SELECT position FROM event WHERE position >= ? AND position <= ? ORDER BY position LIMIT 1",
            (low, upto),
        ).fetchone()
        return None if found is None else int(found[0])

    def named(self, id: str, selector: Selector) -> int | None:
        """Return the oldest position that a selector's channels have held under a publisher's id.

        None if the first use is no longer held. See `CustomIdIndex.position_of`.
        """
        found = self._db.execute(
            "SELECT position, channels FROM event WHERE id = ? ORDER BY position LIMIT ?", (id, IDS_EXAMINED)
        )
        first = next(
            (int(position) for position, names in found if self._held(int(position), names, selector)), None
        )
        if first is None:
            return None
        retired = self._db.execute(
            "SELECT name, position FROM retired JOIN channel ON channel.id = retired.channel"
            " WHERE retired.id = ? AND expires > (SELECT time FROM state) LIMIT ?",
            (id, IDS_EXAMINED),
        )
        # The same position may have been evicted from one channel, and still be held by another.
        if any(selector.matches(name) and position < first for name, position in retired):
            return None
        return first

    def _held(self, position: int, names: str, selector: Selector) -> bool:
        return any(
            selector.matches(name) and self._first_of(name, position - 1, position) is not None
            for name in names.split(SEPARATOR)
        )

    def newest(self, names: Sequence[str], selector: Selector, *, upto: int) -> list[Publication]:
        """Return the newest event of each of these channels that a selector accepts, in order, each once."""
        found: dict[int, Publication] = {}
        types = sorted(selector.types or ())
        kinds = f"AND coalesce(type, '{DEFAULT_TYPE}') IN ({','.join('?' * len(types))})" if types else ""
        for name in names:
            for publication in self._publications(
                f"SELECT {COLUMNS} FROM place JOIN event USING (position) WHERE channel ="  # noqa: S608
                f" (SELECT id FROM channel WHERE name = ?) AND position <= ? {kinds}"
                " ORDER BY position DESC LIMIT 1",
                (name, upto, *types),
            ):
                found[publication.position] = publication
        return [found[position] for position in sorted(found)]

    def _commit(self) -> int:
        (number,) = self._db.execute("SELECT commits FROM state").fetchone()
        return int(number)
