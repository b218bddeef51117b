"""`sse-broadcast serve --check`: try everything that a start needs, without listening."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.cli.banner import room_for
from sse_broadcast.cli.certificate_info import certificate_info_of
from sse_broadcast.clock import utc_milliseconds
from sse_broadcast.config.schema import Config, ListenerRule
from sse_broadcast.config.sources import LoadedConfig
from sse_broadcast.quantity import Quantity
from sse_broadcast.server.process.loop import new_loop
from sse_broadcast.server.runner import Server, connection_limit, needs_token
from sse_broadcast.server.transport.admission import private_share, raise_descriptor_limit, room
from sse_broadcast.server.transport.listener import socket_count

CREDENTIALS = ("token", "token_file", "jwt_key_file", "jwt_jwks", "token_secret", "token_secret_file")


def check_all(loaded: LoadedConfig) -> None:
    """Print one line for each check that passes, up to the first fault.

    Raises `ConfigError`, `CertificateError`, `CredentialError`.
    """
    for line in checked(loaded):
        click.echo(line)


def checked(loaded: LoadedConfig) -> Iterator[str]:
    """Run the checks in order and yield one line for each that passes. Raises as `check_all` does."""
    config = loaded.config
    yield f"settings: good, from {_sources(loaded.sources)}"  # a fault was raised when they were loaded
    _build(config)
    yield f"credentials: good, {_credentials(config)}"
    for rule in config.listeners:
        if rule.certificate:
            yield _certificate(rule)
    yield f"backend: {_backend(config)}"
    yield f"connections: {_room(config)}"
    yield f"listeners: not tried, a server may be running there: {_places(config)}"


def _room(config: Config) -> str:
    descriptors = raise_descriptor_limit()
    sockets = sum(socket_count(rule) for rule in config.listeners)
    most = connection_limit(config, room(descriptors, sockets=sockets))
    private = private_share(most) if any(rule.private for rule in config.listeners) else 0
    return f"{room_for(most, private)}, with {Quantity(descriptors, 'descriptor')}"


def _build(config: Config) -> None:
    """Build the server on its event loop, and fetch verification keys from their URL."""
    with asyncio.Runner(loop_factory=lambda: new_loop(config.event_loop)) as runner:
        Server(config)
        runner.run(_reach(Authenticator(config)))


def _backend(config: Config) -> str:
    """Try the file that keeps the history, unless a server has it. Raises `StoreError`."""
    if config.store_path is None:
        return "good, memory, no server to reach"
    from sse_broadcast.backends.sqlite import maintenance  # noqa: PLC0415 - Python may have no SQLite
    from sse_broadcast.backends.sqlite.file import StoreFile  # noqa: PLC0415

    file = StoreFile(Path(config.store_path), config.durability)
    if file.is_in_use:
        return f"not tried, since a server has it: {config.store_path}"
    file.require_writable()
    if not file.path.exists():
        return f"good, {config.store_path}, which will be made"
    maintenance.check_file(file.path)
    return f"good, {config.store_path}"


async def _reach(authenticator: Authenticator) -> None:
    await authenticator.start()
    try:
        authenticator.require_keys()
    finally:
        await authenticator.close()


def _sources(sources: Mapping[str, str]) -> str:
    said = dict.fromkeys(source for source in sources.values() if source != "default")
    return ", ".join(said) or "defaults only"


def _credentials(config: Config) -> str:
    given = [name for name in CREDENTIALS if getattr(config, name)]
    if config.caller:
        given.append(f"{len(config.caller)} of [[caller]]")
    if given:
        return ", ".join(given)
    return "none: each start makes a new token" if needs_token(config) else "none are needed"


def _certificate(rule: ListenerRule) -> str:
    identity = certificate_info_of(rule.certificate, rule.key)
    names = ", ".join(identity.names) or "no name"
    return f"certificate: good until {utc_milliseconds(identity.expires)}, {rule.certificate} for {names}"


def _places(config: Config) -> str:
    return ", ".join(
        f"{rule.host} port {rule.port}" if rule.path is None else rule.host for rule in config.listeners
    )
