"""Examination: all probes in their order, on channels that nobody else uses."""

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from sse_broadcast.doctor.address_probes import (
    NO_PROTOCOL,
    examine_certificate,
    examine_redirect,
    examine_version,
)
from sse_broadcast.doctor.connection import ProbeConnection
from sse_broadcast.doctor.cors_probe import probe_cors
from sse_broadcast.doctor.cures import cure_for
from sse_broadcast.doctor.findings import Fault, Finding, Level, note, ok, skipped
from sse_broadcast.doctor.proxy_marks import Proxy
from sse_broadcast.doctor.resume_probes import probe_cache, probe_resume
from sse_broadcast.doctor.stream_probes import (
    examine_answer,
    probe_buffering,
    probe_compression,
    probe_eviction,
    probe_held_body,
    probe_leaving,
    probe_silence,
)

TRIED_SILENCE = 10.0
"""Seconds of silence that are tried: more than the shortest time-outs that people set."""

LONG_SILENCE = 200.0
"""Seconds with `--long`: more than three heartbeats of the slowest subscriber."""

FUTILE = frozenset({Fault.BUFFERING, Fault.REFUSED})
"""Faults behind which the probes that read events see nothing."""

OnFinding = Callable[[Finding], object]


@dataclass(frozen=True, slots=True)
class ExaminationRequest:
    """The server to examine, and how. `tls` makes a context: each connection offers other protocols."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Callable[[], ssl.SSLContext] | None = None
    origin: str | None = None
    long: bool = False
    patience: float = 5.0
    silence: float = TRIED_SILENCE
    channel: str = field(default_factory=lambda: f"doctor-{secrets.token_hex(6)}")


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, with cures for the proxies that were seen."""

    url: str
    proxies: tuple[Proxy, ...]
    findings: tuple[Finding, ...]


async def examine(request: ExaminationRequest, on_finding: OnFinding = lambda _: None) -> Report:
    """Run all probes. Raises `ClientError` where nothing answers at all.

    `on_finding` is called with the name of each probe that is done.
    """
    examination = _Examination(request, on_finding)
    await examination.run()
    return examination.report()


class _Examination:
    """One examination, and what it has found so far."""

    def __init__(self, request: ExaminationRequest, on_finding: OnFinding) -> None:
        self._request = request
        self._on_finding = on_finding
        self._url = request.url.rstrip("/")
        self._findings: list[Finding] = []
        self._proxies: tuple[Proxy, ...] = ()

    def report(self) -> Report:
        """Return all findings, with their cures."""
        proxies = self._proxies
        cured = (
            each if each.fault is None else replace(each, cure=cure_for(each.fault, proxies))
            for each in self._findings
        )
        return Report(self._url, proxies, tuple(cured))

    async def run(self) -> None:
        """Examine the address, and what it redirects to if it does."""
        if await self._reached() and (redirected := await self._examine()) is not None:
            self._url = redirected
            if await self._reached():
                await self._examine()

    def _take(self, finding: Finding) -> None:
        self._findings.append(finding)
        self._on_finding(finding)

    def _context(self) -> ssl.SSLContext:
        return self._request.tls() if self._request.tls is not None else ssl.create_default_context()

    async def _reached(self) -> bool:
        """Examine certificate and HTTP version; return whether any client gets through."""
        secure = urlsplit(self._url).scheme == "https"
        protocol: str | None = None
        if secure:
            finding, protocol = await examine_certificate(self._url, self._context(), now=time.time())
            self._take(finding)
            if protocol == NO_PROTOCOL:
                return False
        self._take(examine_version(protocol, secure=secure))
        return True

    async def _examine(self) -> str | None:
        """Examine streams; return the address that they are redirected to, if any client can go there."""
        request, path = self._request, f"/events/{self._request.channel}"
        # A context without ALPN: aiohttp does not speak HTTP/2.
        connection = ProbeConnection(
            self._url, tls=self._context(), headers=request.headers, patience=request.patience
        )
        async with connection:
            await connection.provoke()
            async with connection.stream(path) as first:
                body = "" if first is None or first.is_stream else await first.beginning(request.patience)
            if first is not None:
                finding, location = examine_redirect(self._url, first.status, first.headers, path)
                self._take(finding)
                if location is not None:
                    return location
            answer = examine_answer(first, body)
            self._take(answer)
            if answer.level is Level.OK:
                await self._probe(connection)
            self._proxies = connection.proxies
        self._take(_named(self._proxies))
        return None

    async def _probe(self, connection: ProbeConnection) -> None:
        request, channel = self._request, self._request.channel
        seconds = LONG_SILENCE if request.long else request.silence
        silence = asyncio.create_task(probe_silence(connection, f"{channel}-silent", seconds))
        try:
            async for finding in probe_buffering(connection, channel):
                self._take(finding)
            self._take(await probe_compression(connection, f"{channel}-zip"))
            if any(each.fault in FUTILE for each in self._findings):
                why = "not to be seen through a proxy that holds events, or without leave to publish"
                for probe in ("resume", "cache", "leaving", "publishing line by line"):
                    self._take(skipped(probe, why))
            else:
                self._take(await probe_resume(connection, f"{channel}-resume"))
                self._take(await probe_cache(connection, f"{channel}-cache"))
                self._take(await probe_leaving(connection, f"{channel}-leave"))
                self._take(await probe_held_body(connection, f"{channel}-lines"))
            self._take(await probe_cors(connection, channel, request.origin))
            if request.long:
                self._take(await probe_eviction(connection, f"{channel}-slow"))
            else:
                self._take(skipped("eviction", "needs --long: it publishes up to 24 MB"))
            for finding in await silence:
                self._take(finding)
        finally:
            silence.cancel()
            await asyncio.gather(silence, return_exceptions=True)


def _named(proxies: tuple[Proxy, ...]) -> Finding:
    if not proxies:
        return ok("proxies", "none that leaves a mark")
    return note("proxies", ", ".join(proxies), "the cures are for these")
