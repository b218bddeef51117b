"""TLS certificates of a listener, read again when their files change."""

import asyncio
import logging
import ssl
from pathlib import Path

from sse_broadcast.errors import CertificateError

logger = logging.getLogger("sse_broadcast.tls")

REREAD_INTERVAL = 10.0
"""Seconds after which the files are looked at again."""

Seen = tuple[tuple[int, int, int] | None, ...]
"""Of each file what changes with it: when it was written, how long it is and which file it is."""


class Certificate:
    """A certificate chain and its key, as the TLS context that new connections are to be given.

    Raises `CertificateError`.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._certificate = certificate
        self._key = key
        self._timer: asyncio.TimerHandle | None = None
        self._tried = self._last = self._see()
        self._context = tls_context(certificate, key)

    @property
    def context(self) -> ssl.SSLContext:
        """What was read last, if it could be."""
        return self._context

    def replace_with(self, other: "Certificate") -> None:
        """Be what another one has read, from the files that it has read it from."""
        self._certificate, self._key = other._certificate, other._key  # noqa: SLF001 - one of its own kind
        self._tried = self._last = other._tried  # noqa: SLF001
        self._context = other._context  # noqa: SLF001

    def watch(self) -> None:
        """Look at the files again and again, until `close`."""
        self._timer = asyncio.get_running_loop().call_later(REREAD_INTERVAL, self._watch)

    def close(self) -> None:
        """Look at them no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        self.refresh()
        self.watch()

    def refresh(self) -> None:
        """Read the files if they have changed since they were tried, and not since the last look.

        A certificate and its key are two files, written one after the other: those that are still
        changing would not fit each other. If they cannot be used, what was read before is kept.
        """
        before, self._last = self._last, self._see()
        if self._last == self._tried or self._last != before:
            return
        self._tried = self._last
        try:
            # A context of its own, since one that fails half-way is neither the old nor the new.
            self._context = tls_context(self._certificate, self._key)
        except CertificateError as error:
            logger.warning("%(fault)s; the one from before is kept", {"fault": str(error)})
        else:
            logger.info("certificate: %(file)s was read again", {"file": self._certificate})

    def _see(self) -> Seen:
        return tuple(_stamp(path) for path in (self._certificate, self._key) if path)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        stat = Path(path).stat()
    except (OSError, ValueError):
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the context of a server with this certificate chain and key. Raises `CertificateError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that makes the keys anew costs a handshake each time, within the one that was counted.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        # An empty pass phrase, or OpenSSL would ask for the key's on the terminal and wait.
        context.load_cert_chain(certificate, key or None, password="")
    except (OSError, ValueError) as error:
        names = certificate + (f", {key}" if key else "")
        mismatch = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
        why = "the private key is another certificate's" if mismatch else _pem_fault(certificate, key)
        raise CertificateError(f"certificate: cannot load {names}: {why or tls_fault(error)}") from None
    return context


def _pem_fault(certificate: str, key: str) -> str | None:
    """Return what a person would say of the files, where OpenSSL says no more than "PEM lib"; or None."""
    try:
        chain, secret = (Path(path).read_bytes() for path in (certificate, key or certificate))
    except (OSError, ValueError):
        return None
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        return f"{certificate} has no certificate in it (PEM: -----BEGIN CERTIFICATE-----)"
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in secret or b"ENCRYPTED" in secret:
        return "the private key has a pass phrase, which nobody could enter at a start; take it off"
    if b"PRIVATE KEY-----" not in secret:
        where = (
            f"{key} has no private key in it" if key else "it has no private key in it; name the file in key"
        )
        return f"{where} (PEM: -----BEGIN PRIVATE KEY-----)"
    return None


def tls_fault(error: Exception) -> str:
    """Return what the system says of an error, in lower case as our messages are."""
    return str(getattr(error, "strerror", None) or error).lower()
