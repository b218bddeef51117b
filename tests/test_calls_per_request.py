"""Calls per request: how many function calls of this package a request takes, and in how many files.

A call is a profiler's `call` event in the package without its ground modules, which all others use.
`pytest -s` prints the table.
"""

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import sse_broadcast
from tests.conftest import Connect, Serve

ROOT = Path(sse_broadcast.__file__).parent

GROUND = frozenset(
    "clock cursor encoding errors event metrics publication quantity timeouts wire".split()  # noqa: SIM905
)

REQUESTS = 10

WARM_UP = 300

MAX_CALLS = 80

MAX_FILES = 26


async def count(request: Callable[[], Awaitable[object]]) -> Counter[tuple[str, str]]:
    """Return the calls of each function of the package, by its file, in `REQUESTS` requests."""
    calls: Counter[tuple[str, str]] = Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # CPython 3.12 has no frames for comprehensions.
        if event != "call" or code.co_name in {"<listcomp>", "<dictcomp>", "<setcomp>"}:
            return
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT) and not (path.parent == ROOT and path.stem in GROUND):
            calls[str(path.relative_to(ROOT)), code.co_qualname] += 1

    sys.setprofile(profile)
    try:
        for _ in range(REQUESTS):
            await request()
    finally:
        sys.setprofile(None)
    # Timers of the server run meanwhile, and belong to no request.
    return Counter({place: number for place, number in calls.items() if number >= REQUESTS})


def require_short(title: str, calls: Counter[tuple[str, str]]) -> None:
    """Print the table of calls, and fail beyond the limits."""
    total, files = calls.total() / REQUESTS, len({file for file, _ in calls})
    lines = [f"{number / REQUESTS:6g}  {file}: {name}" for (file, name), number in calls.items()]
    sys.stdout.write("\n".join(["", f"{title}: {total:g} calls in {files} files", *lines, ""]))
    assert total <= MAX_CALLS
    assert files <= MAX_FILES


async def test_a_publish_to_one_subscriber_has_few_calls(serve: Serve, connect: Connect) -> None:
    """Calls count from the first byte of the request to the frame of the subscriber."""
    server = await serve()
    subscriber, publisher = await connect(server), await connect(server)
    await subscriber.subscribe(path="/events/news")

    async def publish() -> None:
        status, _ = await publisher.ask("POST", "/send/news", body=b"hello")
        assert status == 200
        await subscriber.up_to(b"data: hello\n")

    # While the history is small, each event moves its channel to another size class.
    for _ in range(WARM_UP):
        await publish()
    require_short("POST /send/news", await count(publish))


async def test_a_subscription_has_few_calls(serve: Serve, connect: Connect) -> None:
    """Calls count from the first byte of the request to the first frame."""
    server = await serve()
    clients = [await connect(server) for _ in range(2 * REQUESTS)]

    async def subscribe() -> None:
        client = clients.pop()
        await client.subscribe(path="/events/news")
        await client.up_to(b"\n\n")

    for _ in range(REQUESTS):
        await subscribe()
    require_short("GET /events/news", await count(subscribe))
