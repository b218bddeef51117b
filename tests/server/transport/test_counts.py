"""Connection counts, in total and by address."""

from sse_broadcast.metrics import Metrics
from sse_broadcast.server.transport.counts import ConnectionCounts
from tests.support.internals import addresses_of


def test_connections_are_counted_in_total_and_by_address() -> None:
    connection_counts = ConnectionCounts(Metrics())
    for key in ("192.0.2.1", "192.0.2.1", "2001:db8::/64", None):
        connection_counts.add(key, private=key is None)
    assert (connection_counts.count, connection_counts.public) == (4, 3)
    assert connection_counts.for_address("192.0.2.1") == 2
    assert connection_counts.for_address("2001:db8::/64") == 1
    assert connection_counts.for_address("192.0.2.2") == 0
    connection_counts.remove("192.0.2.1", private=False)
    connection_counts.remove(None, private=True)
    assert (connection_counts.count, connection_counts.public) == (2, 2)
    assert connection_counts.for_address("192.0.2.1") == 1


def test_an_address_without_connections_is_forgotten() -> None:
    """Memory depends on the open connections only."""
    connection_counts = ConnectionCounts(Metrics())
    for number in range(100):
        connection_counts.add(f"192.0.2.{number}", private=False)
    for number in range(100):
        connection_counts.remove(f"192.0.2.{number}", private=False)
    assert (connection_counts.count, addresses_of(connection_counts)) == (0, {})
