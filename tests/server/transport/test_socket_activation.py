"""Socket activation: sockets from a supervisor, and their listeners."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from sse_broadcast.config.schema import Config, Endpoint, ListenerRule
from sse_broadcast.errors import ListenError
from sse_broadcast.server.runner import Server, needs_token
from sse_broadcast.server.transport import socket_activation
from sse_broadcast.server.transport.socket_activation import (
    InheritedSocket,
    bind_to_inherited,
    matched,
    take_sockets,
)
from tests.conftest import Patch, Program
from tests.support import process
from tests.support.certificates import write_certificate
from tests.support.process import Ended, Programs
from tests.support.sockets import RawClient
from tests.support.supervision import Supervisor, tcp_socket, unix_socket

programs = pytest.fixture(process.programs)

PID = str(os.getpid())


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[dict[str, InheritedSocket]]:
    """Return sockets of each family, by name."""
    with ExitStack() as stack:
        made = {
            "public": tcp_socket("0.0.0.0"),
            "local": tcp_socket("127.0.0.1"),
            "unix": unix_socket(tmp_path / "x.sock"),
        }
        yield {name: InheritedSocket(name, stack.enter_context(sock)) for name, sock in made.items()}


# Taking the sockets.


def test_sockets_of_another_process_are_not_taken() -> None:
    """A program that starts this one may have inherited them for itself."""
    for pid in ("", "1", PID + "0", "x"):
        environ = {"LISTEN_PID": pid, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "HOME": "/"}
        assert take_sockets(environ) == []
        assert environ == {"HOME": "/"}
    assert take_sockets({}) == []


def test_sockets_are_taken_in_order(sockets: dict[str, InheritedSocket], monkeypatch: Patch) -> None:
    """They have the names that were given, and child processes do not inherit them."""
    first = os.dup(sockets["local"].sock.fileno())
    assert os.dup(sockets["unix"].sock.fileno()) == first + 1
    monkeypatch.setattr(socket_activation, "FIRST_DESCRIPTOR", first)
    os.set_inheritable(first, True)
    environ = {"LISTEN_PID": PID, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web"}
    one, other = take_sockets(environ)
    assert environ == {}
    assert (one.name, other.name) == ("web", "")
    assert (one.address, other.address) == (sockets["local"].address, sockets["unix"].address)
    assert not one.sock.get_inheritable()
    assert not one.sock.getblocking()
    one.sock.close()
    other.sock.close()


@pytest.mark.parametrize("count", ["", "x", "-1", "1.0", "\u0661", "9" * 10, "9" * 80])
def test_a_malformed_number_is_reported(count: str) -> None:
    with pytest.raises(ListenError, match=rf"^LISTEN_FDS: '{re.escape(count)}' is not a number$"):
        take_sockets({"LISTEN_PID": PID, "LISTEN_FDS": count})


def test_a_number_beyond_the_open_descriptors_is_reported(monkeypatch: Patch) -> None:
    """The error has the first missing one, and no object was made for the others."""
    monkeypatch.setattr(socket_activation, "FIRST_DESCRIPTOR", 1_000_000)
    with pytest.raises(ListenError, match=r"^LISTEN_FDS: descriptor 1000000 cannot be used: "):
        take_sockets({"LISTEN_PID": PID, "LISTEN_FDS": "999999999"})


def test_a_descriptor_that_is_no_listening_socket_is_reported(monkeypatch: Patch, tmp_path: Path) -> None:
    """It is a file, a socket that does not listen, a datagram socket, or closed."""
    with ExitStack() as stack:
        file = stack.enter_context((tmp_path / "file").open("wb"))
        deaf = stack.enter_context(socket.socket())
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for descriptor, reason in (
            (file.fileno(), "cannot be used: socket operation on non-socket"),
            (os.dup(deaf.fileno()), "is not a listening stream socket"),
            (os.dup(datagrams.fileno()), "is not a listening stream socket"),
            (1 << 16, "cannot be used: bad file descriptor"),
        ):
            monkeypatch.setattr(socket_activation, "FIRST_DESCRIPTOR", descriptor)
            with pytest.raises(ListenError, match=f"^LISTEN_FDS: descriptor {descriptor} {reason}$"):
                take_sockets({"LISTEN_PID": PID, "LISTEN_FDS": "1"})


# Sockets and listeners.


def rule(name: str = "", host: str = "x", *endpoints: Endpoint) -> ListenerRule:
    return ListenerRule(host=host, name=name, endpoints=endpoints or tuple(Endpoint))


def test_a_socket_belongs_to_the_listener_of_its_name(sockets: dict[str, InheritedSocket]) -> None:
    """They come in any order, several for one. Sockets without a matching name go by order."""
    public, local, unix = sockets["public"], sockets["local"], sockets["unix"]
    named = rule("unix"), rule("public")
    assert matched(named, [public, unix]) == [(named[1], public), (named[0], unix)]
    twice = InheritedSocket("public", local.sock)
    assert matched(named, [public, unix, twice])[2] == (named[1], twice)
    first, second = rule(host="first"), rule(host="second")
    found = matched([first, named[0], second], [public, local, unix])
    assert found == [(named[0], unix), (first, public), (second, local)]


def test_a_socket_or_listener_without_the_other_is_reported(sockets: dict[str, InheritedSocket]) -> None:
    """Such a socket would be open to all, and such a listener would be unreachable."""
    public, local = sockets["public"], sockets["local"]
    port = local.sock.getsockname()[1]
    with pytest.raises(
        ListenError, match=rf"^LISTEN_FDS: socket 'local' \(127.0.0.1 port {port}\): there is no listener"
    ):
        matched([rule()], [public, local])
    with pytest.raises(ListenError, match=r"^\[\[listener\]\]: 'second': no socket was inherited for it$"):
        matched([rule(), rule(host="second")], [public])
    with pytest.raises(
        ListenError, match=r"^\[\[listener\]\]: 'admin': no socket of this name was inherited$"
    ):
        matched([rule("admin"), rule()], [public])


def test_a_listener_has_the_address_of_its_socket(
    sockets: dict[str, InheritedSocket], tmp_path: Path
) -> None:
    """Its configured address, mode and owner are ignored, its other settings apply."""
    written = ListenerRule(host="unix:/nowhere", mode="0600", owner="1:1", endpoints=(Endpoint.INSPECT,))
    for name, host, port in (
        ("public", "0.0.0.0", sockets["public"].sock.getsockname()[1]),
        ("unix", f"unix:{tmp_path}/x.sock", 0),
    ):
        config, (sock,) = bind_to_inherited(Config(listener=(written,)), [sockets[name]])
        assert sock is sockets[name].sock
        (moved,) = config.listeners
        assert moved == ListenerRule(host=host, port=port, endpoints=(Endpoint.INSPECT,))
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0sse-{PID}")
        abstract.listen()
        config, _ = bind_to_inherited(Config(), [InheritedSocket("", abstract)])
        assert config.listeners[0].host == f"unix:@sse-{PID}"


def test_a_listener_with_several_sockets_is_several_listeners(sockets: dict[str, InheritedSocket]) -> None:
    """They share their settings: for instance IPv4 and IPv6 of a host."""
    both = [sockets["public"], InheritedSocket("public", sockets["local"].sock)]
    config, socks = bind_to_inherited(Config(listener=(rule("public", "x", Endpoint.SUBSCRIBE),)), both)
    assert socks == [each.sock for each in both]
    assert [each.host for each in config.listeners] == ["0.0.0.0", "127.0.0.1"]
    assert {each.endpoints for each in config.listeners} == {(Endpoint.SUBSCRIBE,)}


def test_without_inherited_sockets_the_configured_addresses_apply() -> None:
    config = Config(port=9)
    assert bind_to_inherited(config, []) == (config, [None])


def test_a_listener_is_local_by_its_socket(sockets: dict[str, InheritedSocket]) -> None:
    """A configured loopback address makes a public socket no safer."""
    assert needs_token(bind_to_inherited(Config(host="127.0.0.1"), [sockets["public"]])[0])
    assert not needs_token(bind_to_inherited(Config(host="0.0.0.0"), [sockets["local"]])[0])
    assert not needs_token(bind_to_inherited(Config(host="0.0.0.0"), [sockets["unix"]])[0])
    assert Server(Config(), inherited=[sockets["public"]]).token is not None


# Serving.


async def ask(port: int, path: str) -> int:
    client = await RawClient.open(port)
    try:
        return (await client.ask("GET", path))[0]
    finally:
        client.close()


async def test_each_inherited_listener_has_its_endpoints(
    sockets: dict[str, InheritedSocket], tmp_path: Path
) -> None:
    """Access is the same as with any other socket."""
    config = Config(listener=(rule("public", "x", Endpoint.SUBSCRIBE), rule("unix", "y", Endpoint.INSPECT)))
    server = Server(config, inherited=[sockets["unix"], sockets["public"]])
    await server.start()
    port = sockets["public"].sock.getsockname()[1]
    assert server.urls == (f"unix:{tmp_path}/x.sock", f"http://0.0.0.0:{port}")
    assert await ask(port, "/status") == 404
    client = await RawClient.open_unix(f"{tmp_path}/x.sock")
    assert (await client.ask("GET", "/status"))[0] == 200
    client.close()
    await server.stop()
    assert (tmp_path / "x.sock").is_socket()


async def test_an_inherited_listener_with_a_certificate_speaks_tls(
    programs: Programs, program: Program, tmp_path: Path
) -> None:
    authenticator = trustme.CA()
    certificate, key = write_certificate(authenticator, tmp_path)
    authenticator.cert_pem.write_to_path(tmp_path / "ca.pem")
    with Supervisor(programs, tcp_socket()) as supervisor:
        server = await supervisor.start("--certificate", certificate, "--key", key)
        url = f"https://127.0.0.1:{supervisor.port}/readyz"
        curl = await programs.start(program("curl"), "-sS", "--cacert", str(tmp_path / "ca.pem"), url)
        assert await curl.ended() == Ended(0, b'{"status":"ready"}\n')
        server.send_signal(signal.SIGTERM)
        assert (await server.ended()).code == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_clients_are_not_refused_between_two_servers(programs: Programs, loop: str) -> None:
    """A client that connects in between waits for the next process, which has the same socket."""
    with Supervisor(programs, tcp_socket()) as supervisor:
        first = await supervisor.start("--event-loop", loop, "--port", "1", "--log-level", "warning")
        subscriber = await RawClient.open(supervisor.port)
        await subscriber.subscribe()
        first.send_signal(signal.SIGTERM)
        await subscriber.rest()
        ended = await first.ended()
        assert (ended.code, ended.err) == (0, b"")
        waiting = [await RawClient.open(supervisor.port) for _ in range(20)]
        for client in waiting:
            await client.request("GET", "/readyz")
        second = await supervisor.start("--event-loop", loop)
        assert [await client.answer() for client in waiting] == [(200, b'{"status":"ready"}\n')] * 20
        second.send_signal(signal.SIGTERM)
        assert (await second.ended()).code == 0
    for client in (subscriber, *waiting):
        client.close()
