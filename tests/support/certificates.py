"""Certificates that nobody but a test trusts."""

import datetime as dt
from pathlib import Path

import trustme

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def write_certificate(
    authenticator: trustme.CA, folder: Path, *names: str, expires: dt.datetime | None = None
) -> tuple[str, str]:
    """Issue a certificate for the names, or for 127.0.0.1, and give the files of its chain and its key."""
    issued = authenticator.issue_cert(*(names or ("127.0.0.1",)), not_after=expires)
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return str(certificate), str(key)
