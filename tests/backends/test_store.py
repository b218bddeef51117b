"""The contract of a store; what stores do with it is in the contract's tests of a backend."""

import inspect

from sse_broadcast.backends.sqlite.store import SqliteStore
from sse_broadcast.backends.store import Store


def test_a_store_has_what_the_contract_says() -> None:
    """With the same parameters: the backend calls it by them."""
    promised = {
        name: each for name, each in vars(Store).items() if inspect.isfunction(each) and name[0] != "_"
    }
    assert len(promised) > 10
    for name, each in promised.items():
        found = inspect.signature(getattr(SqliteStore, name)).parameters
        assert list(found) == list(inspect.signature(each).parameters), name
