"""Certificate information for clients."""

import datetime as dt
from pathlib import Path

import pytest
import trustme

from sse_broadcast.cli.certificate_info import CertificateInfo, certificate_info_of
from sse_broadcast.errors import CertificateError
from tests.support.certificates import LONG_AGO, write_certificate

SOON = dt.datetime(2100, 2, 3, 4, 5, 6, tzinfo=dt.UTC)


def test_a_certificate_has_names_and_an_end(tmp_path: Path) -> None:
    files = write_certificate(trustme.CA(), tmp_path, "a.example.com", "::1", "127.0.0.1", expires=SOON)
    assert certificate_info_of(*files) == CertificateInfo(
        ("a.example.com", "::1", "127.0.0.1"), SOON.timestamp()
    )


def test_a_chain_is_read_by_its_first_certificate(tmp_path: Path) -> None:
    """Its issuer has an issuer too."""
    files = write_certificate(trustme.CA().create_child_ca(), tmp_path, "localhost")
    assert Path(files[0]).read_text().count("BEGIN CERTIFICATE") == 2
    assert certificate_info_of(*files).names == ("localhost",)


def test_an_expired_certificate_is_unusable(tmp_path: Path) -> None:
    certificate, key = write_certificate(trustme.CA(), tmp_path, expires=LONG_AGO)
    with pytest.raises(CertificateError, match=rf"^certificate: {certificate}: certificate has expired$"):
        certificate_info_of(certificate, key)


def test_a_certificate_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"^certificate: cannot load .*none\.pem: no such file"):
        certificate_info_of(str(tmp_path / "none.pem"), "")


@pytest.mark.parametrize(
    ("names", "host", "called"),
    [
        (("a.b", "c.d"), "c.d", "c.d"),
        (("a.b", "c.d"), "localhost", "a.b"),
        (("*.b", "c.d"), "localhost", "www.b"),
        (("*.b",), "www.b", "www.b"),
        ((), "localhost", "localhost"),
    ],
)
def test_a_server_is_called_by_a_name_of_its_certificate(
    names: tuple[str, ...], host: str, called: str
) -> None:
    """It is the host of the server if the certificate has it."""
    assert CertificateInfo(names, 0.0).name_for(host) == called
