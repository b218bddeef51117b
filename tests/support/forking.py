"""The command line without the half second of its imports.

A process that has imported it once waits for orders and forks: each fork is a process of its own, with its
own descriptors, environment and session, and runs the same `main` up to the interpreter's own end.
"""

import asyncio
import atexit
import contextlib
import functools
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

LIMIT = 1 << 17
"""Bytes of one order: its arguments and environment."""

RESOURCE_WARNINGS = "default::ResourceWarning"
"""The only value of PYTHONWARNINGS that a fork can be given."""

NEEDS_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "SSL_")
"""How the names of the variables begin that are read at the start or at an import."""


def can_fork(env: Mapping[str, str]) -> bool:
    """Whether a process with these variables besides ours may be a fork."""
    return all(
        not name.startswith(NEEDS_START) or (name, value) == ("PYTHONWARNINGS", RESOURCE_WARNINGS)
        for name, value in env.items()
    )


class ForkedProcess:
    """A fork, as `asyncio.subprocess.Process` shows one."""

    def __init__(
        self,
        orders: socket.socket,
        pid: int,
        stdin: asyncio.StreamWriter,
        outputs: Sequence[tuple[asyncio.StreamReader, asyncio.BaseTransport]],
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = stdin
        (self.stdout, _), (self.stderr, _) = outputs
        self._reading = [transport for _, transport in outputs]
        self._orders = orders
        self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> int:
        self.returncode = int(await asyncio.get_running_loop().sock_recv(self._orders, LIMIT))
        self._orders.close()
        return self.returncode

    async def wait(self) -> int:
        """Wait for its exit code; a signal's number is negative."""
        return await asyncio.shield(self._ending)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def close(self) -> None:
        """Let go of its pipes, whoever else may hold their other ends."""
        self.stdin.close()
        for transport in self._reading:
            transport.close()


async def fork(arguments: Sequence[str], env: Mapping[str, str], *, limit: int) -> ForkedProcess:
    """Run `sse-broadcast` with these arguments and exactly these variables.

    `limit` is the bytes of its output that are kept until they are read.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    pipes = [os.pipe(), os.pipe(), os.pipe()]
    given = [pipes[0][0], pipes[1][1], pipes[2][1]]
    kept = [pipes[0][1], pipes[1][0], pipes[2][0]]
    order = json.dumps({"arguments": arguments, "env": dict(env), "directory": str(Path.cwd())})
    socket.send_fds(_template(), [order.encode()], [*given, theirs.fileno()])
    for descriptor in given:
        os.close(descriptor)
    theirs.close()
    pid = int(await asyncio.get_running_loop().sock_recv(ours, LIMIT))
    stdin = await _writer(kept[0])
    return ForkedProcess(ours, pid, stdin, [await _reader(each, limit) for each in kept[1:]])


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(descriptor, "wb", buffering=0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _reader(descriptor: int, limit: int) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    reader = asyncio.StreamReader(limit=limit)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    return reader, transport


@functools.cache
def _template() -> socket.socket:
    """Start the process that forks, once per run of the tests. It ends when we do, however that is."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main({theirs.fileno()})"],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# The process that forks.


class Template:
    """Takes orders from a socket, forks for each, and says there how the fork ended."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._selector = selectors.DefaultSelector()
        self._selector.register(orders, selectors.EVENT_READ)

    def serve(self) -> None:
        """Return in each fork, ready to run, and nowhere else."""
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._reap(key.fd, *key.data)
                elif self._fork():
                    return

    def _fork(self) -> bool:
        order, descriptors, _, _ = socket.recv_fds(self._orders, LIMIT, 4)
        if not order:
            self._end()
        *streams, told = descriptors
        pid = os.fork()
        if pid == 0:
            # Or these would close others of their numbers when they are collected.
            self._orders.detach()
            self._selector.close()
            become(order, streams)
            return True
        for stream in streams:
            os.close(stream)
        os.write(told, b"%d" % pid)
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, told))
        return False

    def _reap(self, descriptor: int, pid: int, told: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # a test that has failed may not wait for it
            os.write(told, b"%d" % os.waitstatus_to_exitcode(status))
        os.close(told)

    def _end(self) -> NoReturn:
        """Kill what still runs: the tests are gone."""
        for key in self._selector.get_map().values():
            if key.data is not None:
                os.kill(key.data[0], signal.SIGKILL)
        os._exit(0)


def become(order: bytes, streams: Sequence[int]) -> None:
    """Make of a fork what a shell would have started. `streams` are its 0, 1 and 2."""
    told = json.loads(order)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(told["env"])
    os.chdir(told["directory"])
    if "PYTHONWARNINGS" in told["env"]:
        warnings.simplefilter("default", ResourceWarning)
    sys.argv = ["sse-broadcast", *told["arguments"]]


def main(descriptor: int) -> None:
    """Take orders from a socket. In each fork, run the command line."""
    from sse_broadcast import cli  # noqa: PLC0415 - not in the tests' own process

    # Or each fork would collect, and so copy, all of this at its end: a tenth of a second.
    gc.collect()
    gc.freeze()
    Template(socket.socket(fileno=descriptor)).serve()
    cli.main()
