"""Quantity: a number with its noun, in the singular or plural."""

from typing import Self


class Quantity(int):
    """A number wherever a number is wanted, and in a sentence `1 event` or `2 events`."""

    def __new__(cls, number: int, noun: str) -> Self:
        """Count a thing by its name, whose plural has an `s`."""
        count = super().__new__(cls, number)
        count._noun = noun
        return count

    _noun: str

    def __str__(self) -> str:
        return f"{int(self)} {self._noun}{'' if self == 1 else 's'}"
