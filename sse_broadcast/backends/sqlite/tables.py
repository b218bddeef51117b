"""The tables as the writing thread changes them: one transaction for all that waits."""

import hashlib
import itertools
import sqlite3
from collections import Counter, deque
from collections.abc import Iterable, Sequence

import msgspec

from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.backends.directory import ChannelChange
from sse_broadcast.backends.sqlite.operations import (
    Answered,
    Append,
    Appended,
    Clear,
    Expire,
    Forget,
    Remove,
    StoreOperation,
    Trim,
)
from sse_broadcast.backends.sqlite.schema import placeholders
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.errors import IdempotencyError
from sse_broadcast.event import DEFAULT_TYPE
from sse_broadcast.publication import Publication, place

EVENT_BYTES = 64
"""Bytes that an event takes in the file besides its frame, measured by benchmarks/store.py."""

PLACE_BYTES = 16
"""Bytes that each channel of an event takes besides."""

ROWS_AT_ONCE = (64, 16, 4, 1)
"""Rows of one statement. Each statement lets the event loop's thread have the interpreter, and has to wait
for it again: with one row each a group of 64 waited 192 times."""

HEAD = 64
"""Oldest events of a channel that are read at once, when one of them has to go."""

MAX_EVICTED = 512
"""Events that one `Trim` evicts, at most: some 3 ms."""

CACHED_CHANNELS = 16_384
"""Channels whose rows the thread keeps. Beyond it all are read anew."""

MAX_STORED_KEYS = 100_000
"""Idempotency keys remembered at most."""

MAX_RETIRED = 100_000
"""Ids of evicted events remembered at most."""

EXPIRED_AT_ONCE = 512
"""Keys and ids that are forgotten in one transaction because of their time."""

SEPARATOR = " "
"""Between the channels of an event; no name has one."""

RETIRE = (
    "INSERT INTO retired VALUES (?1, ?2, ?3, ?4) ON CONFLICT (channel, id) DO UPDATE SET"
    " position = iif(retired.expires <= ?5, excluded.position, retired.position), expires = excluded.expires"
)
"""Remembers the id of an evicted event: of several uses the oldest, unless its time was over."""

EVENT_COLUMNS = "position, time, size, holders, type, id, key, retry, json, channels, data"


class HeldEvent(msgspec.Struct):
    """One of the oldest events of a channel. `holders` may have fallen since."""

    position: int
    time: float
    size: int
    holders: int
    id: str | None


class ChannelRow(msgspec.Struct):
    """A channel's row, and the oldest of its events as far as they have been read."""

    id: int
    name: str
    publisher: str
    count: int
    bytes: int
    newest: int
    lost: int
    oldest: int = 0
    oldest_time: float = 0.0
    oldest_id: str | None = None
    evicted: int = 0
    head: deque[HeldEvent] = msgspec.field(default_factory=deque)


class Tables:
    """What a transaction reads and changes. Belongs to the writing thread.

    `begin`, then `apply` each operation, then `finish`, and the caller commits. After a rollback everything
    is read anew by `reload`.
    """

    def __init__(self, db: sqlite3.Connection, *, epoch: str, window: float) -> None:
        self._db = db
        self._epoch = epoch
        self._window = window
        self._rows: dict[str, ChannelRow] = {}
        self.reload()

    def reload(self) -> None:
        """Read everything anew: what was changed since the last commit is undone."""
        self._rows.clear()
        self._touched: dict[str, ChannelRow] = {}
        self._limits: dict[str, HistoryLimits] = {}
        self._ages: dict[str, float] = {}
        self._gone: list[str] = []
        self._events: list[tuple[object, ...]] = []
        self._places: list[tuple[int, int]] = []
        state = self._db.execute(
            "SELECT position, commits, events, bytes, time, forgotten FROM state"
        ).fetchone()
        self.position, self.commits, self.events, self.bytes, self._time, self.forgotten = state
        self._next_channel = self._one("SELECT coalesce(max(id), 0) + 1 FROM channel")
        self._keys = Counter(dict(self._db.execute("SELECT publisher, count(*) FROM answer GROUP BY 1")))
        self._key_count = self._keys.total()
        self._retired = self._one("SELECT count(*) FROM retired")

    def begin(self) -> None:
        """Begin a transaction."""
        if len(self._rows) > CACHED_CHANNELS:
            self._rows.clear()
        self._touched, self._limits, self._ages, self._gone = {}, {}, {}, []
        self._db.execute("BEGIN IMMEDIATE")
        self._began = self._db.total_changes

    @property
    def changed(self) -> bool:
        """Whether the transaction has changed anything: else there is nothing to commit."""
        return self._db.total_changes != self._began

    def apply(self, operation: StoreOperation) -> object:
        """Do one operation, and return its result. Raises `IdempotencyError`, and then has done nothing."""
        match operation:
            case Append():
                return self._append(operation)
            case Trim():
                return self._trim(operation)
            case Forget(channel):
                return self._forget(channel)
            case Remove(position):
                return self._remove(position)
            case Clear(channel):
                return self._clear(channel)
            case Expire(now):
                self._time = max(self._time, now)
                return None

    def answered(self, answers: Iterable[Answered]) -> None:
        """Note how many clients keys were answered with."""
        self._db.executemany(
            "UPDATE answer SET clients = ? WHERE scope = ?", [(each.clients, each.scope) for each in answers]
        )

    def finish(self) -> Sequence[ChannelChange]:
        """Evict what is beyond the limits, write what has changed, and return it."""
        self._flush()
        for name, limits in self._limits.items():
            row = self._touched.get(name)
            if row is not None and (row.count > limits.size or row.bytes > limits.bytes):
                self._evict_beyond(row, limits)
        self._expire(self._time)
        if not self.changed:
            return ()
        changes = [self._change(row) for row in self._touched.values()]
        self._write_channels()
        self.commits += 1
        self._db.execute(
            "UPDATE state SET position = ?, commits = ?, events = ?, bytes = ?, time = ?, forgotten = ?",
            (self.position, self.commits, self.events, self.bytes, self._time, self.forgotten),
        )
        gone = [_forgotten(name, self.forgotten) for name in self._gone]
        return [*gone, *changes]

    # Publishing.

    def _append(self, asked: Append) -> Appended:
        self._time = now = max(self._time, asked.now)
        scope = None
        if asked.key is not None:
            scope = digest_of(asked.key.scope)
            if (seen := self._seen(scope, asked.key)) is not None:
                return seen
        publications = [self._place(asked, index, now) for index in range(len(asked.drafts))]
        self._limits.update(asked.limits)
        self._ages.update({name: limits.age for name, limits in asked.limits.items()})
        if asked.key is not None and scope is not None:
            self._remember(scope, asked, now)
        return Appended(publications, self.position, len(publications), scope=scope)

    def _place(self, asked: Append, index: int, now: float) -> Publication:
        draft = asked.drafts[index]
        self.position = position = self.position + 1
        event, channels = draft.event, draft.channels
        publication = place(channels, event, epoch=self._epoch, position=position, time=now)
        size = publication.size + EVENT_BYTES + PLACE_BYTES * len(channels)
        for name in channels:
            row = self._row(name, asked.publisher, position)
            self._places.append((row.id, position))
            if not row.count:
                row.oldest, row.oldest_time, row.oldest_id = position, now, event.id
            row.count += 1
            row.bytes += size
            row.newest = position
        self._events.append(
            (
                position,
                now,
                size,
                len(channels),
                None if event.type is DEFAULT_TYPE else event.type,
                event.id,
                event.key,
                event.retry,
                int(event.json),
                SEPARATOR.join(channels),
                event.data,
            )
        )
        self.events += 1
        self.bytes += size
        return publication

    def _row(self, name: str, publisher: str, position: int) -> ChannelRow:
        """Return the row of a channel that is published to, made if there is none."""
        row = self._touched.get(name)
        if row is not None:
            return row
        row = self._find(name)
        if row is None:
            # It may have been known and forgotten, and have lost what was then evicted.
            lost = min(self.forgotten, position - 1)
            row = ChannelRow(self._next_channel, name, publisher, 0, 0, 0, lost)
            self._next_channel += 1
            self._rows[name] = row
        self._touch(row)
        return row

    def _find(self, name: str) -> ChannelRow | None:
        row = self._rows.get(name)
        if row is None and name not in self._gone:
            found = self._db.execute(
                "SELECT id, name, publisher, count, bytes, newest, lost FROM channel WHERE name = ?", (name,)
            ).fetchone()
            if found is None:
                return None
            row = self._rows[name] = ChannelRow(*found)
            if row.count:
                self._read_head(row)
        return row

    def _touch(self, row: ChannelRow) -> None:
        if row.name not in self._touched:
            row.evicted = 0
            self._touched[row.name] = row

    def _flush(self) -> None:
        """Write the events that wait: what is read next is to see them."""
        if self._events:
            self._insert(f"INSERT INTO event ({EVENT_COLUMNS})", self._events)
            self._insert("INSERT INTO place", self._places)
            self._events, self._places = [], []

    def _insert(self, statement: str, rows: Sequence[Sequence[object]], *, then: str = "") -> None:
        done = 0
        for count in ROWS_AT_ONCE:
            while len(rows) - done >= count:
                values = list(itertools.chain.from_iterable(rows[done : done + count]))
                self._db.execute(f"{statement} VALUES {placeholders(count, len(rows[0]))}{then}", values)
                done += count

    def _write_channels(self) -> None:
        rows = [
            (row.id, row.name, row.publisher, row.count, row.bytes, row.newest, row.lost)
            for row in self._touched.values()
        ]
        if rows:
            self._insert(
                "INSERT INTO channel (id, name, publisher, count, bytes, newest, lost)",
                rows,
                then=" ON CONFLICT (id) DO UPDATE SET count = excluded.count, bytes = excluded.bytes,"
                " newest = excluded.newest, lost = excluded.lost",
            )

    # Evicting.

    def _trim(self, asked: Trim) -> int:
        self._flush()
        row = self._find(asked.channel)
        if row is None or not row.count:
            return 0
        self._touch(row)
        self._ages[asked.channel] = asked.limits.age
        self._time = max(self._time, asked.now)
        before = row.count
        self._evict_beyond(row, asked.limits, most=MAX_EVICTED)
        oldest_kept = asked.now - asked.limits.age
        target = max(0, row.bytes - asked.bytes)
        while row.count and before - row.count < MAX_EVICTED:
            if row.oldest_time > oldest_kept and (not asked.bytes or row.bytes <= target):
                break
            self._evict(row, 1)
        return before - row.count

    def _evict_beyond(self, row: ChannelRow, limits: HistoryLimits, *, most: int = 1 << 62) -> None:
        """Evict what is beyond a number and a number of bytes."""
        count = min(row.count - limits.size, most)
        if count > 0:
            self._evict(row, count)
            most -= count
        while row.count and row.bytes > limits.bytes and most > 0:
            self._evict(row, 1)
            most -= 1

    def _forget(self, channel: str) -> int:
        self._flush()
        row = self._find(channel)
        if row is None:
            return 0
        self._touch(row)
        count = row.count
        if count:
            self._evict(row, count)
        self.forgotten = max(self.forgotten, row.lost)
        self._db.execute("DELETE FROM channel WHERE id = ?", (row.id,))
        self._db.execute("DELETE FROM retired WHERE channel = ?", (row.id,))
        del self._rows[channel], self._touched[channel]
        self._gone.append(channel)
        return count

    def _evict(self, row: ChannelRow, count: int) -> None:
        """Evict the oldest of a channel, and so raise its watermark."""
        while count > 0 and row.count:
            if not row.head:
                self._read_head(row)
            evicted = [row.head.popleft() for _ in range(min(count, len(row.head)))]
            count -= len(evicted)
            row.evicted += len(evicted)
            row.lost = evicted[-1].position
            self._drop(row, evicted)
            self._retire(row, evicted)
        self._set_oldest(row)

    def _drop(self, row: ChannelRow, events: Sequence[HeldEvent]) -> None:
        """Take events from a channel; what no other channel holds goes."""
        alone = [each.position for each in events if each.holders == 1]
        # Not by pairs of channel and position: SQLite would scan all of them.
        self._delete("DELETE FROM place WHERE channel = ? AND", [each.position for each in events], row.id)
        self._delete("DELETE FROM event WHERE", alone)
        row.count -= len(events)
        row.bytes -= sum(each.size for each in events)
        self.events -= len(alone)
        self.bytes -= sum(each.size for each in events if each.holders == 1)
        for each in events:
            if each.holders > 1:
                self._let_go(each)

    def _let_go(self, event: HeldEvent) -> None:
        """Count one channel less that holds an event, and delete an event that none holds."""
        (holders,) = self._db.execute(
            "UPDATE event SET holders = holders - 1 WHERE position = ? RETURNING holders", (event.position,)
        ).fetchone()
        if not holders:
            self._db.execute("DELETE FROM event WHERE position = ?", (event.position,))
            self.events -= 1
            self.bytes -= event.size

    def _delete(self, statement: str, positions: Sequence[int], *before: int) -> None:
        done = 0
        for count in ROWS_AT_ONCE:
            while len(positions) - done >= count:
                marks = ",".join("?" * count)
                some = positions[done : done + count]
                self._db.execute(f"{statement} position IN ({marks})", (*before, *some))
                done += count

    def _set_oldest(self, row: ChannelRow) -> None:
        if row.count and not row.head:
            self._read_head(row)
        elif row.head:
            first = row.head[0]
            row.oldest, row.oldest_time, row.oldest_id = first.position, first.time, first.id

    def _read_head(self, row: ChannelRow) -> None:
        """Read the oldest events of a channel."""
        self._flush()
        found = self._db.execute(
            "SELECT position, time, size, holders, id FROM place JOIN event USING (position)"
            " WHERE channel = ? ORDER BY position LIMIT ?",
            (row.id, HEAD),
        )
        row.head = deque(HeldEvent(*each) for each in found)
        if row.head:
            first = row.head[0]
            row.oldest, row.oldest_time, row.oldest_id = first.position, first.time, first.id

    # Removing.

    def _remove(self, position: int) -> bool:
        self._flush()
        found = self._db.execute(
            "SELECT position, time, size, holders, id, channels FROM event WHERE position = ?", (position,)
        ).fetchone()
        if found is None:
            return False
        event = HeldEvent(*found[:5])
        for name in found[5].split(SEPARATOR):
            row = self._find(name)
            if row is not None and self._holds(row, position):
                self._discard(row, [event])
                event.holders -= 1
        return True

    def _clear(self, channel: str) -> int:
        self._flush()
        row = self._find(channel)
        if row is None or not row.count:
            return 0
        found = self._db.execute(
            "SELECT position, time, size, holders, id FROM place JOIN event USING (position)"
            " WHERE channel = ? ORDER BY position",
            (row.id,),
        ).fetchall()
        self._discard(row, [HeldEvent(*each) for each in found])
        return len(found)

    def _discard(self, row: ChannelRow, events: Sequence[HeldEvent]) -> None:
        self._touch(row)
        self._drop(row, events)
        row.head.clear()
        row.newest = self._one("SELECT coalesce(max(position), 0) FROM place WHERE channel = ?", row.id)
        self._set_oldest(row)

    def _holds(self, row: ChannelRow, position: int) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM place WHERE channel = ? AND position = ?", (row.id, position)
        ).fetchone()
        return found is not None

    # Idempotency keys, and ids of evicted events.

    def _seen(self, scope: bytes, key: IdempotencyKey) -> Appended | None:
        found = self._db.execute(
            "SELECT digest, position, count, clients FROM answer WHERE scope = ? AND expires > ?",
            (scope, self._time),
        ).fetchone()
        if found is None:
            return None
        digest, position, count, clients = found
        if digest != key.digest:
            raise IdempotencyError("it was used before, to publish something else")
        return Appended((), position, count, clients)

    def _remember(self, scope: bytes, asked: Append, now: float) -> None:
        assert asked.key is not None
        if self._key_count >= MAX_STORED_KEYS:
            self._forget_key()
        values = (
            scope,
            asked.publisher,
            asked.key.digest,
            self.position,
            len(asked.drafts),
            0,
            now + self._window,
        )
        # One that has expired may still be there.
        replaced = self._db.execute(
            "DELETE FROM answer WHERE scope = ? RETURNING publisher", (scope,)
        ).fetchone()
        if replaced is not None:
            self._count_key(replaced[0], -1)
        self._db.execute("INSERT INTO answer VALUES (?,?,?,?,?,?,?)", values)
        self._count_key(asked.publisher, 1)

    def _forget_key(self) -> None:
        """Forget the oldest key of the publisher that has most: nobody has those of another forgotten."""
        publisher = self._keys.most_common(1)[0][0]
        self._db.execute(
            "DELETE FROM answer WHERE scope ="
            " (SELECT scope FROM answer WHERE publisher = ? ORDER BY expires LIMIT 1)",
            (publisher,),
        )
        self._count_key(publisher, -1)

    def _count_key(self, publisher: str, change: int) -> None:
        self._key_count += change
        self._keys[publisher] += change
        if not self._keys[publisher]:
            del self._keys[publisher]

    @property
    def keys_expire(self) -> float | None:
        """When the first idempotency key is to be forgotten; None if none is held."""
        if not self._key_count:
            return None
        (expires,) = self._db.execute("SELECT min(expires) FROM answer").fetchone()
        return float(expires)

    def _retire(self, row: ChannelRow, evicted: Sequence[HeldEvent]) -> None:
        """Remember the ids of evicted events for as long as their channel could hold a later use."""
        age = self._ages.get(row.name, 0.0)
        now = self._time
        rows = [(row.id, each.id, each.position, now + age, now) for each in evicted if each.id is not None]
        if rows:
            self._db.executemany(RETIRE, rows)
            self._retired += len(rows)

    def _expire(self, now: float) -> None:
        """Forget some of the keys and ids whose time has come, or that are too many."""
        if self._key_count:
            gone = self._db.execute(
                "DELETE FROM answer WHERE scope IN"
                " (SELECT scope FROM answer WHERE expires <= ? ORDER BY expires LIMIT ?) RETURNING publisher",
                (now, EXPIRED_AT_ONCE),
            ).fetchall()
            for (publisher,) in gone:
                self._count_key(publisher, -1)
        if self._retired:
            until = now if self._retired <= MAX_RETIRED else float("inf")
            self._retired -= self._db.execute(
                "DELETE FROM retired WHERE rowid IN"
                " (SELECT rowid FROM retired WHERE expires <= ? ORDER BY expires LIMIT ?)",
                (until, EXPIRED_AT_ONCE),
            ).rowcount

    def _change(self, row: ChannelRow) -> ChannelChange:
        return ChannelChange(
            row.name,
            row.publisher,
            row.count,
            row.bytes,
            row.newest,
            row.lost,
            row.evicted,
            row.oldest,
            row.oldest_time,
            row.oldest_id,
        )

    def _one(self, statement: str, *values: object) -> int:
        (number,) = self._db.execute(statement, values).fetchone()
        return int(number)


def _forgotten(name: str, lost: int) -> ChannelChange:
    return ChannelChange(name, "", 0, 0, 0, lost, 0, 0, 0.0, None, forgotten=True)


def digest_of(scope: Sequence[str | None]) -> bytes:
    """Return what a scope is known by. A path may be long, and its length would be kept with each key."""
    parts = [part if part is None else f"{len(part)}:{part}" for part in scope]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
