"""Addresses of UNIX sockets: `unix:` and the path."""

UNIX_PREFIX = "unix:"


def unix_path(address: str) -> str | None:
    """Return the path in the address of a UNIX socket, or None for another address."""
    return address.removeprefix(UNIX_PREFIX) if address.startswith(UNIX_PREFIX) else None
