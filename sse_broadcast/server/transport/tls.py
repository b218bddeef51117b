"""TLS certificates of a listener, reloaded when their files change."""

import asyncio
import logging
import ssl
from pathlib import Path

from sse_broadcast.errors import CertificateError

logger = logging.getLogger("sse_broadcast.tls")

REREAD_INTERVAL = 10.0
"""Seconds between two checks of the files."""

Seen = tuple[tuple[int, int, int] | None, ...]
"""The modification time, the size and the inode of each file, or None for a missing one."""


class Certificate:
    """A certificate chain and its key, as a TLS context for new connections.

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
        """The context of the last successful load."""
        return self._context

    def replace_with(self, other: "Certificate") -> None:
        """Take over the files and the context of another certificate."""
        self._certificate, self._key = other._certificate, other._key  # noqa: SLF001 - one of its own kind
        self._tried = self._last = other._tried  # noqa: SLF001
        self._context = other._context  # noqa: SLF001

    def watch(self) -> None:
        """Check the files regularly, until `close`."""
        self._timer = asyncio.get_running_loop().call_later(REREAD_INTERVAL, self._watch)

    def close(self) -> None:
        """Stop checking the files."""
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        self.refresh()
        self.watch()

    def refresh(self) -> None:
        """Load the files if they changed since the last load, but not since the last check.

        If they cannot be used, the previous certificate stays.
        """
        # The chain and the key are two files, written one after the other. While they still change they may
        # not fit each other: wait until two checks see the same files.
        before, self._last = self._last, self._see()
        if self._last == self._tried or self._last != before:
            return
        self._tried = self._last
        try:
            # A new context: one that fails half-way has the new chain with the old key.
            self._context = tls_context(self._certificate, self._key)
        except CertificateError as error:
            logger.warning("%(fault)s; the previous certificate stays in use", {"fault": str(error)})
        else:
            logger.info("certificate: reloaded %(file)s", {"file": self._certificate})

    def _see(self) -> Seen:
        return tuple(_stamp(path) for path in (self._certificate, self._key) if path)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        stat = Path(path).stat()
    except (OSError, ValueError):
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the TLS context of a server with this chain and key. Raises `CertificateError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Each renegotiation costs the server a handshake, and limits count only the first one.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        # An empty pass phrase: without one OpenSSL asks for it on the terminal, and waits.
        context.load_cert_chain(certificate, key or None, password="")
    except (OSError, ValueError) as error:
        names = certificate + (f", {key}" if key else "")
        mismatch = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
        why = "the private key belongs to another certificate" if mismatch else _pem_fault(certificate, key)
        raise CertificateError(f"certificate: cannot load {names}: {why or tls_fault(error)}") from None
    return context


def _pem_fault(certificate: str, key: str) -> str | None:
    """Return what is wrong with the files where OpenSSL only says "PEM lib", or None."""
    try:
        chain, secret = (Path(path).read_bytes() for path in (certificate, key or certificate))
    except (OSError, ValueError):
        return None
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        return f"{certificate} contains no certificate (PEM: -----BEGIN CERTIFICATE-----)"
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in secret or b"ENCRYPTED" in secret:
        return "the private key has a pass phrase: remove it, since a server cannot ask for it"
    if b"PRIVATE KEY-----" not in secret:
        where = (
            f"{key} contains no private key"
            if key
            else "it contains no private key; set key to the file with it"
        )
        return f"{where} (PEM: -----BEGIN PRIVATE KEY-----)"
    return None


def tls_fault(error: Exception) -> str:
    """Return the system's text of an error, in lower case."""
    return str(getattr(error, "strerror", None) or error).lower()
