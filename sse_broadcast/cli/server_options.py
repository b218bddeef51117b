"""Server options: where the server is, who asks, by which way, and how long to wait for it."""

import asyncio
import functools
import re
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import click

from sse_broadcast.cli.common import Command, fail, run_client, token_option, url_option
from sse_broadcast.client import ALIVE, Client
from sse_broadcast.config.schema import Endpoint
from sse_broadcast.errors import BroadcastError, ClientError, ConfigError
from sse_broadcast.unix_address import unix_path

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""The name of a header (RFC 9110, 5.6.2)."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

POLL = 0.2
"""Seconds between two attempts to reach a server that is waited for."""

MAX_WAIT = 86_400
"""Seconds: a day."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the command line says of a server."""

    url: str
    token: str | None = None
    tls: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def client(self) -> Client:
        """Return a client of it. Raises `ClientError` for what cannot be sent."""
        return Client(
            self.url, tls=self.tls, token=self.token, headers=self.headers, proxy=proxy_for(self.url)
        )


def proxy_for(url: str) -> str | None:
    """Return the proxy of the environment for an address (`http_proxy`, `https_proxy`, `no_proxy`).

    None for this machine: a proxy elsewhere cannot reach a server here.
    """
    if unix_path(url):
        return None
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback_host(host) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def is_loopback_host(host: str) -> bool:
    """Return whether a host is this machine by its name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def parse_headers(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """Return `Name: value` texts as a mapping."""
    found = {}
    for text in values:
        name, colon, value = text.partition(":")
        if not colon or not _NAME.fullmatch(name.strip()) or _CONTROL.search(value):
            raise click.BadParameter(f"{text!r} is no header: write 'Name: value'")
        found[name.strip()] = value.strip()
    return found


def read_ca(_: click.Context, __: click.Parameter, file: str | None) -> Callable[[], ssl.SSLContext] | None:
    """Return what makes a context that trusts the certificates of a file, and no others."""
    if file is None:
        return None
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) if not isinstance(error, ssl.SSLError) else None
        fail(ConfigError(f"--ca: {file}: {reason or 'holds no certificate in PEM'}"))
    return functools.partial(ssl.create_default_context, cafile=file)


def header_option(command: Command) -> Command:
    """Add `--header`; the command gets `headers`."""
    return click.option(
        "--header",
        "headers",
        multiple=True,
        callback=parse_headers,
        metavar="'NAME: VALUE'",
        help="Send this header with every request; may be repeated.",
    )(command)


def ca_option(command: Command) -> Command:
    """Add `--ca`; the command gets `ca`, which makes a TLS context, or None."""
    return click.option(
        "--ca",
        metavar="FILE",
        callback=read_ca,
        help="Trust the certificates in this PEM file instead of the system's.",
    )(command)


def server_options(endpoint: Endpoint | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add all options that say which server is meant; the command gets them as `server`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(
            *,
            url: str,
            token: str | None,
            ca: Callable[[], ssl.SSLContext] | None,
            headers: dict[str, str],
            wait: float,
            **others: Any,  # noqa: ANN401 - the command's own
        ) -> Any:  # noqa: ANN401 - what the command returns
            server = ServerOptions(url, token, ca() if ca is not None else None, headers)
            try:
                client = server.client()
            except BroadcastError as error:
                fail(error)
            if wait:
                run_client(lambda: wait_for_server(client, wait))
            return command(server=server, **others)

        waiting = click.option(
            "--wait",
            type=click.FloatRange(0, MAX_WAIT),
            default=0.0,
            metavar="SECONDS",
            help="Wait so long for a server that cannot be reached yet.",
        )
        return url_option(endpoint)(token_option(ca_option(header_option(waiting(run)))))

    return decorate


async def wait_for_server(client: Client, seconds: float) -> None:
    """Wait until a server answers, whatever it answers. Raises `ClientError` if it does not in time."""
    end = time.monotonic() + seconds
    async with client:
        while True:
            try:
                async with asyncio.timeout(ALIVE):
                    await client.health()
            except ClientError as error:
                if error.status is not None:
                    return
                if time.monotonic() + POLL > end:
                    raise
            except TimeoutError:
                if time.monotonic() + POLL > end:
                    raise ClientError(f"no answer from {client.name} within {seconds:g} s") from None
            else:
                return
            await asyncio.sleep(POLL)
