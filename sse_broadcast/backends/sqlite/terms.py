"""Terms: each time that the file is opened is one, and the file keeps the list of them.

A power cut, or a backup that was restored, may have taken the end of a term: then a cursor behind that end is
of a subscriber that has seen what is gone. So that no position ever means two events, a term begins `JUMP`
positions behind the one before: beyond all that can have been given meanwhile.
"""

import contextlib
import sqlite3
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sse_broadcast.config.schema import Durability
from sse_broadcast.cursor import new_epoch

JUMP = 1 << 24
"""Positions between the end of a term and the beginning of the next."""

MAX_TERMS = 1000
"""Terms that are remembered: an id of an older one is unknown."""


class Term(msgspec.Struct, frozen=True):
    """One life of a store: from `first`, which is its marker, to `last`.

    `suspect` says that a power cut may have taken the end of the term before.
    """

    epoch: str
    first: int
    last: int | None
    suspect: bool


class Terms:
    """The terms of a store, and what cursors say by them."""

    __slots__ = ("_by_epoch", "_firsts", "_lost", "_terms")

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = sorted(terms, key=lambda term: term.first)
        self._by_epoch = {term.epoch: term for term in self._terms}
        self._firsts = [term.first for term in self._terms]
        self._lost = [term.first for term in self._terms if term.suspect]

    @property
    def current(self) -> Term:
        """The term of this process."""
        return self._terms[-1]

    def epoch_at(self, position: int) -> str:
        """Return the epoch in the id of a position."""
        index = bisect_right(self._firsts, position) - 1
        return self._terms[max(index, 0)].epoch

    def knows(self, epoch: str) -> bool:
        """Return whether an id may be of this store."""
        return epoch in self._by_epoch

    def hole_end(self, epoch: str, position: int) -> int | None:
        """Return where to go on if the end of a term that a subscriber has seen is gone, else None."""
        term = self._by_epoch[epoch]
        if term.last is None or position <= term.last:
            return None
        index = self._terms.index(term)
        return self._terms[index + 1].first

    def loss_after(self, position: int) -> int | None:
        """Return the newest marker behind a position that tells of a loss of everyone's, or None."""
        return self._lost[-1] if self._lost and self._lost[-1] > position else None

    def given_between(self, after: int, upto: int) -> int:
        """Return how many positions were given in `(after, upto]`: jumps and markers are none."""
        count = 0
        for term in self._terms:
            last = upto if term.last is None else min(term.last, upto)
            # The marker of a term is its first position, but for the very first, which has none.
            count += max(0, last - max(after, term.first))
        return count


def boot_id() -> str:
    """Return what names this run of the machine, or "" where nothing does."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def begin_term(
    db: sqlite3.Connection, durability: Durability, *, boot: str | None = None
) -> tuple[Term, list[Term]]:
    """Begin a term in a file that was opened, and return it and all terms."""
    boot = boot_id() if boot is None else boot
    # Synced whatever the durability: a power cut that takes the beginning of a term as well would leave a
    # file that seems to have been closed, and a loss that nobody is told of.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    newest, clean, ran_under, ran_in = db.execute(
        "SELECT position, clean, durability, boot_id FROM state"
    ).fetchone()
    first_ever = db.execute("SELECT 1 FROM term").fetchone() is None
    # A killed process loses nothing: what it wrote is the kernel's. A machine that went down without syncing
    # is another matter, and where its runs have no name any of them may have gone down.
    went_down = not clean and (ran_in != boot or not boot)
    suspect = went_down and Durability(ran_under) is not Durability.FULL
    first = 0 if first_ever else newest + JUMP
    db.execute("UPDATE term SET last = ? WHERE last IS NULL", (newest,))
    term = Term(new_epoch(), first, None, bool(suspect) and not first_ever)
    db.execute("INSERT INTO term VALUES (?, ?, NULL, ?)", (term.epoch, term.first, int(term.suspect)))
    db.execute(
        "DELETE FROM term WHERE first < (SELECT first FROM term ORDER BY first DESC LIMIT 1 OFFSET ?)",
        (MAX_TERMS - 1,),
    )
    db.execute(
        "UPDATE state SET position = ?, clean = 0, durability = ?, boot_id = ?", (first, durability, boot)
    )
    db.execute("COMMIT")
    db.execute(f"PRAGMA synchronous = {durability.upper()}")
    terms = [
        Term(epoch, first, last, bool(suspect))
        for epoch, first, last, suspect in db.execute(
            "SELECT epoch, first, last, suspect FROM term ORDER BY first"
        )
    ]
    return term, terms


def end_term(db: sqlite3.Connection) -> None:
    """Note that everything is in the file: nothing can have been lost behind it."""
    db.execute("UPDATE state SET clean = 1")
