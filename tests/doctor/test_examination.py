"""Whole examinations: of the server itself, and through real proxies, well-set and mis-set on purpose."""

import asyncio
import functools
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from sse_broadcast.doctor.examination import ExaminationRequest, Report, examine
from sse_broadcast.doctor.findings import Fault, Finding, Level
from sse_broadcast.doctor.proxy_marks import Proxy
from sse_broadcast.errors import ClientError
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import fronts as front_support
from tests.support import process
from tests.support.acceptor import accepting
from tests.support.certificates import write_certificate
from tests.support.fronts import Fronts, free_port
from tests.support.proxy_kinds import APACHE, CADDY, HAPROXY, NGINX, VARNISH, Kind

programs = pytest.fixture(process.programs)
fronts = pytest.fixture(front_support.fronts)

SETTINGS: Mapping[str, Any] = {
    "anonymous_subscribe": ("*",),
    "anonymous_publish": ("*",),
    "token": "a-token-that-is-random-0123456789",
    "trusted_proxies": ("127.0.0.1",),
}

ORIGIN = "https://app.example.com"

BRIEF = 1.0
"""Seconds of silence where time-outs are not what is looked for."""

EVENTS = {
    "nginx": "location ~ ^/events(/|$) {\n",
    "caddy": "handle @events {\n\t\treverse_proxy {$SSE_UPSTREAM:127.0.0.1:8000} {\n",
}


def in_events(kind: Kind, lines: str) -> dict[str, str]:
    """Return the change of a file that puts more lines at the beginning of what is said of streams."""
    begin = EVENTS[str(kind)]
    return {begin: f"{begin}{lines}\n"}


IN_SITE = "\thandle @events {\n"

NO_AWAY: Mapping[str, Mapping[str, str]] = {
    "nginx": {"error_page 502 504 = @away;": ""},
    "caddy": {
        "lb_try_duration 10s": "",
        "@browser {\n\t\t\tpath /events /events/*": "@browser {\n\t\t\tpath /nowhere",
        "@program path /events /events/*": "@program path /nowhere",
    },
}
"""What makes a proxy answer 502 while the server is away."""

UPSTREAM = "upstream sse_broadcast {"

NGINX_CACHE = {
    UPSTREAM: f"proxy_cache_path FOLDER/cache keys_zone=one:1m;\n    {UPSTREAM}",
    **in_events(
        NGINX,
        "proxy_cache one; proxy_cache_valid 200 1m; proxy_cache_key $uri;\n"
        "proxy_ignore_headers Cache-Control Expires;\n"
        "add_header X-Cache-Status $upstream_cache_status always;",
    ),
}

HOST = "proxy_set_header Host $http_host;"

PLANTED: list[tuple[str, Kind, Mapping[str, str], set[Fault]]] = [
    ("buffering", NGINX, in_events(NGINX, "proxy_ignore_headers X-Accel-Buffering;"), {Fault.BUFFERING}),
    ("buffering", CADDY, in_events(CADDY, "buffer_responses\nmax_buffer_size 1MiB"), {Fault.BUFFERING}),
    (
        "gzip",
        NGINX,
        {"gzip off;": "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0;"},
        {Fault.COMPRESSION},
    ),
    (
        "gzip",
        CADDY,
        {
            IN_SITE: f"{IN_SITE}\t\tencode gzip {{\n\t\t\tminimum_length 1\n"
            "\t\t\tmatch header Content-Type text/event-stream*\n\t\t}\n"
        },
        {Fault.COMPRESSION},
    ),
    ("5 s", NGINX, {"proxy_read_timeout 180s;": "proxy_read_timeout 5s;"}, {Fault.IDLE}),
    ("5 s", CADDY, {"read_timeout 180s": "read_timeout 5s"}, {Fault.IDLE}),
    (
        "HTTP/1.0",
        NGINX,
        {"proxy_http_version 1.1;": "proxy_http_version 1.0;"},
        {Fault.HTTP_1_0, Fault.HELD_BODY},
    ),
    (
        "no id",
        NGINX,
        {HOST: f'{HOST} proxy_set_header Last-Event-ID "";'},
        {Fault.LAST_EVENT_ID},
    ),
    ("no id", CADDY, in_events(CADDY, "header_up -Last-Event-ID"), {Fault.LAST_EVENT_ID}),
]


@pytest.fixture
async def server(serve: Serve) -> Server:
    return await serve(**SETTINGS)


def faults(report: Report) -> set[Fault | None]:
    return {finding.fault for finding in report.findings if finding.level is Level.FAULT}


def finding(report: Report, fault: Fault) -> Finding:
    return next(each for each in report.findings if each.fault is fault)


async def test_the_server_itself_has_no_fault(server: Server) -> None:
    report = await examine(ExaminationRequest(server.url, silence=6.0))
    assert [each for each in report.findings if each.level is Level.FAULT] == []
    assert report.proxies == ()
    assert {each.probe: each.level.value for each in report.findings} == {
        "HTTP version": "note",
        "redirect": "ok",
        "answer": "ok",
        "headers": "ok",
        "upstream version": "ok",
        "clock": "ok",
        "buffering": "ok",
        "compression": "ok",
        "resume": "ok",
        "cache": "ok",
        "leaving": "ok",
        "publishing line by line": "ok",
        "CORS": "skipped",
        "eviction": "skipped",
        "idle timeout": "ok",
        "proxies": "ok",
    }


@pytest.mark.parametrize(
    ("kind", "proxy"),
    [
        (NGINX, Proxy.NGINX),
        (CADDY, Proxy.CADDY),
        (HAPROXY, Proxy.HAPROXY),
        (APACHE, Proxy.APACHE),
    ],
    ids=str,
)
async def test_a_well_set_proxy_has_no_fault(
    server: Server, fronts: Fronts, kind: Kind, proxy: Proxy
) -> None:
    front = await fronts.put(kind, server.port)
    report = await examine(ExaminationRequest(front.url, tls=fronts.context, silence=6.0))
    assert [each for each in report.findings if each.level is Level.FAULT] == []
    assert report.proxies == (proxy,)
    versions = [each.seen for each in report.findings if each.probe == "HTTP version"]
    assert versions == ["HTTP/2: a browser has as many streams as it likes over one connection"]


@pytest.mark.parametrize(
    ("name", "kind", "changes", "expected"), PLANTED, ids=[f"{kind} {name}" for name, kind, *_ in PLANTED]
)
async def test_a_planted_fault_is_found_and_named(
    server: Server,
    fronts: Fronts,
    name: str,
    kind: Kind,
    changes: Mapping[str, str],
    expected: set[Fault],
) -> None:
    """It, and no other; with a cure for this proxy."""
    front = await fronts.put(kind, server.port, changes)
    silence = 8.0 if Fault.IDLE in expected else BRIEF
    report = await examine(ExaminationRequest(front.url, tls=fronts.context, silence=silence))
    assert faults(report) == expected
    proxy = {NGINX: "nginx", CADDY: "Caddy"}[kind]
    assert all(finding(report, each).cure.startswith(f"{proxy}: ") for each in expected)


@pytest.mark.parametrize("kind", [NGINX, CADDY], ids=str)
async def test_a_502_while_the_server_restarts_is_found(fronts: Fronts, kind: Kind) -> None:
    front = await fronts.put(kind, free_port(), NO_AWAY[str(kind)])
    report = await examine(ExaminationRequest(front.url, tls=fronts.context))
    assert faults(report) == {Fault.AWAY}
    assert finding(report, Fault.AWAY).seen == "status 502 instead of a stream"


async def test_a_proxy_that_answers_for_a_server_that_is_away_is_told_apart(fronts: Fronts) -> None:
    front = await fronts.put(NGINX, free_port())
    report = await examine(ExaminationRequest(front.url, tls=fronts.context, silence=BRIEF))
    assert finding(report, Fault.AWAY).seen == "the proxy answers for a server that is away"


async def test_a_cut_stream_whose_reconnection_gets_a_502_is_both(serve: Serve, fronts: Fronts) -> None:
    """As in a restart, with a proxy that says nothing better."""
    server = await serve(**SETTINGS)
    front = await fronts.put(NGINX, server.port, NO_AWAY["nginx"])
    stopped = False

    def stop(found: Finding) -> None:
        nonlocal stopped
        stopped = stopped or found.probe == "CORS"

    async def stop_later() -> None:
        while not stopped:
            await asyncio.sleep(0.01)
        await server.stop()

    stopping = asyncio.create_task(stop_later())
    report = await examine(ExaminationRequest(front.url, tls=fronts.context, silence=25.0), stop)
    await stopping
    assert Fault.AWAY in faults(report)
    assert finding(report, Fault.AWAY).seen == "a reconnection was answered with 502"


async def test_a_cache_is_found(server: Server, fronts: Fronts) -> None:
    """Varnish as somebody sets it who wants everything cached: subscribers share one stream."""
    condition, errors = 'if (req.url ~ "^/events" || ', "sub vcl_backend_error {"
    changes = {
        condition: 'if (req.url ~ "^/events") {\n        return (hash);\n    }\n    if (',
        errors: f"sub vcl_backend_response {{\n set beresp.ttl = 60s;\n return (deliver);\n}}\n{errors}",
    }
    front = await fronts.put(VARNISH, server.port, changes)
    report = await examine(ExaminationRequest(front.url, silence=BRIEF))
    assert Fault.CACHE in faults(report)
    assert finding(report, Fault.CACHE).cure.startswith("Varnish: return (pipe) for /events")


async def test_nginx_says_that_it_would_cache(server: Server, fronts: Fronts, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    changes = {old: new.replace("FOLDER", str(tmp_path)) for old, new in NGINX_CACHE.items()}
    front = await fronts.put(NGINX, server.port, changes)
    report = await examine(ExaminationRequest(front.url, tls=fronts.context, silence=BRIEF))
    assert Fault.CACHE in faults(report)
    assert finding(report, Fault.CACHE).cure.startswith("nginx: proxy_cache off;")


async def redirecting(url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Redirect a request to the same path of another address."""
    path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
    head = b"HTTP/1.1 301 Moved\r\nLocation: %b%b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    writer.write(head % (url.encode(), path))


async def test_a_redirect_to_https_is_followed_and_noted(server: Server, fronts: Fronts) -> None:
    front = await fronts.put(NGINX, server.port)
    async with accepting(functools.partial(redirecting, front.url)) as acceptor:
        plain = f"http://127.0.0.1:{acceptor.port}"
        report = await examine(ExaminationRequest(plain, tls=fronts.context, silence=BRIEF))
    assert faults(report) == set()
    assert report.url == front.url
    (note, none) = [each for each in report.findings if each.probe == "redirect"]
    assert note.seen.startswith(f"301 to '{front.url}/events/doctor-")
    assert none.seen == "none"


@pytest.mark.parametrize("target", ["http://127.0.0.2:1", "https://127.0.0.1:x", "/login?next="])
async def test_a_redirect_to_elsewhere_is_a_fault(target: str) -> None:
    async with accepting(functools.partial(redirecting, target)) as acceptor:
        request = ExaminationRequest(f"http://127.0.0.1:{acceptor.port}", silence=BRIEF)
        if target == "http://127.0.0.2:1":
            with pytest.raises(ClientError, match=r"cannot reach http://127.0.0.2:1: refused"):
                await examine(request)
            return
        assert Fault.REDIRECT in faults(await examine(request))


async def test_a_certificate_that_nobody_trusts_ends_it(server: Server, fronts: Fronts) -> None:
    front = await fronts.put(NGINX, server.port)
    report = await examine(ExaminationRequest(front.url, silence=BRIEF))
    assert faults(report) == {Fault.CERTIFICATE}
    assert len(report.findings) == 1
    assert report.findings[0].seen.startswith("the certificate is refused: ")


async def test_cors_is_examined_for_an_origin(serve: Serve) -> None:
    allowed = await serve(**SETTINGS, cors_origins=(ORIGIN,))
    report = await examine(ExaminationRequest(allowed.url, origin=ORIGIN, silence=BRIEF))
    assert faults(report) == set()
    report = await examine(ExaminationRequest(allowed.url, origin="https://other.example.com", silence=BRIEF))
    assert faults(report) == {Fault.CORS}
    assert finding(report, Fault.CORS).seen == "no Access-Control-Allow-Origin"


async def test_a_server_without_history_is_told(serve: Serve) -> None:
    server = await serve(**SETTINGS, history_size=0)
    assert faults(await examine(ExaminationRequest(server.url, silence=BRIEF))) == {Fault.HISTORY}


async def test_a_missing_token_is_told(serve: Serve) -> None:
    server = await serve(token="a-token-that-is-random-0123456789")
    report = await examine(ExaminationRequest(server.url, silence=BRIEF))
    assert faults(report) == {Fault.REFUSED}
    reading = await serve(token="a-token-that-is-random-0123456789", anonymous_subscribe=("*",))
    assert faults(await examine(ExaminationRequest(reading.url, silence=BRIEF))) == {Fault.REFUSED}


async def test_an_evicted_subscriber_is_seen_with_long(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sse_broadcast.doctor.examination.LONG_SILENCE", BRIEF)
    server = await serve(**SETTINGS, queue_size=10, send_buffer=4096)
    report = await examine(ExaminationRequest(server.url, long=True))
    assert faults(report) == set()
    (eviction,) = [each for each in report.findings if each.probe == "eviction"]
    assert eviction.seen.startswith("a subscriber that does not read is ended after ")


async def test_no_channel_but_its_own_is_touched(server: Server) -> None:
    async with server.broadcaster.subscribe("*") as everything:
        await examine(ExaminationRequest(server.url, silence=BRIEF))
        await server.broadcaster.broadcast("the end")
        channels = set()
        async for received in everything:
            if received.channel == "default":
                break
            channels.add(received.channel)
    assert channels
    assert all(channel.startswith("doctor-") for channel in channels)


async def test_nothing_answers() -> None:
    with pytest.raises(ClientError, match=r"cannot reach http://127.0.0.1:1: refused"):
        await examine(ExaminationRequest("http://127.0.0.1:1"))
    with pytest.raises(ClientError, match=r"cannot reach https://127.0.0.1:1: refused"):
        await examine(ExaminationRequest("https://127.0.0.1:1"))


async def test_the_server_s_own_tls_has_no_fault(serve: Serve, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate, key = write_certificate(authority, tmp_path)
    server = await serve(**SETTINGS, certificate=certificate, key=key)

    def context() -> Any:
        made = ssl.create_default_context()
        authority.configure_trust(made)
        return made

    report = await examine(ExaminationRequest(server.url, tls=context, silence=BRIEF))
    assert faults(report) == set()
    (version,) = [each for each in report.findings if each.probe == "HTTP version"]
    assert version.seen == "HTTP/1.1: the server did not offer HTTP/2"
