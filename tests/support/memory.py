"""What is held in memory, while the collector of cycles does not look."""

import contextlib
import gc
from collections.abc import Iterator


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
