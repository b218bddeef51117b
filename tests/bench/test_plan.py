"""The plan of a run."""

from collections import defaultdict

from sse_broadcast.bench.plan import Plan, Shot


def test_events_are_due_at_even_intervals() -> None:
    plan = Plan(rate=4, duration=1)
    assert list(plan.shots(0)) == [
        Shot(0, 0, 1, 0.0),
        Shot(0, 0, 2, 0.25),
        Shot(0, 0, 3, 0.5),
        Shot(0, 0, 4, 0.75),
    ]


def test_the_rate_is_of_all_publishers_and_channels_together() -> None:
    plan = Plan(rate=10, duration=1, publishers=2, channels=3)
    shots = sorted((shot for number in (0, 1) for shot in plan.shots(number)), key=lambda shot: shot.due)
    assert [shot.due for shot in shots] == [number / 10 for number in range(10)]
    assert [shot.channel for shot in shots] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert [shot.publisher for shot in shots] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1]


def test_each_publisher_numbers_its_events_of_a_channel_without_gaps() -> None:
    plan = Plan(rate=100, duration=1, publishers=3, channels=4)
    numbers: dict[tuple[int, int], list[int]] = defaultdict(list)
    for publisher in range(3):
        for shot in plan.shots(publisher):
            numbers[publisher, shot.channel].append(shot.sequence)
    assert sum(map(len, numbers.values())) == plan.events == 100
    assert all(each == list(range(1, len(each) + 1)) for each in numbers.values())


def test_a_run_has_one_event_at_least() -> None:
    assert [shot.due for shot in Plan(rate=0.01, duration=1).shots(0)] == [0.0]
