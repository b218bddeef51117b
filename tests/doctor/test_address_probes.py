"""Probes of an address."""

import datetime as dt
import functools
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from sse_broadcast.doctor.address_probes import (
    NO_PROTOCOL,
    examine_certificate,
    examine_redirect,
    examine_version,
)
from sse_broadcast.doctor.findings import Fault, Level
from sse_broadcast.errors import ClientError
from tests.conftest import Serve
from tests.support.certificates import write_certificate

PATH = "/events/x"

URL = "http://push.example.com"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


Secure = Callable[..., Awaitable[str]]


@pytest.fixture
def secure(serve: Serve, authority: trustme.CA, tmp_path: Path) -> Secure:
    async def start(*names: str, expires: dt.datetime | None = None) -> str:
        certificate, key = write_certificate(authority, tmp_path, *names, expires=expires)
        return (await serve(certificate=certificate, key=key)).url

    return start


def context(authority: trustme.CA) -> ssl.SSLContext:
    made = ssl.create_default_context()
    authority.configure_trust(made)
    return made


async def test_a_good_certificate_says_for_how_long(secure: Secure, authority: trustme.CA) -> None:
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=90, hours=1)
    url = await secure(expires=expires)
    finding, protocol = await examine_certificate(url, context(authority), now=time.time())
    assert (finding.level, finding.seen) == (Level.OK, "good for 90 days")
    assert protocol is None  # it has one, and does not negotiate


async def test_one_that_runs_out_soon_is_a_fault(secure: Secure, authority: trustme.CA) -> None:
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=5, hours=1)
    finding, _ = await examine_certificate(await secure(expires=expires), context(authority), now=time.time())
    assert (finding.fault, finding.seen) == (Fault.CERTIFICATE, "good for 5 days")


async def test_one_of_another_name_is_a_fault(secure: Secure, authority: trustme.CA) -> None:
    finding, protocol = await examine_certificate(
        await secure("push.example.com"), context(authority), now=time.time()
    )
    assert (finding.fault, protocol) == (Fault.CERTIFICATE, NO_PROTOCOL)
    assert finding.seen.startswith("the certificate is refused: IP address mismatch")


async def test_nobody_listens() -> None:
    with pytest.raises(ClientError, match=r"cannot reach https://127.0.0.1:1: refused"):
        await examine_certificate("https://127.0.0.1:1", ssl.create_default_context(), now=0.0)


def test_http_2_has_no_limit_of_six() -> None:
    assert examine_version("h2", secure=True).level is Level.OK
    for protocol, secure, why in (
        ("http/1.1", True, "the server did not offer HTTP/2"),
        (None, False, "no browser speaks HTTP/2 without TLS"),
    ):
        finding = examine_version(protocol, secure=secure)
        assert (finding.level, finding.seen) == (Level.NOTE, f"HTTP/1.1: {why}")
        assert "six connections" in finding.meaning


redirect = functools.partial(examine_redirect, URL, path=PATH)


def test_a_stream_is_no_redirect() -> None:
    finding, location = redirect(200, {})
    assert (finding.seen, location) == ("none", None)


def test_a_redirect_to_https_of_the_same_host_is_worth_knowing() -> None:
    finding, location = redirect(301, {"location": "https://push.example.com/events/x?a=b"})
    assert (finding.level, location) == (Level.NOTE, "https://push.example.com")


def test_a_redirect_to_another_host_is_a_fault_and_followed() -> None:
    finding, location = redirect(302, {"location": "https://www.example.com/push/events/x"})
    assert (finding.fault, location) == (Fault.REDIRECT, "https://www.example.com/push")


@pytest.mark.parametrize(
    "location", ["/login", "https://a.example/login", "https://a:x/events/x", "", "//a/events/x"]
)
def test_a_redirect_to_no_stream_is_a_fault_and_the_end(location: str) -> None:
    finding, followed = redirect(302, {"location": location})
    assert (finding.fault, followed) == (Fault.REDIRECT, None)
