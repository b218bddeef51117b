"""Inherited sockets: listening sockets that a supervisor opened and passes to us (sd_listen_fds(3)).

They stay open while one process stops and the next one starts, so that no client is refused in between.
"""

import itertools
import os
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import msgspec

from sse_broadcast.config.schema import Config, ListenerRule
from sse_broadcast.errors import ListenError
from sse_broadcast.unix_address import UNIX_PREFIX

FIRST_DESCRIPTOR = 3
"""The first inherited descriptor (SD_LISTEN_FDS_START)."""

HANDED_DOWN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

MAX_COUNT_DIGITS = 10
"""Numbers with this many digits are not numbers of descriptors."""

FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket, and its name at the supervisor, or ""."""

    name: str
    sock: socket.socket

    def __str__(self) -> str:
        host, port = self.address
        return f"{self.name!r} ({host if port is None else f'{host} port {port}'})"

    @property
    def address(self) -> tuple[str, int | None]:
        """The address in the form of a `ListenerRule`: a host and a port, or `unix:` and a path.

        The path of an abstract UNIX socket starts with `@`, as in systemd's units.
        """
        name = self.sock.getsockname()
        if self.sock.family != socket.AF_UNIX:
            return name[0], name[1]
        return UNIX_PREFIX + (f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else name), None


def take_sockets(environ: MutableMapping[str, str]) -> list[InheritedSocket]:
    """Return the sockets that this process inherited, in order, and remove their variables.

    Raises `ListenError` for a descriptor that is not a listening stream socket.
    """
    pid, count, names = (environ.pop(name, "") for name in HANDED_DOWN)
    if pid != str(os.getpid()):
        return []  # the variables were meant for the parent process
    if not (count.isascii() and count.isdecimal() and len(count) < MAX_COUNT_DIGITS):
        raise ListenError(f"LISTEN_FDS: {count[:80]!r} is not a number")
    called = itertools.chain(names.split(":"), itertools.repeat(""))
    places = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    return [InheritedSocket(name, _taken(place)) for place, name in zip(places, called, strict=False)]


def _taken(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        said = (error.strerror or "").lower()
        raise ListenError(f"LISTEN_FDS: descriptor {descriptor} cannot be used: {said}") from None
    if not listens or sock.type != socket.SOCK_STREAM or sock.family not in FAMILIES:
        sock.close()
        raise ListenError(f"LISTEN_FDS: descriptor {descriptor} is not a listening stream socket")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def matched(
    rules: Sequence[ListenerRule], inherited: Sequence[InheritedSocket]
) -> list[tuple[ListenerRule, InheritedSocket]]:
    """Return each inherited socket with the listener whose settings apply to it.

    Sockets go to the listener of their name, which may get several. The others go to the listeners without a
    name, in order. Raises `ListenError` for a socket or a listener that is left over.
    """
    named = {rule.name: rule for rule in rules if rule.name}
    pairs = [(named[each.name], each) for each in inherited if each.name in named]
    found = {rule.name for rule, _ in pairs}
    if missing := [name for name in named if name not in found]:
        raise ListenError(f"[[listener]]: {missing[0]!r}: no socket of this name was inherited")
    others = [each for each in inherited if each.name not in named]
    unnamed = [rule for rule in rules if not rule.name]
    if len(others) > len(unnamed):
        raise ListenError(f"LISTEN_FDS: socket {others[len(unnamed)]}: there is no listener for it")
    if len(unnamed) > len(others):
        raise ListenError(f"[[listener]]: {unnamed[len(others)].host!r}: no socket was inherited for it")
    return [*pairs, *zip(unnamed, others, strict=True)]


def bind_to_inherited(
    config: Config, inherited: Sequence[InheritedSocket]
) -> tuple[Config, list[socket.socket | None]]:
    """Return the configuration with the addresses of the inherited sockets, and the socket of each listener.

    Without inherited sockets the configuration is unchanged. The supervisor decides address, mode and owner
    of a socket, so those settings are ignored. Raises `ListenError`.
    """
    if not inherited:
        return config, [None] * len(config.listeners)
    pairs = matched(config.listeners, inherited)
    rules = tuple(_moved(rule, each) for rule, each in pairs)
    return msgspec.structs.replace(config, listener=rules), [each.sock for _, each in pairs]


def _moved(rule: ListenerRule, inherited: InheritedSocket) -> ListenerRule:
    host, port = inherited.address
    return msgspec.structs.replace(rule, host=host, port=port or 0, mode=None, owner=None, name="")
