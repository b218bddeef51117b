"""Certificates that nobody but a test trusts."""

from pathlib import Path

import trustme


def write_certificate(authority: trustme.CA, folder: Path) -> tuple[str, str]:
    """Issue a certificate for 127.0.0.1, and give the files of its chain and its key."""
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return str(certificate), str(key)
