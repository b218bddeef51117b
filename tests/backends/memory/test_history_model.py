"""A history against a naive model of the same rules, over arbitrary publishes."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.memory.weights import CHANNEL_COST, PUBLISHER_COST
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.event import DEFAULT_TYPE
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import run_to_completion
from tests.backends.memory.history_cases import (
    FOREVER,
    PLENTY,
    WEIGHT,
    given_after,
    held,
    history_of,
    publication,
    require_bounded,
    weight,
)


class Model:
    """The same rules for one channel at a time, over plain lists."""

    def __init__(self, limits: dict[str, HistoryLimits]) -> None:
        self.limits = limits
        self.ever: list[Publication] = []
        self.held: dict[str, list[Publication]] = defaultdict(list)
        self.gone: dict[str, int] = defaultdict(int)

    def extend(self, publications: Sequence[Publication]) -> None:
        for new in publications:
            self.ever.append(new)
            for name in new.channels:
                log, limits = self.held[name], self.limits[name]
                log.append(new)
                while len(log) > limits.size or sum(map(weight, log)) > limits.bytes:
                    self.gone[name] = log.pop(0).position

    def expire(self, now: float) -> None:
        for name, log in self.held.items():
            while log and log[0].time + self.limits[name].age <= now:
                self.gone[name] = log.pop(0).position

    def read(self, selector: Selector, after: int) -> tuple[list[int], bool]:
        """Return what a reader gets, and whether it is told of a loss."""
        mine = [name for name in self.held if selector.matches(name)]
        newest_loss = max((self.gone[name] for name in mine), default=0)
        begin = max(after, newest_loss)
        found = {one.position: one for name in mine for one in self.held[name] if one.position > begin}
        return [n for n in sorted(found) if selector.accepts_type(found[n].event.type)], newest_loss > after


def read(history: History, selector: Selector, after: int) -> tuple[list[int], bool]:
    """Read a history to its end as a backend does: a gap if there is one, then what is behind it."""
    newest_loss = run_to_completion(history.watermarks.newest_loss(selector))
    told = newest_loss > after
    if told:
        gap = history.gap(selector, after, newest_loss)
        assert gap.position >= newest_loss
        assert gap.channels
        assert set(gap.channels) <= set(selector.channels)
        after = gap.position
        assert run_to_completion(history.watermarks.newest_loss(selector)) <= after, (
            "told of the same loss again"
        )
    return given_after(history, selector, after), told


NAMES = ["a", "b", "x.1", "x.2", "x"]


LIMITS = {
    "a": HistoryLimits(3, PLENTY, 20.0),
    "b": HistoryLimits(1000, 4 * WEIGHT, 5.0),
    "x.1": HistoryLimits(2, PLENTY, FOREVER),
    "x.2": HistoryLimits(0, PLENTY, FOREVER),
    "x": HistoryLimits(1000, PLENTY, 10.0),
}


Row = tuple[set[str], str, str | None, int, int]


Step = tuple[list[Row], float]


ROWS = st.tuples(
    st.sets(st.sampled_from(NAMES), min_size=1, max_size=3),
    st.sampled_from([DEFAULT_TYPE, "t"]),
    st.sampled_from([None, "one", "two"]),
    st.sampled_from([0, 0, 10, 300]),
    st.sampled_from([1, 1, 2, 6]),
)
"""Channels, type, id, length, and how many such events follow one another."""


STEPS = st.lists(
    st.tuples(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from([0.0, 0.0, 1.0, 4.0, 12.0])),
    max_size=15,
)
"""Batches, and the time that passes before each."""


def batches_of(steps: list[Step]) -> Iterator[tuple[float, list[Publication]]]:
    """Yield what the steps say, with the time of each batch."""
    now, position = 0.0, 0
    for rows, passing in steps:
        now += passing
        batch = []
        for channels, kind, name, length, count in rows:
            for _ in range(count):
                position += 1
                places = " ".join(sorted(channels))
                data = "x" * length
                batch.append(publication(position, places, type=kind, id=name, data=data, time=now))
        yield now, batch


CHANNELS = [
    ["a"],
    ["b"],
    ["x.2"],
    ["a", "b"],
    ["a", "x", "none"],
    ["none"],
    NAMES,
    ["x*"],
    ["x.*", "a"],
    ["*"],
]
ASKED = [Selector.parse(*channels, types=types) for channels in CHANNELS for types in (None, ["t"])]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(STEPS, st.data())
def test_it_is_what_the_naive_model_is(steps: list[Step], data: st.DataObject) -> None:
    """For every interest and cursor: the same events, each once, and a gap if and only if there is one."""
    model = Model(LIMITS)
    history = History(LIMITS.__getitem__, total=PLENTY, max_channels=1000)
    for now, batch in batches_of(steps):
        for kept in (history, model):
            kept.expire(now)
            kept.extend(batch)
        for selector in data.draw(st.sets(st.sampled_from(ASKED), max_size=2)):
            run_to_completion(history.watermarks.newest_loss(selector))
    for name in NAMES:
        assert held(history, name) == [one.position for one in model.held[name]]
    for selector in ASKED:
        for after in range(len(model.ever) + 1):
            assert read(history, selector, after) == model.read(selector, after)
    still = [one for held in model.held.values() for one in held]
    for name in ("one", "two"):
        oldest = min((one.position for one in still if one.event.id == name), default=None)
        assert run_to_completion(history.custom_ids.position_of(name, Selector.parse("*"))) in {None, oldest}
    require_bounded(history)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(STEPS)
def test_a_batch_is_its_publications_one_by_one(steps: list[Step]) -> None:
    together, alone = (History(LIMITS.__getitem__, total=PLENTY, max_channels=1000) for _ in range(2))
    for now, batch in batches_of(steps):
        together.expire(now)
        together.extend(batch)
        alone.expire(now)
        for one in batch:
            alone.extend([one])
        assert state_of(together) == state_of(alone)
        require_bounded(together)


def state_of(history: History) -> object:
    """Return all that a reader could ever see of it."""
    return (
        {name: held(history, name) for name in NAMES},
        {selector: run_to_completion(history.watermarks.newest_loss(selector)) for selector in ASKED},
        {
            name: run_to_completion(history.custom_ids.position_of(name, Selector.parse("*")))
            for name in ("one", "two")
        },
        history.bytes,
        history.watermarks.evictions,
    )


@settings(derandomize=True, deadline=None, max_examples=150)
@given(STEPS, st.integers(1, 30), st.integers(1, 5))
def test_no_loss_is_silent_however_it_came(steps: list[Step], room: int, max_channels: int) -> None:
    """With a total and forgotten channels too: all that is held behind a gap is given, all else was told."""
    history = History(LIMITS.__getitem__, total=room * WEIGHT, max_channels=max_channels)
    published: list[Publication] = []
    for now, batch in batches_of(steps):
        published += batch
        history.expire(now)
        history.extend(batch, f"{len(batch) % 3}")
        assert history.bytes <= room * WEIGHT
        require_bounded(history)
    for selector in ASKED:
        for after in range(len(published) + 1):
            require_told(history, selector, after, published)


def require_told(history: History, selector: Selector, after: int, published: list[Publication]) -> None:
    got, told = read(history, selector, after)
    assert got == sorted(set(got))
    due = [one for one in published if one.position > after and selector.first_match(one.channels)]
    wanted = [one.position for one in due if selector.accepts_type(one.event.type)]
    if told:
        assert got == wanted[len(wanted) - len(got) :]
    else:
        assert got == wanted
    whole = all(
        one.position in held(history, name) for one in due for name in one.channels if selector.matches(name)
    )
    assert told or whole
    if not history.watermarks.forgotten:
        assert told is not whole


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 2000)), max_size=80), st.integers(10, 40))
def test_only_the_noisiest_gives(steps: list[tuple[str, int]], room: int) -> None:
    """No channel lets go of an event for the total while another one holds more.

    Where channels take more than all events do, channels are forgotten: there is more room here.
    """
    history = history_of(total=room * WEIGHT + 5 * (CHANNEL_COST + 1) + PUBLISHER_COST)
    published: dict[int, Publication] = {}
    for position, (name, length) in enumerate(steps, 1):
        before = {
            channel: run_to_completion(history.watermarks.newest_loss(Selector.parse(channel)))
            for channel in "abcde"
        }
        published[position] = publication(position, name, data="x" * length)
        history.extend([published[position]])
        bytes = {
            channel: log.bytes if (log := history.channel_index.logs.get(channel)) else 0
            for channel in "abcde"
        }
        for channel in "abcde":
            last = run_to_completion(history.watermarks.newest_loss(Selector.parse(channel)))
            if last > before[channel]:
                # Channels of about the same size are one class of `Largest`: 1/16 of its size at most.
                assert bytes[channel] + weight(published[last]) >= max(bytes.values()) * 15 / 16
