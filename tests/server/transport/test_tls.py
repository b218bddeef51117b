"""TLS certificates, and changes of their files."""

import asyncio
import errno
import logging
import shutil
import ssl
from pathlib import Path

import pytest
import trustme

from sse_broadcast.errors import CertificateError
from sse_broadcast.server.transport import tls as module
from sse_broadcast.server.transport.tls import Certificate, tls_context, tls_fault
from tests.conftest import Caplog, Patch, Serve
from tests.support.certificates import write_certificate
from tests.support.sockets import until


@pytest.fixture
def authenticator() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_certificate_that_cannot_be_loaded_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "cert.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CertificateError, match=f"certificate: cannot load {file}: "):
        Certificate(str(file), "")
    with pytest.raises(CertificateError, match=f"certificate: cannot load {file}, key.pem: "):
        tls_context(str(file), "key.pem")


def test_tls_1_2_is_the_oldest_version(authenticator: trustme.CA, tmp_path: Path) -> None:
    """Renegotiation, which would not be counted, is off."""
    context = Certificate(*write_certificate(authenticator, tmp_path)).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_changed_files_are_read_once_they_are_stable(
    authenticator: trustme.CA, tmp_path: Path, caplog: Caplog
) -> None:
    """Two checks find the same: a certificate and its key are not written at the same time."""
    caplog.set_level(logging.INFO)
    certificate = Certificate(*write_certificate(authenticator, tmp_path))
    first = certificate.context
    certificate.refresh()
    assert certificate.context is first
    write_certificate(authenticator, tmp_path)
    certificate.refresh()
    assert certificate.context is first
    certificate.refresh()
    second = certificate.context
    assert second is not first
    certificate.refresh()
    assert certificate.context is second
    assert caplog.messages == [f"certificate: reloaded {tmp_path / 'cert.pem'}"]


@pytest.mark.parametrize("spoil", ["other key", "garbage", "gone"])
def test_an_unusable_certificate_is_logged_once_and_not_used(
    authenticator: trustme.CA, tmp_path: Path, caplog: Caplog, spoil: str
) -> None:
    cert, key = write_certificate(authenticator, tmp_path)
    certificate = Certificate(cert, key)
    first = certificate.context
    if spoil == "other key":
        authenticator.issue_cert("127.0.0.1").private_key_pem.write_to_path(key)
    elif spoil == "garbage":
        Path(cert).write_text("garbage")
    else:
        Path(cert).unlink()
    for _ in range(5):
        certificate.refresh()
    assert certificate.context is first
    (message,) = caplog.messages
    assert message.startswith(f"certificate: cannot load {cert}, {key}: ")
    assert message.endswith("; the previous certificate stays in use")
    write_certificate(authenticator, tmp_path)
    for _ in range(2):
        certificate.refresh()
    assert certificate.context is not first


def test_a_certificate_moved_into_place_is_noticed(authenticator: trustme.CA, tmp_path: Path) -> None:
    """It keeps its time and size, as in a renewed link of a mounted secret."""
    cert, key = write_certificate(authenticator, tmp_path)
    certificate = Certificate(cert, key)
    first, written = certificate.context, Path(cert).stat().st_mtime_ns
    shutil.copy2(cert, tmp_path / "new.pem")
    (tmp_path / "new.pem").replace(cert)
    assert Path(cert).stat().st_mtime_ns == written
    certificate.refresh()
    certificate.refresh()
    assert certificate.context is not first


async def open_tls(port: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)


def serial(writer: asyncio.StreamWriter) -> str:
    return str(writer.get_extra_info("peercert")["serialNumber"])


async def test_new_connections_get_the_new_certificate(
    serve: Serve, authenticator: trustme.CA, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(module, "REREAD_INTERVAL", 0.02)
    cert, key = write_certificate(authenticator, tmp_path)
    server = await serve(certificate=cert, key=key)
    context = ssl.create_default_context()
    authenticator.configure_trust(context)
    old, old_writer = await open_tls(server.port, context)
    before = serial(old_writer)
    write_certificate(authenticator, tmp_path)
    while True:
        _, writer = await open_tls(server.port, context)
        number = serial(writer)
        writer.transport.abort()
        if number != before:
            break
    old_writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await old.readline()) == b"HTTP/1.1 200 OK\r\n"
    old_writer.transport.abort()
    await until(lambda: server.connections == 0)


def test_system_error_messages_are_in_lower_case() -> None:
    """Messages of this package begin in lower case."""
    assert tls_fault(OSError(errno.EADDRINUSE, "Address already in use")) == "address already in use"
    assert tls_fault(ValueError("No")) == "no"


def test_a_certificate_can_be_replaced(authenticator: trustme.CA, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate = Certificate(*write_certificate(authenticator, tmp_path))
    other = Certificate(*write_certificate(authenticator, tmp_path / "other"))
    certificate.replace_with(other)
    assert certificate.context is other.context
    write_certificate(authenticator, tmp_path)
    for _ in range(3):
        certificate.refresh()
    assert certificate.context is other.context
    write_certificate(authenticator, tmp_path / "other")
    for _ in range(3):
        certificate.refresh()
    assert certificate.context is not other.context
