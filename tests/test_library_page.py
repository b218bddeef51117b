"""docs/library.md: its program runs."""

import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support import process
from tests.support.pages import page
from tests.support.process import Programs
from tests.support.sockets import RawClient

PAGE = page("docs/library.md")
BLOCKS = PAGE.blocks

programs = pytest.fixture(process.programs)


def test_every_block_has_a_test() -> None:
    here = Path(__file__).read_text()
    assert all(block.name for block in PAGE.every_block)
    assert {name for name in BLOCKS if f'BLOCKS["{name}"]' not in here} == set()


async def test_the_library_program_runs(programs: Programs) -> None:
    program = await programs.start(sys.executable, "-c", BLOCKS["library"].code)
    ended = await program.ended()
    assert (ended.code, ended.err) == (0, b"")
    assert ended.out == b"0 news hello\n0 orders.17 twelve\n"


async def test_the_mounted_application_serves(programs: Programs) -> None:
    """It is the other half of that program, under a runner of aiohttp."""
    names: dict[str, Any] = {}
    exec(BLOCKS["library"].code.replace("asyncio.run(in_process())", ""), names)
    runner = web.AppRunner(names["application"]())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        subscriber, customer = await RawClient.open(port), await RawClient.open(port)
        await subscriber.subscribe(path="/push/events")
        assert (await customer.ask("POST", "/order"))[1] == b"thank you\n"
        (event,) = await subscriber.events(1)
        assert (event.type, event.data) == ("order", "a new order")
        subscriber.close()
        customer.close()
    finally:
        await runner.cleanup()
