"""The address of a UNIX socket and its path."""

from sse_broadcast.unix_address import unix_path


def test_the_path_follows_the_prefix() -> None:
    assert unix_path("unix:/run/sse.sock") == "/run/sse.sock"
    assert unix_path("unix:@sse") == "@sse"
    assert unix_path("unix:") == ""


def test_another_address_has_no_path() -> None:
    for address in ("", "unix", "localhost", "http://unix:80", "UNIX:/run/sse.sock"):
        assert unix_path(address) is None
