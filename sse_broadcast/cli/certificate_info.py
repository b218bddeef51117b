"""Certificate info: the names and the expiry that a client sees, read by a handshake."""

import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from sse_broadcast.errors import CertificateError
from sse_broadcast.server.transport.tls import tls_context

FLIGHTS = 4
"""Maximum number of handshake turns per side."""


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """The names and addresses of a certificate, and when it expires, in seconds since 1970."""

    names: tuple[str, ...]
    expires: float

    def name_for(self, host: str) -> str:
        """Return `host` if the certificate names it, else the certificate's first name.

        A wildcard is replaced by `www`. A certificate without names returns `host`.
        """
        names = [name.replace("*", "www", 1) for name in self.names]
        return host if host in names or not names else names[0]


def certificate_info_of(certificate: str, key: str) -> CertificateInfo:
    """Return the names and the expiry of a certificate file, as a client's handshake reads them.

    Raises `CertificateError` for a certificate that no client would accept now.
    """
    server = tls_context(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # The issuer is not checked here: the certificate is its own trust anchor.
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
    """Return the client's side of a TLS handshake made in memory."""
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
