"""What handlers find in the application."""

from aiohttp import web

from sse_broadcast import BROADCASTER, Broadcaster, Config, create_app
from sse_broadcast.server.state import IN_FORCE, INTAKES, TUNED, TURN


async def test_each_application_has_its_own_broadcaster() -> None:
    """Two mounted in one process do not hear each other."""
    config = Config(queue_size=5)
    one, two = create_app(config), create_app()
    assert isinstance(one, web.Application)
    assert isinstance(one[BROADCASTER], Broadcaster)
    assert one[BROADCASTER] is not two[BROADCASTER]
    assert (one[IN_FORCE].setup.config, two[IN_FORCE].setup.config) == (config, Config())
    assert not one[TUNED]
    assert one[INTAKES] == set()
    assert one[INTAKES] is not two[INTAKES]
    assert one[TURN] is not two[TURN]
    assert not one[TURN].locked()
