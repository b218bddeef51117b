"""Address probes: certificate, HTTP version, redirects. They come before any stream."""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from sse_broadcast.doctor.connection import PROBE_CONNECT_TIMEOUT
from sse_broadcast.doctor.findings import Fault, Finding, Level, note, ok
from sse_broadcast.errors import ClientError

EXPIRES_SOON = 14 * 86_400
"""Seconds: a certificate that is renewed by itself has been, by then."""

NO_PROTOCOL = "refused"
"""Instead of a protocol, where no handshake succeeded."""

SIX = "a browser opens six connections to a host over HTTP/1.1, in all of its tabs: the seventh stream waits"


async def examine_certificate(url: str, tls: ssl.SSLContext, *, now: float) -> tuple[Finding, str | None]:
    """Return what a TLS handshake shows, and the protocol that was agreed on. Raises `ClientError`.

    `now` is in seconds since 1970.
    """
    parts = urlsplit(url)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    try:
        async with asyncio.timeout(PROBE_CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=tls)
    except ssl.SSLCertVerificationError as error:
        seen = f"the certificate is refused: {error.verify_message}"
        meaning = "no browser connects, and no EventSource says why"
        return Finding("certificate", Level.FAULT, seen, meaning, fault=Fault.CERTIFICATE), NO_PROTOCOL
    except (OSError, TimeoutError, ssl.SSLError) as error:
        raise ClientError(f"cannot reach {url}: {_reason(error)}") from None
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate, protocol = connection.getpeercert() or {}, connection.selected_alpn_protocol()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    expires = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = (expires - now) / 86_400
    if expires - now < EXPIRES_SOON:
        seen, meaning = f"good for {days:.0f} days", "nothing has renewed it so far"
        return Finding("certificate", Level.FAULT, seen, meaning, fault=Fault.CERTIFICATE), protocol
    return ok("certificate", f"good for {days:.0f} days"), protocol


def examine_version(protocol: str | None, *, secure: bool) -> Finding:
    """Return what the HTTP version means for browsers."""
    if protocol == "h2":
        return ok("HTTP version", "HTTP/2: a browser has as many streams as it likes over one connection")
    why = "no browser speaks HTTP/2 without TLS" if not secure else "the server did not offer HTTP/2"
    return note("HTTP version", f"HTTP/1.1: {why}", SIX)


def examine_redirect(
    url: str, status: int, headers: Mapping[str, str], path: str
) -> tuple[Finding, str | None]:
    """Return what a redirect of a stream means, and the address to go on with if there is one."""
    if status not in {301, 302, 303, 307, 308}:
        return ok("redirect", "none"), None
    location = headers.get("location", "")
    seen = f"{status} to {location[:200]!a}"
    target = location.partition("?")[0]
    if not location.startswith(("http://", "https://")) or not target.endswith(path):
        meaning = "a stream is sent elsewhere, where nothing serves it"
        return Finding("redirect", Level.FAULT, seen, meaning, fault=Fault.REDIRECT), None
    base = target.removesuffix(path)
    if not _is_address(base):
        return Finding("redirect", Level.FAULT, seen, "that is no address", fault=Fault.REDIRECT), None
    before, after = urlsplit(url), urlsplit(base)
    if before.scheme == "http" and after.scheme == "https" and before.hostname == after.hostname:
        meaning = "from http to https; each reconnection makes that detour, and a POST may become a GET"
        return note("redirect", seen, meaning), urlunsplit(after)
    meaning = "each reconnection makes that detour; another origin needs CORS, and gets no token"
    return Finding("redirect", Level.FAULT, seen, meaning, fault=Fault.REDIRECT), urlunsplit(after)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
