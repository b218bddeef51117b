"""A server that is killed again and again while it keeps its history in a file: what that loses.

    python -m benchmarks.kills [--kills 200] [--durability full] [--folder DIR] [--check]

Eight publishers post, each with an Idempotency-Key and again until it is answered; 100 subscribers follow
some of the channels, leave and come back with their last id. Meanwhile the server is killed (SIGKILL) at
random moments and started again on the same file. Checked:

- every event that was answered has a position of its own, and is what it was answered for;
- every subscriber has all of its channels from where it began, each once and in order;
- nobody was told of a loss.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import (
    HOST,
    PATIENCE,
    Check,
    add_check,
    command_line,
    exactly,
    exit_status,
    free_port,
    positive,
    print_checks,
    stop_on_sigterm,
)

CHANNELS = ("c0", "c1", "c2", "c3")

PUBLISHERS = 8

SUBSCRIBERS = 100

STAY = (0.1, 3.0)
"""Seconds that a subscriber stays, at least and at most, before it comes back with its last id."""

LIFE = (0.05, 0.6)
"""Seconds from when the server accepts connections to its death, at least and at most."""

PAUSE = 0.02
"""Seconds before an attempt is repeated."""

POST = (
    b"POST /send/%s HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: %s\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
)

GET = b"GET /events/%s HTTP/1.0\r\nHost: localhost\r\nAccept: application/x-any\r\n%s\r\n"


@dataclass
class Scene:
    """The state of the run, and its record so far."""

    port: int
    answered: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The position and the channel that each event was answered with, by its data."""
    enough: bool = False
    retried: int = 0
    kills: int = 0

    @property
    def newest(self) -> int:
        """The newest position that was answered."""
        return max((position for position, _ in self.answered.values()), default=0)


class Subscriber:
    """Follows some channels; leaves now and then, and comes back with its last id."""

    def __init__(self, scene: Scene, channels: Sequence[str], chance: random.Random) -> None:
        self.channels = channels
        self.began: int | None = None
        self.position = 0
        self.given: list[tuple[int, str]] = []
        self.news: Counter[str] = Counter()
        self._scene = scene
        self._chance = chance
        self._last = ""

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(self._chance.uniform(*STAY)):
                    await self._follow()
            await asyncio.sleep(PAUSE)

    async def _follow(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._scene.port)
        try:
            last = f"Last-Event-ID: {self._last}\r\n" if self._last else ""
            writer.write(GET % (",".join(self.channels).encode(), last.encode()))
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                self.news[head.split(b"\r\n", 1)[0].decode()] += 1
                return
            async for event, data, id in blocks(reader):
                self._take(event, data, id)
        finally:
            writer.close()

    def _take(self, event: str, data: str, id: str) -> None:
        self._last = id
        self.position = int(id.partition("-")[2])
        if self.began is None:
            self.began = self.position
        if event == "$reset":
            self.news[data] += 1
        elif not event.startswith("$"):
            self.given.append((self.position, data))


async def blocks(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, str, str]]:
    """Yield the type, data and id of each block that has an id, when it is whole."""
    fields: dict[str, str] = {}
    while line := await reader.readline():
        if line == b"\n":
            if "id" in fields:
                yield fields.get("event", "message"), fields.get("data", ""), fields["id"]
            fields = {}
        elif line.endswith(b"\n"):
            name, _, value = line[:-1].decode().partition(": ")
            fields[name] = value


async def publish(scene: Scene, number: int, chance: random.Random) -> None:
    """Publish one event after the other, each until it is answered."""
    count = 0
    while not scene.enough:
        count += 1
        data, channel = f"{number}-{count}", chance.choice(CHANNELS)
        while (id := await post(scene.port, channel, data)) is None:
            scene.retried += 1
            await asyncio.sleep(PAUSE)
        scene.answered[data] = (int(id.partition("-")[2]), channel)
        await asyncio.sleep(chance.uniform(0, 0.01))


async def post(port: int, channel: str, data: str) -> str | None:
    """Publish, and return the id that is answered; None if there is no answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(POST % (channel.encode(), data.encode(), len(data), data.encode()))
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    head, _, body = answer.partition(b'"id":"')
    return body.partition(b'"')[0].decode() if b" 200 " in head[:16] and body else None


@contextlib.asynccontextmanager
async def served(command: Sequence[str], port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a server, from when it accepts connections on; it is killed in the end."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        await until_it_accepts(process, port)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def until_it_accepts(process: asyncio.subprocess.Process, port: int) -> None:
    """Wait until a server accepts connections. Raises `RuntimeError` if it ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.returncode is not None:
            raise RuntimeError(f"the server did not start: it ended with {process.returncode}")
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(PAUSE)
        else:
            writer.close()
            return
    raise RuntimeError("the server did not start in time")


async def torture(
    folder: Path, *, kills: int, durability: str, seed: int = 0
) -> tuple[Scene, list[Subscriber]]:
    """Kill a server so many times, and return what was answered and what subscribers were given."""
    chance = random.Random(seed)
    scene = Scene(free_port())
    command = [
        *(
            sys.executable,
            "-m",
            "sse_broadcast",
            "serve",
            "--port",
            str(scene.port),
            "--log-level",
            "warning",
        ),
        *("--backend", f"sqlite://{folder / 'history.db'}", "--durability", durability),
        *("--publish-rate", "0", "--subscribe-rate", "0", "--history-size", "1000000"),
        *("--history-bytes", str(1 << 30), "--history-total", str(1 << 30), "--history-memory", "100000"),
    ]
    subscribers = [
        Subscriber(scene, sorted(chance.sample(CHANNELS, chance.randint(1, 4))), random.Random(seed + number))
        for number in range(SUBSCRIBERS)
    ]
    tasks: list[asyncio.Task[None]] = []
    publishing: list[asyncio.Task[None]] = []
    try:
        for count in range(kills + 1):
            async with served(command, scene.port):
                if not count:
                    tasks = [asyncio.create_task(each.run()) for each in subscribers]
                    await until(lambda: all(each.began is not None for each in subscribers))
                    publishing = [
                        asyncio.create_task(publish(scene, number, random.Random(seed + number)))
                        for number in range(PUBLISHERS)
                    ]
                if count < kills:
                    await asyncio.sleep(chance.uniform(*LIFE))
                    scene.kills += 1
                    continue
                scene.enough = True
                await asyncio.gather(*publishing)
                await until(lambda: all(has_all(each, scene) for each in subscribers))
    finally:
        for task in (*tasks, *publishing):
            task.cancel()
        await asyncio.gather(*tasks, *publishing, return_exceptions=True)
    return scene, subscribers


def has_all(subscriber: Subscriber, scene: Scene) -> bool:
    """Return whether a subscriber has the newest event of its channels."""
    newest = max((at for at, channel in scene.answered.values() if channel in subscriber.channels), default=0)
    return subscriber.position >= newest


async def until(condition: object) -> None:
    """Wait for what another part of this loop is about to see, or for too long."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(PAUSE)


def checked(scene: Scene, subscribers: Sequence[Subscriber], *, kills: int) -> Iterator[Check]:
    """Check what was promised."""
    by_position = {position: data for data, (position, _) in scene.answered.items()}
    yield exactly("kills", scene.kills, kills)
    yield exactly(
        "answered events without a position of their own", len(scene.answered) - len(by_position), 0
    )
    lost = repeated = disordered = wrong = 0
    for each in subscribers:
        assert each.began is not None
        positions = [position for position, _ in each.given]
        repeated += len(positions) - len(set(positions))
        disordered += positions != sorted(positions)
        wrong += sum(by_position.get(position, data) != data for position, data in each.given)
        due = {
            data
            for data, (position, channel) in scene.answered.items()
            if channel in each.channels and position > each.began
        }
        lost += len(due - {data for _, data in each.given})
    yield exactly("events that a subscriber lost", lost, 0)
    yield exactly("events that a subscriber was given twice", repeated, 0)
    yield exactly("subscribers that were given something out of order", disordered, 0)
    yield exactly("events that were not what was answered", wrong, 0)
    news = sum((each.news for each in subscribers), Counter[str]())
    for what, count in news.most_common(5):
        print(f"  told: {what}, {count} times")
    yield exactly("subscribers that were told of a loss, or refused", news.total(), 0)


def main() -> int:
    """Kill, check, and with --check say whether it holds."""
    parser = command_line("kills", __doc__)
    parser.add_argument("--kills", type=positive, default=200, help="how often the server is killed")
    parser.add_argument("--durability", default="full", choices=["full", "normal"])
    parser.add_argument("--folder", type=Path, help="where the file goes")
    parser.add_argument("--seed", type=int, default=0, help="of what is random")
    add_check(parser, "nothing is lost")
    chosen: argparse.Namespace = parser.parse_args()
    stop_on_sigterm()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        scene, subscribers = asyncio.run(
            torture(Path(folder), kills=chosen.kills, durability=chosen.durability, seed=chosen.seed)
        )
    given = sum(len(each.given) for each in subscribers)
    print(
        f"durability {chosen.durability}: {scene.kills} kills, {len(scene.answered):,} events answered, "
        f"{scene.retried:,} attempts without an answer, {given:,} given to {len(subscribers)} subscribers"
    )
    checks = list(checked(scene, subscribers, kills=chosen.kills))
    print_checks(checks)
    return exit_status(checks) if chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
