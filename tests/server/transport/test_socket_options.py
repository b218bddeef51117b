"""Socket options, as the kernel has them."""

import socket
from contextlib import ExitStack
from pathlib import Path

from sse_broadcast.server.transport.socket_options import tune_listener


def test_accepted_sockets_have_the_options_of_the_listening_one() -> None:
    """The kernel copies them, and doubles the requested buffer size."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        tune_listener(listening, send_buffer=20_000, write_timeout=7)
        stack.enter_context(socket.create_connection(listening.getsockname()))
        accepted = stack.enter_context(listening.accept()[0])
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 40_000
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_500
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_without_a_limit_the_kernel_chooses_the_buffer() -> None:
    """The setting is 0."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        before = listening.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        tune_listener(listening, send_buffer=0, write_timeout=7)
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before


def test_a_unix_socket_has_none_of_these_options(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        tune_listener(listening, send_buffer=20_000, write_timeout=7)
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
