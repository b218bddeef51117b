"""A publisher's id stands for the oldest event with it, in the channels that are asked for."""

from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.work_queue import run_to_completion
from tests.backends.memory.history_cases import FOREVER, PLENTY, fill, history_of, publication


def test_a_publishers_id_is_found_and_forgotten() -> None:
    """The oldest wins, and with its end a later one stands for nothing either."""
    history = history_of(2)
    for position, name in enumerate(["x", "x", None, "y"], 1):
        history.extend([publication(position, id=name)])
        if position == 2:
            assert run_to_completion(history.custom_ids.position_of("x", Selector.parse("*"))) == 1
        if position == 3:
            assert run_to_completion(history.custom_ids.position_of("x", Selector.parse("*"))) is None
    assert run_to_completion(history.custom_ids.position_of("x", Selector.parse("*"))) is None
    assert run_to_completion(history.custom_ids.position_of("y", Selector.parse("*"))) == 4
    assert run_to_completion(history.custom_ids.position_of("z", Selector.parse("*"))) is None


def test_a_publishers_id_is_looked_for_in_the_channels_of_the_interest() -> None:
    """The same number in a channel of somebody else's says nothing of where a reader was."""
    history = history_of(gone=HistoryLimits(1, PLENTY, FOREVER))
    for position, (channels, name) in enumerate([("a", "17"), ("a b", None), ("b", "17"), ("gone", "17")], 1):
        history.extend([publication(position, channels, id=name)])
    assert run_to_completion(history.custom_ids.position_of("17", Selector.parse("a"))) == 1
    assert run_to_completion(history.custom_ids.position_of("17", Selector.parse("b"))) == 3
    assert run_to_completion(history.custom_ids.position_of("17", Selector.parse("a", "b"))) == 1
    assert run_to_completion(history.custom_ids.position_of("17", Selector.parse("g*"))) == 4
    assert run_to_completion(history.custom_ids.position_of("17", Selector.parse("c"))) is None
    fill(history, "gone", start=5)
    assert run_to_completion(history.custom_ids.position_of("17", Selector.parse("gone"))) is None
    assert run_to_completion(history.custom_ids.position_of("17", Selector.parse("*"))) == 1
