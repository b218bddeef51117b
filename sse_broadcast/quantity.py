"""Quantity: a number with its noun, in the singular or plural."""

from typing import Self


class Quantity(int):
    """An int that prints with its noun: `1 event`, `2 events`."""

    def __new__(cls, number: int, noun: str) -> Self:
        """Create a quantity of a noun whose plural ends with "s"."""
        count = super().__new__(cls, number)
        count._noun = noun
        return count

    _noun: str

    def __str__(self) -> str:
        return f"{int(self)} {self._noun}{'' if self == 1 else 's'}"
