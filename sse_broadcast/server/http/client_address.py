"""Client address: the address of a client, also behind trusted proxies, and its key for limits."""

import functools
import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Iterable, Mapping

from aiohttp import hdrs, web

from sse_broadcast.config.schema import Config, ProxyHeader

logger = logging.getLogger("sse_broadcast.proxies")

SITE = 64
"""Bits of an IPv6 address that name a network. Its hosts choose the others freely (RFC 4291, 2.5.1)."""

UNIX_PROXY = "unix"
"""The name for clients of UNIX sockets in `trusted_proxies`."""

HOPS = 32
"""Maximum number of proxies in a header. Addresses before them are not read."""

LONGEST_NODE = 128
"""Maximum characters of an address in a header."""

FORWARDING_HEADERS = (hdrs.X_FORWARDED_FOR, hdrs.FORWARDED)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::[\w.-]{1,64})?|([0-9A-Fa-f:.]{2,45})", re.ASCII
)
"""An address in a header, with or without a port."""

_PAIR = re.compile(r"""[ \t]*([\w!#$%&'*+.^`|~-]+)=("(?:[^"\\]|\\.)*"|[^\s",;=\\]+)[ \t]*""", re.ASCII)
"""A pair of a `Forwarded` element (RFC 7239, 4). Brackets and colons are accepted without quotes too."""


def key(host: str | None) -> str | None:
    """Return the key that limits count an address by, or None if they do not count it.

    An IPv4 address is its own key, also when written as IPv6 (`::ffff:192.0.2.1`). An IPv6 address has its
    /64 network as key (`2001:db8::/64`). Loopback addresses and texts that are not addresses have none.
    """
    return None if host is None else _key(host)


def is_loopback(host: str) -> bool:
    """Return whether a text is a loopback address."""
    address = _address(host)
    return address is not None and address.is_loopback


@functools.lru_cache(maxsize=16_384)
def _key(host: str) -> str | None:
    address = _address(host)
    if address is None or address.is_loopback:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((int(address), SITE), strict=False))


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class Proxies:
    """The proxies that are trusted to report the addresses of their clients."""

    # A proxy appends its peer's address to the header, and keeps what stood before, which the client may
    # have invented. So the list is read from its end: each address was written by the proxy after it, and
    # the first one that is not a trusted proxy is the client. Only `proxy_header` is trusted: proxies pass
    # other headers on as the client sent them.

    def __init__(self, config: Config) -> None:
        proxies = config.trusted_proxies
        self._unix = UNIX_PROXY in proxies
        self._networks = [ipaddress.ip_network(proxy) for proxy in proxies if proxy != UNIX_PROXY]
        self._header = config.proxy_header
        self._said = _SAID[config.proxy_header]
        # Without these limits a proxy that is not trusted does no harm, and no warning is needed.
        self._unwarned = bool(config.publish_rate or config.max_connections_per_address)
        self._any = bool(proxies)
        self._look_up = functools.lru_cache(maxsize=16_384)(self._is_named)
        self._remembered = functools.lru_cache(maxsize=4096)(self._first_client)

    def client(self, request: web.Request) -> str | None:
        """Return the client's address, or None for a UNIX socket without a trusted proxy.

        It is the peer's own address if the peer is not trusted. If all addresses are trusted proxies, it is
        the first. An address that cannot be read or names nobody (`unknown`, `_hidden`) ends the list: the
        result is then the last proxy before it.
        """
        peer = request.remote or None
        trusted = self._any and self._believes(request, peer)
        if self._unwarned and (hdrs.X_FORWARDED_FOR in request.headers or hdrs.FORWARDED in request.headers):
            self._warn(request, trusted=trusted)
        return self._behind(request, peer) if trusted else peer

    def limit_key(self, request: web.Request) -> str | None:
        """Return what limits count the client of a request by, as `key` does."""
        host = self.client(request)
        return None if host is None else _key(host)

    def behind(self, request: web.Request) -> str | None:
        """Return the address of a client behind a trusted proxy, or None for any other client."""
        client = self.client(request)
        return None if not self._any or client == (request.remote or None) else client

    def trusts(self, host: str) -> bool:
        """Return whether an address is a trusted proxy's."""
        return self._any and self._look_up(host)

    def _behind(self, request: web.Request, proxy: str | None) -> str | None:
        """Return the client that a trusted proxy reports."""
        written = ",".join(request.headers.getall(self._header, ()))
        # Only short headers are cached: a client can make its proxy send long ones, each different.
        find = self._remembered if len(written) <= LONGEST_NODE else self._first_client
        return find(written, proxy)

    def _first_client(self, written: str, proxy: str | None) -> str | None:
        client = proxy
        for said in self._said(written):
            node = _node(said)
            if node is None:
                return client
            client = node
            if not self._look_up(client):
                return client
        return client

    def _believes(self, request: web.Request, peer: str | None) -> bool:
        if peer is not None and self._look_up(peer):
            return True
        return self._unix and _by_unix_socket(request)

    def _is_named(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def _warn(self, request: web.Request, *, trusted: bool) -> None:
        """Log once that a proxy is not trusted: limits count all its clients as one."""
        headers = request.headers
        if trusted and self._header in headers:
            return
        brought = next(header for header in FORWARDING_HEADERS if header in headers)
        self._unwarned = False
        what = f"proxy_header is {self._header}" if trusted else "trusted_proxies does not name it"
        logger.warning(
            "a request from %(address)s has %(header)s, but %(setting)s: if that is a proxy, limits count all"
            " its clients as one",
            {"address": request.remote or "a UNIX socket", "header": str(brought), "setting": what},
        )


def _by_unix_socket(request: web.Request) -> bool:
    # Not by the missing address alone: a TCP peer that has already left has none either.
    sock = request.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def _listed(written: str) -> Iterable[str]:
    """Return the members of a header's list from its end. Those beyond `HOPS` stay one unreadable member."""
    return reversed(written.rsplit(",", HOPS))


def _forwarded_for(written: str) -> Iterable[str | None]:
    return (member.strip(" \t") for member in _listed(written))


def _forwarded(written: str) -> Iterable[str | None]:
    # Not `request.forwarded`, which reads from the start: a quote that a client opens would close at the
    # first quote of its proxy, and the client's text would appear as the proxy's.
    return map(_for, _listed(written))


def _for(element: str) -> str | None:
    """Return the `for` of a `Forwarded` element, or None if it is malformed or missing."""
    pairs = [_PAIR.fullmatch(pair) for pair in element.split(";")]
    said = [pair[2].strip('"') for pair in pairs if pair is not None and pair[1].lower() == "for"]
    return said[0] if None not in pairs and len(said) == 1 else None


_SAID: Mapping[ProxyHeader, Callable[[str], Iterable[str | None]]] = {
    ProxyHeader.X_FORWARDED_FOR: _forwarded_for,
    ProxyHeader.FORWARDED: _forwarded,
}


def _node(said: str | None) -> str | None:
    return None if said is None or len(said) > LONGEST_NODE else _read(said)


@functools.lru_cache(maxsize=16_384)
def _read(said: str) -> str | None:
    found = _NODE.fullmatch(said)
    address = None if found is None else _address(found[1] or found[2] or found[3])
    return None if address is None else str(address)


@functools.lru_cache(maxsize=256)
def is_loopback_name(name: str) -> bool:
    """Return whether a host name means this machine: RFC 6761 reserves `localhost` and all names below it."""
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name.strip("[]"))
