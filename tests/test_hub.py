"""Who listens to what."""

from sse_broadcast.audience import Audience
from sse_broadcast.event import Event
from sse_broadcast.hub import Hub
from sse_broadcast.publication import Encoding, Publication, chunked_text, text
from sse_broadcast.subscriber import CloseReason, Subscriber, Terms
from tests.support.outlets import Outlet, data_of, publication, terms
from tests.test_audience import Carrier


def make_hub() -> tuple[Hub, Terms]:
    def found(channels: tuple[str, ...], encoding: Encoding) -> Audience:
        return Audience(channels, encoding, Carrier(), queue_size=10, queue_bytes=10_000)

    hub = Hub(found)
    policy = terms(queue_size=10)[0]
    return hub, Terms(policy.queue_size, policy.queue_bytes, policy.overflow, policy.metrics, hub.leave)


def join(hub: Hub, policy: Terms, *channels: str, encoding: Encoding = text) -> Subscriber:
    subscriber = Subscriber(channels, policy)
    subscriber.outlet = Outlet()
    hub.join(subscriber, encoding).queued[subscriber] = None
    return subscriber


def test_a_publication_reaches_the_subscribers_of_its_channel_alone() -> None:
    """And the hub says how many they are."""
    hub, policy = make_hub()
    one, two, other = join(hub, policy, "a"), join(hub, policy, "a"), join(hub, policy, "b")
    assert hub.deliver(publication("x", "a")) == 2
    assert (len(one), len(two), len(other)) == (1, 1, 0)
    assert hub.deliver(publication("x", "c")) == 0


def test_a_reader_of_several_of_its_channels_gets_it_once() -> None:
    """One publication is one event, however many of its channels a reader follows."""
    hub, policy = make_hub()
    both = join(hub, policy, "a", "b")
    assert hub.deliver(Publication(("a", "b"), Event("x"))) == 1
    assert data_of(both.take(1000)) == ["x"]


def test_readers_of_the_same_in_the_same_encoding_are_one_audience() -> None:
    """Interest and encoding make an audience; another encoding makes another."""
    hub, policy = make_hub()
    join(hub, policy, "a")
    join(hub, policy, "a")
    join(hub, policy, "a", encoding=chunked_text)
    assert sorted(audience.members for audience in hub.audiences) == [1, 2]
    assert hub.deliver(publication("x", "a")) == 3


def test_nothing_is_left_of_who_left() -> None:
    """Subscribers, audiences and channels go with their last member."""
    hub, policy = make_hub()
    one, two = join(hub, policy, "a", "b"), join(hub, policy, "b")
    hub.leave(one)
    hub.leave(one)
    assert (len(hub), list(hub)) == (1, [two])
    hub.leave(two)
    assert (len(hub), len(hub.audiences), hub._channels) == (0, 0, {})


def test_a_subscriber_that_overflows_leaves_while_others_are_told() -> None:
    """A disconnect in the middle of a publish disturbs nobody, whoever is last in its audience."""
    hub, policy = make_hub()
    slow = join(hub, policy, "a")
    for number in range(10):
        hub.deliver(publication(str(number), "a"))
    fresh = join(hub, policy, "a")
    assert hub.deliver(publication("x", "a")) == 2
    assert slow.closed is CloseReason.SLOW
    assert data_of(fresh.take(1000)) == ["x"]
    assert len(hub) == 1
