"""Certificate info: the names and the expiry that a client sees, read by a handshake."""

import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from sse_broadcast.errors import CertificateError
from sse_broadcast.server.transport.tls import tls_context

FLIGHTS = 4
"""How often each side has something to say, at most, before both agree."""


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """The names and addresses that a certificate is for, and the second since 1970 at which it ends."""

    names: tuple[str, ...]
    expires: float

    def name_for(self, host: str) -> str:
        """Return a name that a client may call the bearer by: the host if it is one, else the first."""
        names = [name.replace("*", "www", 1) for name in self.names]
        return host if host in names or not names else names[0]


def certificate_info_of(certificate: str, key: str) -> CertificateInfo:
    """Return the identity that a client would find. Raises `CertificateError` for what none would take.

    Who issued it is left open: it is compared with itself.
    """
    server = tls_context(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        shown = _shaken(server, client).getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(f"certificate: {certificate}: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise CertificateError(f"certificate: {certificate}: {error.reason or error}".lower()) from None
    named = cast("Iterable[tuple[str, str]]", shown.get("subjectAltName", ()))
    names = tuple(_plain(kind, name) for kind, name in named)
    return CertificateInfo(names, ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _plain(kind: str, name: str) -> str:
    return str(ipaddress.ip_address(name)) if kind == "IP Address" else name


def _shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Return the client's end of a connection that has nothing in between."""
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(here, there)
    answering = server.wrap_bio(there, here, server_side=True)
    for _ in range(FLIGHTS):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return asking
