"""Terms: what a cursor says of what its subscriber has seen."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from sse_broadcast.backends.sqlite import terms as module
from sse_broadcast.backends.sqlite.schema import create_tables
from sse_broadcast.backends.sqlite.terms import JUMP, Term, Terms, begin_term, boot_id, end_term
from sse_broadcast.config.schema import Durability

FULL, NORMAL = Durability.FULL, Durability.NORMAL

THREE = Terms(
    [
        Term("aaaaaaaa", 0, 5, suspect=False),
        Term("bbbbbbbb", JUMP + 5, JUMP + 9, suspect=False),
        Term("cccccccc", 2 * JUMP + 9, None, suspect=True),
    ]
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Open an empty file."""
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    create_tables(connection)
    yield connection
    connection.close()


def publish(db: sqlite3.Connection, count: int) -> None:
    db.execute("UPDATE state SET position = position + ?", (count,))


def test_a_position_is_of_the_term_it_was_given_in() -> None:
    """Its id has the epoch of that one, however often the store was opened since."""
    assert [THREE.epoch_at(position) for position in (0, 1, 5)] == ["aaaaaaaa"] * 3
    assert [THREE.epoch_at(JUMP + 5 + more) for more in (0, 4)] == ["bbbbbbbb"] * 2
    assert THREE.epoch_at(2 * JUMP + 10) == THREE.current.epoch == "cccccccc"


def test_a_cursor_behind_the_end_of_its_term_has_seen_what_is_gone() -> None:
    """It goes on at the next term; one up to the end has lost nothing."""
    assert THREE.hole_end("aaaaaaaa", 5) is None
    assert THREE.hole_end("aaaaaaaa", 6) == JUMP + 5
    assert THREE.hole_end("bbbbbbbb", JUMP + 10) == 2 * JUMP + 9
    assert THREE.hole_end("cccccccc", 1 << 62) is None
    assert (THREE.knows("cccccccc"), THREE.knows("dddddddd")) == (True, False)


def test_a_loss_is_behind_all_that_came_before_it() -> None:
    """Whoever has passed the marker was told."""
    assert THREE.loss_after(0) == THREE.loss_after(2 * JUMP + 8) == 2 * JUMP + 9
    assert THREE.loss_after(2 * JUMP + 9) is None


def test_jumps_and_markers_are_no_publications() -> None:
    """What is behind a cursor is counted within terms."""
    newest = 2 * JUMP + 12
    assert THREE.given_between(0, newest) == 5 + 4 + 3
    assert THREE.given_between(3, newest) == 2 + 4 + 3
    assert THREE.given_between(JUMP + 5, newest) == 4 + 3
    assert THREE.given_between(2 * JUMP + 9, newest) == 3
    assert THREE.given_between(newest, newest) == 0


def test_the_first_term_begins_at_zero_and_the_next_far_beyond(db: sqlite3.Connection) -> None:
    """A new file has no marker: its first event is at 1, as in memory."""
    first, _ = begin_term(db, FULL)
    assert (first.first, first.suspect) == (0, False)
    publish(db, 3)
    second, terms = begin_term(db, FULL)
    assert second.first == 3 + JUMP
    assert second.epoch != first.epoch
    assert [(term.epoch, term.last) for term in terms] == [(first.epoch, 3), (second.epoch, None)]


@pytest.mark.parametrize(
    ("durability", "clean", "boot", "suspect"),
    [
        (NORMAL, False, "other", True),
        (NORMAL, False, "same", False),
        (NORMAL, True, "other", False),
        (FULL, False, "other", False),
        (NORMAL, False, "", True),
    ],
)
def test_only_a_power_cut_under_normal_durability_is_a_suspect(
    db: sqlite3.Connection, durability: Durability, boot: str, *, clean: bool, suspect: bool
) -> None:
    """A killed process loses nothing; nor does a machine that went down with all on its disk."""
    begin_term(db, durability, boot="same")
    if clean:
        end_term(db)
    term, _ = begin_term(db, FULL, boot=boot)
    assert term.suspect is suspect


def test_the_beginning_of_a_term_waits_for_the_disk(db: sqlite3.Connection) -> None:
    """Whatever the durability: what is committed later has that of its own."""
    said: list[str] = []
    db.set_trace_callback(said.append)
    begin_term(db, NORMAL)
    order = [line for line in said if line.startswith(("PRAGMA", "COMMIT"))]
    assert order == ["PRAGMA synchronous = FULL", "COMMIT", "PRAGMA synchronous = NORMAL"]


def test_so_many_terms_are_remembered(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of older ones are unknown."""
    monkeypatch.setattr(module, "MAX_TERMS", 3)
    given = [begin_term(db, FULL)[0].epoch for _ in range(5)]
    _, terms = begin_term(db, FULL)
    assert [term.epoch for term in terms[:-1]] == given[-2:]


def test_this_run_of_the_machine_has_a_name() -> None:
    """The same each time."""
    assert boot_id() == boot_id() != ""
