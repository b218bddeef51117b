"""JSON depth: limit the nesting of JSON, the same on every Python version."""

import itertools
import operator
from collections.abc import Iterator

MAX_DEPTH = 64
"""Maximum depth of arrays and objects in JSON from clients. Decoders have limits that depend on the Python
version and on the stack."""

TOO_DEEP = f"is nested more than {MAX_DEPTH} deep"

_BITS = bytes.maketrans(b"[{]}", b"1100")
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def _steps(brackets: int) -> list[int]:
    """Return how each of eight brackets changes the depth. A set bit opens; the highest bit is the first."""
    return [1 if brackets & bit else -1 for bit in (128, 64, 32, 16, 8, 4, 2, 1)]


_SUM = bytes(sum(_steps(brackets)) & 0xFF for brackets in range(256))
"""The change of depth by eight brackets, as a signed byte."""

_HIGHEST = bytes(max(0, *itertools.accumulate(_steps(brackets))) for brackets in range(256))
"""The greatest depth among eight brackets, relative to the depth before them."""


def is_too_deep(data: bytes) -> bool:
    """Return whether JSON is nested more than `MAX_DEPTH` deep. For invalid JSON the result may be either."""
    # Most JSON has too few brackets to be too deep: that check takes 0.2 us. The rest takes up to 20 ns a
    # byte.
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    return max(_depths(data), default=0) > MAX_DEPTH


def first_deep_item(data: bytes) -> int:
    """Return the number of the first item of a JSON array that is nested too deep, from 1.

    The items are arrays or objects.
    """
    # The array itself is depth 1, so its items start at depth 2, and the depth returns to 1 after each item.
    eights = next((index for index, depth in enumerate(_depths(data)) if depth > MAX_DEPTH + 1), None)
    brackets = _brackets(data)[: None if eights is None else 8 * eights]
    depths = itertools.accumulate(1 if bracket == ord("1") else -1 for bracket in brackets)
    return sum(depth == 1 for depth in depths)


def _depths(data: bytes) -> Iterator[int]:
    """Yield the greatest depth within each eight brackets, without those in strings."""
    # Eight at a time: a Python step for each bracket takes four times as long.
    bits = _brackets(data)
    if not bits:
        return iter(())
    bits += b"0" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8)
    before = itertools.accumulate(memoryview(packed.translate(_SUM)).cast("b"), initial=0)
    return map(operator.add, before, packed.translate(_HIGHEST))


def _brackets(data: bytes) -> bytes:
    """Return "1" for each opening bracket and "0" for each closing one, without those in strings."""
    if b"\\" in data:
        # Backslashes appear only in strings, where each escapes the next character. Remove escaped
        # backslashes first, then escaped quotes.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(data.split(b'"')[::2]).translate(_BITS, _OTHERS)
