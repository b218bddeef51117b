"""What is read of the file: by an index, however much there is."""

import sqlite3
from collections.abc import Callable, Iterator

import pytest

from sse_broadcast.backends.sqlite import pages as module
from sse_broadcast.backends.sqlite.pages import Pages
from sse_broadcast.backends.sqlite.schema import create_tables
from sse_broadcast.backends.sqlite.terms import Term, Terms
from sse_broadcast.channels import Selector

TERMS = Terms([Term("0123abcd", 0, None, suspect=False)])

COUNT = 100_000

STEPS = 1000
"""Steps of SQLite's machine between two calls of the progress handler."""


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """Fill a file: 100,000 events in `a`, of which every thousandth is in `b`, and the last has an id."""
    connection = sqlite3.connect(tmp_path_factory.mktemp("pages") / "a.db", isolation_level=None)
    create_tables(connection)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO event (position, time, size, holders, type, id, json, channels, data)"
        " VALUES (?, ?, 100, 1, ?, ?, 0, ?, 'x')",
        (
            (
                position,
                float(position),
                "rare" if position == 5 else None,
                "mine" if position == COUNT else None,
                "a" if position % 1000 else "a b",
            )
            for position in range(1, COUNT + 1)
        ),
    )
    connection.executemany(
        "INSERT INTO place VALUES (1, ?)", ((position,) for position in range(1, COUNT + 1))
    )
    connection.executemany("INSERT INTO place VALUES (2, ?)", ((n,) for n in range(1000, COUNT + 1, 1000)))
    connection.execute(
        "INSERT INTO channel VALUES (1, 'a', '', 100000, 0, 100000, 0, 0, NULL, NULL, NULL, NULL)"
    )
    connection.execute(
        "INSERT INTO channel VALUES (2, 'b', '', 100, 0, 100000, 0, 0, NULL, NULL, NULL, NULL)"
    )
    connection.execute("UPDATE state SET position = 100000, commits = 7")
    connection.execute("COMMIT")
    yield connection
    connection.close()


@pytest.fixture
def pages(db: sqlite3.Connection) -> Pages:
    """Read it."""
    return Pages(db, TERMS)


@pytest.fixture
def cheap(db: sqlite3.Connection) -> Iterator[None]:
    """Fail what takes more than 100,000 steps: a scan takes several hundred thousand."""
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return int(calls > 100)

    db.set_progress_handler(count, STEPS)
    yield
    db.set_progress_handler(None, 0)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(
    "read",
    [
        lambda pages: pages.newest(["a", "b"], Selector.parse("a", "b"), upto=COUNT),
        lambda pages: pages.page(Selector.parse("a"), after=COUNT - 10, upto=COUNT, limit=1 << 20),
        lambda pages: pages.page(Selector.parse("a", "b"), after=10, upto=COUNT, limit=1 << 20),
        lambda pages: pages.page(Selector.parse("*"), after=COUNT // 2, upto=COUNT, limit=1 << 20),
        lambda pages: pages.page(Selector.parse("x*"), after=COUNT // 2, upto=COUNT, limit=1 << 20),
        lambda pages: pages.named("mine", Selector.parse("a")),
        lambda pages: pages.named("none", Selector.parse("a")),
        lambda pages: pages.since(COUNT / 3, upto=COUNT),
        lambda pages: pages.first_after(Selector.parse("b"), after=COUNT // 2, upto=COUNT),
        lambda pages: pages.first_after(Selector.parse("x*"), after=COUNT // 2, upto=COUNT),
    ],
    ids=[
        "newest",
        "page",
        "page of two",
        "page of a pattern",
        "page of nothing",
        "id",
        "no id",
        "age",
        "first",
        "first of a pattern",
    ],
)
def test_nothing_scans_the_history(pages: Pages, read: Callable[[Pages], object]) -> None:
    """Of 100,000 events only those are looked at that an index leads to."""
    read(pages)


def test_the_scale_of_that_test_is_right(db: sqlite3.Connection, cheap: None) -> None:
    """A scan is interrupted."""
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        db.execute("SELECT count(*) FROM event WHERE data = 'y'").fetchone()


def test_a_page_says_how_far_it_is_complete(pages: Pages) -> None:
    """It ends by its bytes, by what was examined, or at the bound; and is of a commit."""
    one = pages.page(Selector.parse("a"), after=0, upto=COUNT, limit=0)
    assert ([each.position for each in one.publications], one.upto, one.commit) == ([1], 1, 7)
    examined = pages.page(Selector.parse("a"), after=0, upto=COUNT, limit=1 << 30)
    assert (len(examined.publications), examined.upto) == (module.EVENTS_EXAMINED, module.EVENTS_EXAMINED)
    rest = pages.page(Selector.parse("b"), after=COUNT - 5000, upto=COUNT - 1, limit=1 << 30)
    assert ([each.position for each in rest.publications], rest.upto) == (
        [COUNT - back for back in (4000, 3000, 2000, 1000)],
        COUNT - 1,
    )


def test_a_pattern_comes_to_the_end_by_pages(pages: Pages) -> None:
    """Each examines so many events, wanted or not."""
    after = count = 0
    found: list[int] = []
    while after < COUNT:
        page = pages.page(Selector.parse("b*"), after=after, upto=COUNT, limit=1 << 30)
        assert after < page.upto
        found += [each.position for each in page.publications]
        after, count = page.upto, count + 1
    assert found == list(range(1000, COUNT + 1, 1000))
    assert count == -(-COUNT // module.EVENTS_EXAMINED)


def test_the_newest_that_a_filter_accepts_is_found(pages: Pages) -> None:
    """Behind however many of other types."""
    newest = pages.newest(["a"], Selector.parse("a", types=["rare"]), upto=COUNT)
    assert [each.position for each in newest] == [5]
    default = pages.newest(["a", "b"], Selector.parse("a", "b", types=["message"]), upto=COUNT - 1)
    assert [each.position for each in default] == [COUNT - 1000, COUNT - 1]


def test_an_age_is_found_by_halving(pages: Pages) -> None:
    """The first that is not older; none if all are."""
    assert [pages.since(time, upto=COUNT) for time in (0.0, 1.0, 1.5, 77.0, COUNT, COUNT + 0.5)] == [
        1,
        1,
        2,
        77,
        COUNT,
        None,
    ]
