"""Idempotency keys: what is remembered, of whom, and for how long."""

import tracemalloc

import pytest

from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.backends.memory import idempotency
from sse_broadcast.backends.memory.idempotency import MAX_KEYS, IdempotencyKeys, PublisherKeys
from sse_broadcast.errors import IdempotencyError
from tests.support.memory import entries, inside

WINDOW = 10.0

KEY_BYTES = 500
"""Bytes that a key takes, as docs/SECURITY.md says."""


class Store:
    """Keys under test, and what was reported of them."""

    def __init__(self) -> None:
        self.reported: list[tuple[str, str]] = []
        self.keys = IdempotencyKeys(lambda share, publisher: self.reported.append((share, publisher)))
        self.now = 0.0
        self.position = 0

    def use(self, key: str, publisher: str = "", digest: bytes = b"") -> int:
        """Use a key, and give the position that was answered."""
        token = IdempotencyKey(("path", key), digest)
        self.keys.expire(self.now)
        answer = self.keys.find(token, publisher)
        if answer is not None:
            return answer.position
        self.position += 1
        self.keys.remember(
            token, publisher, position=self.position, count=1, clients=0, expires=self.now + WINDOW
        )
        return self.position


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(idempotency, "MAX_KEYS", 10)
    return Store()


def publishers(store: Store) -> list[str]:
    """Return the publishers of which a key is remembered."""
    return [each.name for each in inside(store.keys, PublisherKeys) if each.answers]


def test_a_key_is_of_one_publisher(store: Store) -> None:
    """The same key of two is two, and says nothing of what the other one sent."""
    assert [store.use("k", "a", b"1"), store.use("k", "b", b"2")] == [1, 2]
    assert [store.use("k", "a", b"1"), store.use("k", "b", b"2")] == [1, 2]
    with pytest.raises(IdempotencyError):
        store.use("k", "a", b"2")


def test_parts_of_a_scope_do_not_run_together() -> None:
    keys = IdempotencyKeys()
    scopes = [("a", "b"), ("a", "b", ""), ("ab",), ("1:a", "b"), (None, "b"), ("None", "b"), ("\ud800",)]
    for position, scope in enumerate(scopes):
        keys.remember(IdempotencyKey(scope, b""), "", position=position, count=1, clients=0, expires=1.0)
    found = [keys.find(IdempotencyKey(scope, b""), "") for scope in scopes]
    assert [answer and answer.position for answer in found] == list(range(len(scopes)))


def test_a_publisher_alone_has_all_the_room(store: Store) -> None:
    for number in range(12):
        store.use(str(number), "a")
    assert len(store.keys) == 10
    assert [store.use(str(number), "a") for number in range(2, 12)] == list(range(3, 13))
    assert (store.use("0", "a"), store.reported) == (13, [])


def test_a_publisher_of_many_keys_takes_no_room_of_others(store: Store) -> None:
    """It is its own first key that goes, until others have as many as it has."""
    store.use("order", "shop")
    for number in range(1000):
        store.use(str(number), "flood")
    assert store.use("order", "shop") == 1
    assert [store.use(str(number), "flood") for number in range(991, 1000)] == list(range(993, 1002))
    assert store.reported == [("idempotency_keys", "flood")] * 991
    for number in range(6):
        store.use(str(number), "shop")
    assert [store.use(str(number), "flood") for number in range(995, 1000)] == list(range(997, 1002))
    assert store.use("order", "shop") > 1


def test_keys_of_many_publishers_are_bounded(store: Store) -> None:
    for number in range(500):
        store.use("k", f"address {number}")
    assert (len(store.keys), len(publishers(store))) == (10, 10)
    assert len(inside(store.keys, PublisherKeys)) <= 2 * 10 + 65
    assert [store.use("k", f"address {number}") for number in range(490, 500)] == list(range(491, 501))


def test_keys_expire_whoever_used_them(store: Store) -> None:
    for now, key, publisher in [(0.0, "1", "a"), (1.0, "1", "b"), (2.0, "2", "a"), (3.0, "2", "b")]:
        store.now = now
        store.use(key, publisher)
    left = []
    for store.now in (9.9, 10.0, 11.0, 12.5):
        store.keys.expire(store.now)
        left.append(len(store.keys))
    assert left == [4, 3, 2, 1]
    assert publishers(store) == ["b"]
    store.keys.expire(13.0)
    assert (len(store.keys), entries(store.keys)) == (0, 0)


@pytest.mark.parametrize("publishers", [1, 500])
def test_a_key_takes_so_many_bytes(publishers: int) -> None:
    assert MAX_KEYS == 100_000
    keys, count = IdempotencyKeys(), 4000
    tracemalloc.start()
    for number in range(count):
        token = IdempotencyKey(("subject", None, "x" * 8000, f"{number:0255}"), bytes(32))
        name = f"address 2001:db8:{number % publishers:x}::/64"
        keys.remember(token, name, position=number, count=1, clients=0, expires=float(number))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / count <= KEY_BYTES
