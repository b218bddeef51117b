"""Background writer: lines on their way to a file that may block or fail."""

import fcntl
import os
import resource
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sse_broadcast.logs import writer as module
from sse_broadcast.logs.writer import MAX_WRITE, TOO_MANY, BackgroundWriter
from tests.support.sockets import PATIENCE

Make = Callable[..., BackgroundWriter]


def notice(count: int, reason: str) -> bytes:
    return f"lost {count}: {reason}\n".encode()


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[BackgroundWriter] = []

    def make(descriptor: int, **options: int) -> BackgroundWriter:
        made.append(BackgroundWriter(descriptor, notice=notice, **options))
        return made[-1]

    yield make
    for writer in made:
        assert writer.close(timeout=PATIENCE)


class Pipe:
    """A pipe that a test can fill or close."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def fill(self) -> int:
        """Fill the pipe, and return the number of bytes."""
        size = fcntl.fcntl(self.writing, fcntl.F_GETPIPE_SZ)
        return os.write(self.writing, b"." * size)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(self.reading, size - len(data))
        return data

    def rest(self) -> bytes:
        """Return everything up to the end, which comes when the writing end is closed."""
        os.close(self.writing)
        self.writing = -1
        with os.fdopen(os.dup(self.reading), "rb") as file:
            return file.read()

    def close(self) -> None:
        for descriptor in (self.reading, self.writing):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_lines_are_written_in_order(make: Make, pipe: Pipe) -> None:
    lines = [b"%d\n" % number for number in range(10_000)]
    lines[5000:5000] = [b"x" * (3 * MAX_WRITE) + b"\n"]
    writer = make(pipe.writing)
    for line in lines:
        writer.put(line)
    assert pipe.read(len(b"".join(lines))) == b"".join(lines)
    assert writer.lost == 0


def test_lines_of_several_threads_are_complete(make: Make, pipe: Pipe) -> None:
    writer = make(pipe.writing)

    def put(letter: bytes) -> None:
        for number in range(500):
            writer.put(b"%b%d\n" % (letter, number))

    threads = [threading.Thread(target=put, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close(timeout=PATIENCE)
    lines = pipe.rest().splitlines()
    for letter in b"abc":
        assert [line[1:] for line in lines if line[0] == letter] == [b"%d" % n for n in range(500)]


def test_closing_waits_for_queued_lines(make: Make, pipe: Pipe) -> None:
    """All are written when `close` returns."""
    writer = make(pipe.writing)
    for _ in range(100):
        writer.put(b"line\n")
    assert writer.close(timeout=PATIENCE)
    assert pipe.rest() == b"line\n" * 100


def test_an_unread_pipe_blocks_no_caller(make: Make, pipe: Pipe) -> None:
    """Lines wait up to a limit, and more are counted as lost.

    Both are written when the pipe is read again.
    """
    filled = pipe.fill()
    counted: list[int] = []
    writer = make(pipe.writing, most=100)
    writer.on_lost = counted.append
    for number in range(20):
        writer.put(b"line %03d\n" % number)
    assert (writer.lost, counted) == (9, [1] * 9)
    waited = b"".join(b"line %03d\n" % number for number in range(11))
    reported = f"lost 9: {TOO_MANY}\n".encode()
    assert pipe.read(filled) == b"." * filled
    assert pipe.read(len(waited + reported)) == waited + reported
    writer.put(b"another\n")
    assert pipe.read(8) == b"another\n"
    assert writer.lost == 9


def test_an_unread_pipe_does_not_delay_closing(make: Make, pipe: Pipe) -> None:
    pipe.fill()
    writer = make(pipe.writing)
    writer.put(b"line\n")
    assert not writer.close(timeout=0.05)
    os.close(pipe.reading)
    pipe.reading = -1


def test_a_pipe_made_non_blocking_by_another_process_is_waited_for(
    make: Make, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, poll = threading.Event(), select.poll

    def wait() -> select.poll:
        waiting.set()
        return poll()

    monkeypatch.setattr(select, "poll", wait)
    os.set_blocking(pipe.writing, False)
    filled = pipe.fill()
    writer = make(pipe.writing)
    lines = [b"%d\n" % number * 1000 for number in range(100)]
    for line in lines:
        writer.put(line)
    assert waiting.wait(PATIENCE)
    assert pipe.read(filled) == b"." * filled
    assert pipe.read(len(b"".join(lines))) == b"".join(lines)
    assert writer.lost == 0


def test_a_closed_pipe_loses_lines(make: Make, pipe: Pipe) -> None:
    os.close(pipe.reading)
    pipe.reading = -1
    writer = make(pipe.writing)
    for _ in range(3):
        writer.put(b"line\n")
    assert writer.close(timeout=PATIENCE)
    assert writer.lost == 3


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


class Disk:
    """A file with a size limit, or a full disk, behind one descriptor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open("/dev/full", os.O_WRONLY)

    def have_room(self) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, self.descriptor)
        os.close(file)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "log")
    yield made
    os.close(made.descriptor)


def test_a_full_disk_loses_lines_and_the_loss_is_reported(disk: Disk, make: Make) -> None:
    lost = threading.Semaphore(0)
    writer = make(disk.descriptor)
    writer.on_lost = lambda count: [lost.release() for _ in range(count)]  # type: ignore[assignment,func-returns-value]
    for _ in range(3):
        writer.put(b"line\n")
        assert lost.acquire(timeout=PATIENCE)
    disk.have_room()
    writer.put(b"another\n")
    writer.put(b"and another\n")
    assert writer.close(timeout=PATIENCE)
    assert sorted(disk.path.read_bytes().splitlines()) == [
        b"and another",
        b"another",
        b"lost 3: no space left on device",
    ]
    assert writer.lost == 3


def test_a_loss_is_reported_without_another_line(
    disk: Disk, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.01)
    writer = make(disk.descriptor)
    lost = threading.Event()
    writer.on_lost = lambda _: lost.set()
    writer.put(b"line\n")
    assert lost.wait(PATIENCE)
    disk.have_room()
    eventually(lambda: disk.path.read_bytes() != b"")
    assert writer.close(timeout=PATIENCE)
    assert disk.path.read_bytes() == b"lost 1: no space left on device\n"
    assert writer.lost == 1


LIMIT = 1 << 30
"""Size limit of a file, in bytes. No other file of this process reaches it."""


@pytest.fixture
def room() -> Iterator[Callable[[bool], None]]:
    """Allow files to grow beyond `LIMIT`, or forbid it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def have_room(there_is: bool) -> None:  # noqa: FBT001
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if there_is else LIMIT, hard))

    yield have_room
    have_room(True)


def test_a_cut_line_is_ended_before_the_next(
    make: Make, room: Callable[[bool], None], tmp_path: Path
) -> None:
    """A program that reads the log by lines loses that line only."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.lseek(descriptor, LIMIT - 12, os.SEEK_SET)
    room(False)
    writer = make(descriptor)
    writer.put(b"whole\n")
    eventually(lambda: path.stat().st_size == LIMIT - 6)
    for _ in range(2):
        writer.put(b"a line of more\n")
        eventually(lambda lost=writer.lost: writer.lost > lost)  # type: ignore[misc]
    room(True)
    writer.put(b"another\n")
    assert writer.close(timeout=PATIENCE)
    with path.open("rb") as file:
        file.seek(LIMIT - 12)
        assert file.read() == b"whole\na line\nanother\nlost 2: file too large\n"
    os.close(descriptor)


@pytest.mark.parametrize(
    ("left", "missing", "cut"),
    [(0, 0, False), (1, 1, True), (4, 1, False), (5, 2, True), (7, 2, False), (9, 3, False), (10, 3, True)],
)
def test_lost_lines_are_counted(left: int, missing: int, *, cut: bool) -> None:
    """The rest of a cut line counts for none."""
    assert module._missing([b"a\n", b"bb\n", b"ccc\n"], left) == (missing, cut)


def test_a_line_lost_while_counting_is_counted(make: Make, pipe: Pipe) -> None:
    """A destructor may log at any point."""
    writer = make(pipe.writing, most=10)
    counted: list[int] = []

    def count(number: int) -> None:
        counted.append(number)
        if len(counted) < 3:
            writer.put(b"more than there is room for\n")

    writer.on_lost = count
    writer.put(b"more than there is room for\n")
    assert (writer.lost, counted) == (3, [1, 1, 1])
