"""Whose request it is: the client's address through trusted proxies, and what limits count it by."""

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
"""Bits of an IPv6 address that are a site's; its hosts choose the others as they like (RFC 4291, 2.5.1)."""

UNIX_PROXY = "unix"
"""What `trusted_proxies` calls whoever comes by a UNIX socket."""

HOPS = 32
"""Proxies that a request may have come through. Beyond, a header is not read."""

LONGEST_NODE = 128
"""Characters of an address as a proxy writes it."""

FORWARDING_HEADERS = (hdrs.X_FORWARDED_FOR, hdrs.FORWARDED)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::[\w.-]{1,64})?|([0-9A-Fa-f:.]{2,45})", re.ASCII
)
"""An address as proxies write it, maybe with a port."""

_PAIR = re.compile(r"""[ \t]*([\w!#$%&'*+.^`|~-]+)=("(?:[^"\\]|\\.)*"|[^\s",;=\\]+)[ \t]*""", re.ASCII)
"""A pair of an element of `Forwarded` (RFC 7239, 4); brackets and colons are taken without quotes too."""


def key(host: str | None) -> str | None:
    """Return what limits count this address by, or None when they do not count it.

    IPv4 is itself, also when it comes as IPv6 (`::ffff:192.0.2.1`); other IPv6 is its /64, as
    `2001:db8::/64`. Loopback is not counted, nor is what is no address, such as the peer of a UNIX socket.
    """
    return None if host is None else _key(host)


def is_loopback(host: str) -> bool:
    """Whether this is an address of the loopback; what is no address is none of it."""
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
    """The proxies that are believed about who is behind them; nobody else is.

    A proxy appends the address it was reached from, and passes on what stood before it, which its client
    may have made up. So the list is read from its end: each address was written by the one behind it, and
    the first that is no trusted proxy is the client's. Only the header is believed that the proxies are
    said to write (`proxy_header`): any other comes from the client as it is.
    """

    def __init__(self, config: Config) -> None:
        proxies = config.trusted_proxies
        self._unix = UNIX_PROXY in proxies
        self._networks = [ipaddress.ip_network(proxy) for proxy in proxies if proxy != UNIX_PROXY]
        self._header = config.proxy_header
        self._said = _SAID[config.proxy_header]
        # What there is to warn of: addresses of proxies that are counted as if they were clients'.
        self._unwarned = bool(config.publish_rate or config.max_connections_per_address)
        self._any = bool(proxies)
        self._look_up = functools.lru_cache(maxsize=16_384)(self._is_named)
        self._remembered = functools.lru_cache(maxsize=4096)(self._first_client)

    def client(self, request: web.Request) -> str | None:
        """Return the client's address, or None of a UNIX socket's that no proxy speaks for.

        It is the peer's own if that is not trusted. Of proxies that are all trusted it is the first. What
        cannot be read, or names nobody (`unknown`, `_hidden`), ends the list: the address is then that of
        the last proxy that could be told.
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
        """Return the address of a client for whom a proxy speaks; None of any other."""
        client = self.client(request)
        return None if not self._any or client == (request.remote or None) else client

    def trusts(self, host: str) -> bool:
        """Whether this address is one of the proxies'."""
        return self._any and self._look_up(host)

    def _behind(self, request: web.Request, proxy: str | None) -> str | None:
        """Return whom a proxy speaks for."""
        written = ",".join(request.headers.getall(self._header, ()))
        # Those of one address at most: a client can have its proxy write longer ones, each of them new.
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
        """Tell, once, of a proxy that is not believed: all of its clients have its own address."""
        headers = request.headers
        if trusted and self._header in headers:
            return
        brought = next(header for header in FORWARDING_HEADERS if header in headers)
        self._unwarned = False
        what = f"proxy_header is {self._header}" if trusted else "trusted_proxies does not name it"
        logger.warning(
            "a request from %(address)s has %(header)s, and %(setting)s: if that is a proxy, limits cannot"
            " tell its clients apart",
            {"address": request.remote or "a UNIX socket", "header": str(brought), "setting": what},
        )


def _by_unix_socket(request: web.Request) -> bool:
    # A peer without an address may also be one that has gone already.
    sock = request.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def _listed(written: str) -> Iterable[str]:
    """Return the members of a header's list from its end; what lies beyond `HOPS` is one, and unreadable."""
    return reversed(written.rsplit(",", HOPS))


def _forwarded_for(written: str) -> Iterable[str | None]:
    return (member.strip(" \t") for member in _listed(written))


def _forwarded(written: str) -> Iterable[str | None]:
    # Not by `request.forwarded`, which reads from the beginning: a quote that a client opens may close
    # at the first that its proxy writes, and what the client said would stand in the proxy's place.
    return map(_for, _listed(written))


def _for(element: str) -> str | None:
    """Return the `for` of an element of `Forwarded`; None if it is not well-formed, or has none."""
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
    """Whether only this machine is called so: RFC 6761 keeps `localhost` and all below it for that."""
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name.strip("[]"))
