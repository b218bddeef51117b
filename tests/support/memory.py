"""What is held in memory, while the collector of cycles does not look."""

import contextlib
import gc
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Have what is in a cycle stay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def held(*kinds: type) -> list[object]:
    """Return the objects of these kinds that there are."""
    return [thing for thing in gc.get_objects() if isinstance(thing, kinds)]


def inside(root: object, kind: type[T]) -> list[T]:
    """Return the objects of a kind that an object leads to, without those of functions, types and modules."""
    found, waiting = dict[int, object](), [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) not in found and not isinstance(thing, FunctionType | ModuleType | type):
            found[id(thing)] = thing
            waiting += gc.get_referents(thing)
    return [thing for thing in found.values() if isinstance(thing, kind)]


def entries(root: object) -> int:
    """Return how many entries all dicts, lists and sets have that an object leads to."""
    return sum(len(each) for kind in (dict, list, set) for each in inside(root, kind))
