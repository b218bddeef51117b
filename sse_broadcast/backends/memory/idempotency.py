"""Idempotency keys: what was answered to whom, for a while, in a share for each publisher."""

import hashlib
import heapq
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.backends.memory.largest import Largest, ReportShare
from sse_broadcast.errors import IdempotencyError
from sse_broadcast.metrics import Share

MAX_EXPIRED_KEYS = 512
"""Keys that are forgotten in one go because of their time: some 0.5 ms."""

MAX_KEYS = 100_000
"""Keys remembered at most, of all publishers together: some 500 bytes each, whatever was published."""

DIGEST_BYTES = 16
"""Bytes by which a key, and what was sent with it, are known: each is one publisher's own."""


class RememberedAnswer(msgspec.Struct, frozen=True, gc=False):
    """What a key was answered with: the last position, how many events and how many subscribers those had."""

    digest: bytes
    position: int
    count: int
    clients: int
    expires: float


class PublisherKeys:
    """The keys of one publisher, from the one that was used first, which expires first."""

    __slots__ = ("answers", "class_below", "class_from", "expiry_serial", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.class_from = self.class_below = 0
        self.expiry_serial = 0  # the number of its entry among those that will expire
        self.answers: OrderedDict[bytes, RememberedAnswer] = OrderedDict()

    @property
    def held(self) -> int:
        """The number of keys, by which `Largest` compares publishers."""
        return len(self.answers)


class IdempotencyKeys:
    """Remembers keys for a while, and no more than `MAX_KEYS`.

    Beyond that the publisher's oldest is forgotten that has the most: one alone has all of them, and
    nobody has those of another forgotten by using more. Nothing of what was sent is kept, only digests.
    """

    __slots__ = ("_count", "_expiring", "_most", "_publishers", "_report", "_serial")

    def __init__(self, report: ReportShare | None = None) -> None:
        self._report = report
        self._publishers: dict[str, PublisherKeys] = {}
        self._most = Largest[PublisherKeys]()
        self._count = 0
        # (when its oldest expires, serial, publisher): one entry that counts for each publisher.
        self._expiring: list[tuple[float, int, PublisherKeys]] = []
        self._serial = 0

    def __len__(self) -> int:
        """How many keys are remembered."""
        return self._count

    def find(self, key: IdempotencyKey, publisher: str) -> RememberedAnswer | None:
        """Return what a key was answered with. Raises `IdempotencyError` if something else was sent."""
        keys = self._publishers.get(publisher)
        answer = keys.answers.get(_digest_of(key.scope)) if keys is not None else None
        if answer is not None and answer.digest != key.digest[:DIGEST_BYTES]:
            raise IdempotencyError("it was used before, to publish something else")
        return answer

    def remember(  # noqa: PLR0913 - an answer
        self,
        key: IdempotencyKey,
        publisher: str,
        *,
        position: int,
        count: int,
        clients: int,
        expires: float,
    ) -> None:
        """Remember a key that is new, until it expires: none before those that came earlier."""
        if self._count >= MAX_KEYS:
            self._make_room(publisher)
        keys = self._publishers.get(publisher)
        if keys is None:
            keys = self._publishers[publisher] = PublisherKeys(publisher)
            self._expect(keys, expires)
        answer = RememberedAnswer(key.digest[:DIGEST_BYTES], position, count, clients, expires)
        keys.answers[_digest_of(key.scope)] = answer
        self._count += 1
        self._most.update(keys)

    def expire(self, now: float) -> None:
        """Forget keys whose time is over, `EXPIRED` of them at most: the others at later calls."""
        room = MAX_EXPIRED_KEYS
        while room and self._expiring and self._expiring[0][0] <= now:
            _, serial, keys = heapq.heappop(self._expiring)
            if serial != keys.expiry_serial:
                continue  # has left since
            while room and keys.answers and next(iter(keys.answers.values())).expires <= now:
                self._forget_oldest(keys)
                room -= 1
            if keys.answers:
                self._expect(keys, next(iter(keys.answers.values())).expires)

    def _make_room(self, publisher: str) -> None:
        keys = self._most.find()
        if keys is None:
            return
        own = self._publishers.get(publisher)
        if own is not None and own.class_from == keys.class_from:
            keys = own
        if self._report is not None and len(self._publishers) > 1:
            self._report(Share.IDEMPOTENCY_KEYS, keys.name)
        self._forget_oldest(keys)

    def _forget_oldest(self, keys: PublisherKeys) -> None:
        keys.answers.popitem(last=False)
        self._count -= 1
        self._most.update(keys)
        if not keys.answers:
            keys.expiry_serial = 0
            del self._publishers[keys.name]

    def _expect(self, keys: PublisherKeys, expires: float) -> None:
        self._serial += 1
        keys.expiry_serial = self._serial
        heapq.heappush(self._expiring, (expires, self._serial, keys))
        if len(self._expiring) > 2 * len(self._publishers) + 64:
            self._expiring = [entry for entry in self._expiring if entry[1] == entry[2].expiry_serial]
            heapq.heapify(self._expiring)


def _digest_of(scope: Sequence[str | None]) -> bytes:
    """Return what a scope is known by. A path may be long, and its length would be kept with each key."""
    parts = [part if part is None else f"{len(part)}:{part}" for part in scope]
    return hashlib.blake2b(repr(parts).encode(), digest_size=DIGEST_BYTES).digest()
