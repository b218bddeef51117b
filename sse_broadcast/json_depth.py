"""Bound the nesting of JSON. Decoders have bounds that differ by Python version and by stack depth."""

import itertools
import operator
from collections.abc import Iterator

MAX_DEPTH = 64
"""Arrays and objects within one another that JSON of others may have."""

TOO_DEEP = f"is nested more than {MAX_DEPTH} deep"

_BITS = bytes.maketrans(b"[{]}", b"1100")
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def _steps(brackets: int) -> list[int]:
    """Return what each of eight brackets adds to the depth. A set bit opens; the highest bit is the first."""
    return [1 if brackets & bit else -1 for bit in (128, 64, 32, 16, 8, 4, 2, 1)]


_SUM = bytes(sum(_steps(brackets)) & 0xFF for brackets in range(256))
"""What eight brackets add to the depth, as a signed byte."""

_HIGHEST = bytes(max(0, *itertools.accumulate(_steps(brackets))) for brackets in range(256))
"""How much deeper it is where it is deepest among them."""


def is_too_deep(data: bytes) -> bool:
    """Whether JSON is nested more than `MAX_DEPTH` deep. Of what is no JSON the answer may be either."""
    # Most has too few brackets for that: 0.2 us, and up to 20 ns for each byte of what has more.
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    return max(_depths(data), default=0) > MAX_DEPTH


def first_deep_item(data: bytes) -> int:
    """Return the number of the first item of a JSON array that is nested too deep, from 1.

    The items are arrays or objects.
    """
    # What is too deep of itself is deeper by one in the array, which begins at depth 1 and comes back to it
    # behind each item.
    eights = next((index for index, depth in enumerate(_depths(data)) if depth > MAX_DEPTH + 1), None)
    brackets = _brackets(data)[: None if eights is None else 8 * eights]
    depths = itertools.accumulate(1 if bracket == ord("1") else -1 for bracket in brackets)
    return sum(depth == 1 for depth in depths)


def _depths(data: bytes) -> Iterator[int]:
    """Yield the greatest depth within each eight brackets, without those in strings.

    Eight at a time, since a step of Python for each bracket would be four times as long.
    """
    bits = _brackets(data)
    if not bits:
        return iter(())
    bits += b"0" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8)
    before = itertools.accumulate(memoryview(packed.translate(_SUM)).cast("b"), initial=0)
    return map(operator.add, before, packed.translate(_HIGHEST))


def _brackets(data: bytes) -> bytes:
    """Return a 1 for each bracket that opens, and a 0 for each that closes, but those in strings."""
    if b"\\" in data:
        # Backslashes are in strings alone, where each escapes what follows: pairs first, from the left.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(data.split(b'"')[::2]).translate(_BITS, _OTHERS)
