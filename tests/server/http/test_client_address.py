"""Client address: of requests through trusted proxies and through others."""

import asyncio
import ipaddress
import logging
import socket
import types
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from sse_broadcast.config.schema import Config, ProxyHeader
from sse_broadcast.server.http.client_address import HOPS, Proxies, key
from tests.conftest import Caplog
from tests.support.sockets import RawClient

PROXY = "10.0.0.1"
TRUSTED = ("10.0.0.0/8", "2001:db8:ffff::/48")
XFF = "X-Forwarded-For"


def proxies(*trusted: str, **settings: Any) -> Proxies:
    return Proxies(Config(trusted_proxies=trusted, **settings))


class Tcp(asyncio.Transport):
    """The connection of a peer, in any state."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return types.SimpleNamespace(family=socket.AF_INET) if name == "socket" else default


def request(remote: str, *headers: tuple[str, str]) -> web.Request:
    """Return a request of a peer. A header may come more than once."""
    made = make_mocked_request("POST", "/send", headers=CIMultiDict(headers), transport=Tcp())
    return made.clone(remote=remote)


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("127.255.0.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", None),
        ("/run/client.sock", None),
        ("localhost", None),
        (None, None),
    ],
)
def test_connections_are_counted_by_this_key(host: str | None, counted: str | None) -> None:
    """The key is an IPv4 address or an IPv6 network. Loopback and malformed addresses have none."""
    assert key(host) == counted


@pytest.mark.parametrize("remote", ["192.0.2.1", "127.0.0.1", "2001:db8::1"])
@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8", "unix")])
def test_headers_of_an_untrusted_peer_are_ignored(remote: str, trusted: tuple[str, ...]) -> None:
    said = request(remote, (XFF, "203.0.113.9"), ("Forwarded", "for=203.0.113.9"))
    for header in ProxyHeader:
        assert proxies(*trusted, proxy_header=header).client(said) == remote


FORWARDED_FOR: list[tuple[list[str], str]] = [
    ([], PROXY),
    (["203.0.113.9"], "203.0.113.9"),
    (["  203.0.113.9\t"], "203.0.113.9"),
    (["203.0.113.9:4711"], "203.0.113.9"),
    (["2001:db8::9"], "2001:db8::9"),
    (["[2001:DB8::9]"], "2001:db8::9"),
    (["[2001:db8::9]:4711"], "2001:db8::9"),
    (["::ffff:203.0.113.9"], "203.0.113.9"),
    # From the right, to the first address that is not trusted.
    (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
    (["198.51.100.1,203.0.113.9,10.0.0.3, 10.0.0.2"], "203.0.113.9"),
    (["198.51.100.1", "203.0.113.9, 10.0.0.3", "10.0.0.2"], "203.0.113.9"),
    (["203.0.113.9, 2001:db8:ffff::2"], "203.0.113.9"),
    # All are proxies: the first one.
    (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    # An entry that is no address ends the list. Entries before it may be forged.
    ([""], PROXY),
    (["unknown"], PROXY),
    (["203.0.113.9, unknown"], PROXY),
    (["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
    (["203.0.113.9, , 10.0.0.2"], "10.0.0.2"),
    (["203.0.113.9, 10.0.0.2,"], PROXY),
    (["203.0.113.9, 10.0.0.02"], PROXY),
    (["203.0.113.9 10.0.0.2"], PROXY),
    (["fe80::9%eth0"], PROXY),
    (["203.0.113.999"], PROXY),
    (["[203.0.113.9"], PROXY),
    (["\u0662.0.0.1"], PROXY),
    (["1" * 8000], PROXY),
    ([":" * 45], PROXY),
]


@pytest.mark.parametrize(("lines", "client"), FORWARDED_FOR, ids=range(len(FORWARDED_FOR)))
def test_a_trusted_proxy_names_its_client_in_x_forwarded_for(lines: list[str], client: str) -> None:
    said = request(PROXY, *((XFF, line) for line in lines))
    assert proxies(*TRUSTED).client(said) == client


def test_a_parsed_header_is_cached_per_proxy_if_it_is_short() -> None:
    """Another proxy's header is parsed again. Long headers fill no memory."""
    known = proxies(*TRUSTED)
    for _ in range(2):
        assert known.client(request(PROXY, (XFF, "unknown"))) == PROXY
        assert known.client(request("10.0.0.2", (XFF, "unknown"))) == "10.0.0.2"
    assert known._remembered.cache_info()[:2] == (2, 2)
    assert known.client(request(PROXY, (XFF, f"{'1' * 200}, 203.0.113.9"))) == "203.0.113.9"
    assert known._remembered.cache_info().currsize == 2


FORWARDED: list[tuple[list[str], str]] = [
    ([], PROXY),
    (["for=203.0.113.9"], "203.0.113.9"),
    (["For=203.0.113.9;Proto=https ; by=10.0.0.1"], "203.0.113.9"),
    (['proto=https; for="203.0.113.9:4711"'], "203.0.113.9"),
    (['for="[2001:db8::9]"'], "2001:db8::9"),
    (['for="[2001:db8::9]:4711"'], "2001:db8::9"),
    (["for=[2001:db8::9]:4711"], "2001:db8::9"),
    (['for="[2001:db8::9]:_port"'], "2001:db8::9"),
    (["for=198.51.100.1, for=203.0.113.9, for=10.0.0.2;host=x"], "203.0.113.9"),
    (["for=198.51.100.1", "for=203.0.113.9"], "203.0.113.9"),
    (["for=10.0.0.3, for=10.0.0.2"], "10.0.0.3"),
    ([""], PROXY),
    (["for=203.0.113.9;for=203.0.113.8"], PROXY),
    (["by=203.0.113.9"], PROXY),
    (["for=unknown"], PROXY),
    (["for=203.0.113.9, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
    (["203.0.113.9"], PROXY),
    (['for="203.0.113.9'], PROXY),
    (["for=203.0.113.9;"], PROXY),
    (["for=203.0.113.9 proto=https"], PROXY),
    (['for=203.0.113.9;host="a'], PROXY),
    (['for="203.0.113.9\\"'], PROXY),
]


@pytest.mark.parametrize(("lines", "client"), FORWARDED, ids=range(len(FORWARDED)))
def test_a_trusted_proxy_names_its_client_in_forwarded(lines: list[str], client: str) -> None:
    """This holds if Forwarded (RFC 7239) is the configured header.

    Quotes are optional: some proxies omit them.
    """
    said = request(PROXY, *(("Forwarded", line) for line in lines))
    assert proxies(*TRUSTED, proxy_header=ProxyHeader.FORWARDED).client(said) == client


def test_the_header_that_is_not_configured_is_ignored() -> None:
    """Proxies pass it on as the client sent it."""
    said = request(PROXY, (XFF, "203.0.113.9"), ("Forwarded", "for=198.51.100.1"))
    assert proxies(*TRUSTED).client(said) == "203.0.113.9"
    assert proxies(*TRUSTED, proxy_header=ProxyHeader.FORWARDED).client(said) == "198.51.100.1"
    assert proxies(*TRUSTED).client(request(PROXY, ("Forwarded", "for=198.51.100.1"))) == PROXY


def test_a_chain_of_proxies_is_limited_in_length() -> None:
    """A longer list is read up to the limit."""
    row = ", ".join(["10.0.0.2"] * (HOPS - 1))
    assert proxies(*TRUSTED).client(request(PROXY, (XFF, f"203.0.113.9, {row}"))) == "203.0.113.9"
    long = ", ".join(["203.0.113.9"] + ["10.0.0.3"] * 5000 + ["10.0.0.2"] * HOPS)
    assert proxies(*TRUSTED).client(request(PROXY, (XFF, long))) == "10.0.0.2"


@pytest.mark.parametrize(
    ("remote", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8:ffff:1::1", True),
        ("11.0.0.1", False),
        ("2001:db8::1", False),
        ("10.1.2.3.sock", False),
        ("", False),
    ],
)
def test_an_address_is_trusted_if_a_network_has_it(remote: str, trusted: bool) -> None:  # noqa: FBT001
    assert proxies(*TRUSTED).trusts(remote) is trusted
    assert proxies().trusts(remote) is False
    client = proxies(*TRUSTED).client(request(remote, (XFF, "203.0.113.9")))
    assert client == ("203.0.113.9" if trusted else remote or None)


async def answer_over(path: Path, believing: Proxies, *headers: str, own: Path | None = None) -> bytes:
    """Request the client address over a UNIX socket, optionally from a socket with a path of its own."""

    async def who(asking: web.Request) -> web.Response:
        return web.Response(text=str(believing.client(asking)))

    app = web.Application()
    app.router.add_get("/", who)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    sock = socket.socket(socket.AF_UNIX)
    if own is not None:
        sock.bind(str(own))
    sock.connect(str(path))
    sock.setblocking(False)
    client = RawClient(sock)
    lines = "".join(f"{header}\r\n" for header in headers)
    status, body = await client.ask("GET", "/", headers=lines)
    client.close()
    await runner.cleanup()
    assert status == 200
    return body


@pytest.mark.both_loops
async def test_a_client_of_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    """If UNIX sockets are trusted, the proxy names the address."""
    path, header = tmp_path / "server.sock", f"{XFF}: 203.0.113.9"
    assert await answer_over(path, proxies("10.0.0.0/8"), header) == b"None"
    assert await answer_over(path, proxies("unix")) == b"None"
    assert await answer_over(path, proxies("unix"), header) == b"203.0.113.9"
    assert await answer_over(path, proxies("unix"), f"{XFF}: unix:") == b"None"
    assert await answer_over(path, proxies("unix"), header, own=tmp_path / "own") == b"203.0.113.9"


@pytest.mark.both_loops
async def test_a_client_of_tcp_is_not_one_of_a_unix_socket() -> None:
    assert proxies("unix").client(request("", (XFF, "203.0.113.9"))) is None
    assert proxies("unix").client(request("192.0.2.1", (XFF, "203.0.113.9"))) == "192.0.2.1"


# Forged headers behind a proxy that adds its own entry.

TEXT = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0"), max_size=80)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(
    lambda address: not proxies(*TRUSTED).trusts(str(address))
)
NODES = st.one_of(
    st.sampled_from(["10.0.0.2", "203.0.113.9", '"[2001:db8::9]:80"', "unknown", "_x", '"', "\\", ""]),
    ADDRESSES.map(str),
    ADDRESSES.map(lambda address: f'"[{address}]:80"'),
)
PAIRS = st.tuples(st.sampled_from(["for=", "For=", "by=", "x=", 'x="', "", '"']), NODES).map("".join)
CRAFTED = st.tuples(
    st.lists(st.tuples(PAIRS, st.sampled_from([",", ", ", ";", '"', "\\", " "])).map("".join)), PAIRS
).map(lambda parts: "".join(parts[0]) + parts[1])
HOSTILE = st.lists(
    st.tuples(st.sampled_from(["x-forwarded-for", "forwarded"]), st.one_of(TEXT, CRAFTED)), max_size=4
)
Headers = list[tuple[str, str]]


def appended(sent: Headers, name: str, member: str, *, own_line: bool) -> Headers:
    """Return the headers as a proxy passes them on, with its own entry on the last line or on a new one."""
    at = [index for index, (header, _) in enumerate(sent) if header == name]
    if own_line or not at:
        return [*sent, (name, member)]
    passed = list(sent)
    passed[at[-1]] = (name, f"{passed[at[-1]][1]}, {member}")
    return passed


def canonical(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@given(sent=HOSTILE, attacker=ADDRESSES, own_line=st.booleans())
def test_no_header_gives_a_client_another_address(
    sent: Headers,
    attacker: ipaddress.IPv4Address | ipaddress.IPv6Address,
    own_line: bool,  # noqa: FBT001
) -> None:
    """The trusted proxy appends to X-Forwarded-For. The client may send any, and Forwarded too."""
    passed = appended(sent, "x-forwarded-for", str(attacker), own_line=own_line)
    assert proxies(*TRUSTED).client(request(PROXY, *passed)) == canonical(attacker)


@given(
    sent=HOSTILE,
    attacker=ADDRESSES,
    own_line=st.booleans(),
    more=st.sampled_from(["", ";proto=https", ';host="a:1"']),
)
@example(
    sent=[("forwarded", 'for=203.0.113.9;x="')],
    attacker=ipaddress.IPv6Address("2001:db8::9"),
    own_line=False,
    more="",
)
@example(
    sent=[("forwarded", 'for=203.0.113.9, for="x\\')],
    attacker=ipaddress.IPv6Address("2001:db8::9"),
    own_line=False,
    more=';host="a:1"',
)
def test_no_header_gives_a_client_another_address_in_forwarded(
    sent: Headers,
    attacker: ipaddress.IPv4Address | ipaddress.IPv6Address,
    own_line: bool,  # noqa: FBT001
    more: str,
) -> None:
    """The trusted proxy appends to Forwarded. An opened quote of the client does not swallow its entry."""
    node = str(attacker) if attacker.version == 4 else f'"[{attacker}]:4711"'
    passed = appended(sent, "forwarded", f"for={node}{more}", own_line=own_line)
    believing = proxies(*TRUSTED, proxy_header=ProxyHeader.FORWARDED)
    assert believing.client(request(PROXY, *passed)) == canonical(attacker)


@given(sent=HOSTILE)
def test_no_header_raises_an_error(sent: Headers) -> None:
    """The trusted proxy adds no entry. The result is an address or none."""
    for header in ProxyHeader:
        client = proxies(*TRUSTED, proxy_header=header).client(request(PROXY, *sent))
        assert client is not None
        assert canonical(ipaddress.ip_address(client)) == client


# The warning.


@pytest.mark.parametrize(
    ("trusted", "remote", "header", "why"),
    [
        ((), "192.0.2.1", XFF, "trusted_proxies does not name it"),
        ((), "127.0.0.1", "Forwarded", "trusted_proxies does not name it"),
        ((), "", XFF, "trusted_proxies does not name it"),
        (("10.0.0.2",), "10.0.0.1", XFF, "trusted_proxies does not name it"),
        (("10.0.0.1",), "10.0.0.1", "Forwarded", "proxy_header is x-forwarded-for"),
    ],
)
def test_an_untrusted_proxy_is_logged_once(
    caplog: Caplog, trusted: tuple[str, ...], remote: str, header: str, why: str
) -> None:
    """The line has its address, the header and the setting to trust it, and nothing of the header's value."""
    believing = proxies(*trusted)
    for _ in range(3):
        believing.client(request(remote, (header, "203.0.113.9")))
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "sse_broadcast.proxies")
    assert record.getMessage() == (
        f"a request from {remote or 'a UNIX socket'} has {header}, but {why}:"
        " if that is a proxy, limits count all its clients as one"
    )


def test_no_warning_without_a_problem(caplog: Caplog) -> None:
    """There is no such header, the proxy is trusted, or no limit depends on the address."""
    said = (XFF, "203.0.113.9")
    proxies().client(request("192.0.2.1"))
    proxies("10.0.0.1").client(request("10.0.0.1", said, ("Forwarded", "for=203.0.113.9")))
    proxies(publish_rate=0, max_connections_per_address=0).client(request("192.0.2.1", said))
    assert not caplog.records
    proxies(publish_rate=0).client(request("192.0.2.1", said))
    proxies(max_connections_per_address=0).client(request("192.0.2.1", said))
    assert len(caplog.records) == 2
