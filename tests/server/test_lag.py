"""How late the loop is."""

import time

from sse_broadcast.metrics import Metrics
from sse_broadcast.server.lag import EVERY, Lag
from tests.conftest import Serve
from tests.support.sockets import until


async def test_a_loop_that_was_held_up_was_late() -> None:
    """By as much as it was held up beyond the next look."""
    metrics = Metrics()
    lag = Lag(metrics)
    lag.start()
    await until(lambda: metrics.loop_lag.count == 1)
    before = metrics.loop_lag.total
    time.sleep(EVERY + 0.3)
    await until(lambda: metrics.loop_lag.count == 2)
    lag.stop()
    assert metrics.loop_lag.total - before >= 0.3


async def test_a_server_has_its_loop_looked_at_until_it_stops(serve: Serve) -> None:
    """And no longer: nothing is left on the loop."""
    server = await serve()
    metrics = server.broadcaster.metrics
    await until(lambda: metrics.loop_lag.count > 1)
    await server.stop()
    looks = metrics.loop_lag.count
    time.sleep(2 * EVERY)
    await until(lambda: True)
    assert metrics.loop_lag.count == looks


async def test_one_that_was_never_started_can_be_stopped() -> None:
    """Nothing is to be undone then."""
    Lag(Metrics()).stop()
