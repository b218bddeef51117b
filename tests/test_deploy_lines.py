"""Each line of the proxy files in `docs/deploy`: its purpose, and that it is needed."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import pytest

from tests.conftest import Serve
from tests.support import fronts as front_support
from tests.support import process
from tests.support import proxy_questions as ask
from tests.support.fronts import HASTY, Fronts, reading
from tests.support.proxy import Proxy
from tests.support.proxy_kinds import (
    APACHE,
    CADDY,
    DEPLOY,
    H2O,
    HAPROXY,
    KINDS,
    LIGHTTPD,
    NGINX,
    SQUID,
    VARNISH,
    Kind,
)
from tests.support.proxy_questions import IDLE, SETTINGS, Trial

programs = pytest.fixture(process.programs)
fronts = pytest.fixture(front_support.fronts)


@dataclass(frozen=True, slots=True)
class Line:
    """A line, its replacement, and a question whose answer is yes with the line and no without it."""

    kind: Kind
    text: str
    instead: str
    question: ask.Question
    around: Mapping[str, str] = field(default_factory=dict)
    """Other replacements in the file, with the line and without it."""
    open: bool = False
    """Whether the server has nothing configured."""

    @property
    def asked(self) -> object:
        """Return the question to the proxy with the line."""
        return (self.kind.program, self.question, tuple(self.around.items()), self.open)

    def __str__(self) -> str:
        return f"{self.kind.program}: {self.text.split(chr(10))[0].strip()}"


SILENT = {"proxy_read_timeout 180s;": f"proxy_read_timeout {IDLE * 1000:.0f}ms;"}
SILENT_HAPROXY = {"timeout server 180s": f"timeout server {IDLE * 1000:.0f}ms"}
"""Replacements that shorten the time-out for a silent server."""

COMPRESSING = {"    access_log": "    gzip on; gzip_types *; gzip_proxied any;\n    access_log"}

OF_NGINX = [
    Line(NGINX, "listen 443 ssl http2;", "listen 443 ssl;", ask.http2),
    Line(NGINX, "gzip off;", "", ask.plain, COMPRESSING),
    Line(NGINX, "proxy_read_timeout 180s;", f"proxy_read_timeout {IDLE * 1000:.0f}ms;", ask.lasts),
    Line(NGINX, "keepalive 16;", "", ask.shares),
    Line(NGINX, "proxy_http_version 1.1;", "", ask.shares),
    Line(NGINX, 'proxy_set_header Connection "";', "", ask.shares),
    Line(NGINX, "proxy_set_header Host $http_host;", "", ask.own),
    Line(NGINX, "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;", "", ask.outside, open=True),
    Line(NGINX, "client_max_body_size 0;", "", ask.large),
    Line(NGINX, "proxy_request_buffering off;", "", ask.pipes),
    Line(NGINX, "client_body_timeout 1d;", f"client_body_timeout {IDLE * 1000:.0f}ms;", ask.waits),
    Line(NGINX, "return 404;", "", ask.closed),
    Line(NGINX, "$request_method $uri $server_protocol", "$request", ask.secret),
    Line(NGINX, "error_log /var/log/nginx/error.log crit;", "", ask.secret),
    Line(NGINX, "error_page 502 504 = @away;", "", ask.comes_back),
    Line(
        NGINX, "error_page 502 504 = @away;", "error_page 502 = @away;", ask.comes_back_after_silence, SILENT
    ),
    Line(NGINX, 'default_type "text/event-stream; charset=utf-8";', "", ask.comes_back),
    Line(NGINX, "add_header Cache-Control no-store always;", "", ask.comes_back),
    Line(NGINX, "add_header Access-Control-Allow-Origin $http_origin always;", "", ask.comes_back),
    Line(NGINX, "add_header Access-Control-Allow-Credentials true always;", "", ask.comes_back),
    Line(NGINX, 'default "$";', 'default "";', ask.comes_back),
    Line(NGINX, '"id: $brought\\n";', '"";', ask.comes_back),
    Line(NGINX, "if ($http_accept !~* text/event-stream) {", "if ($http_accept = none) {", ask.told),
    Line(NGINX, "add_header Retry-After 5 always;", "", ask.told),
    Line(NGINX, "split_clients $request_id $come_back {", "split_clients $host $come_back {", ask.scatters),
    Line(NGINX, "gzip off;", "proxy_ignore_headers X-Accel-Buffering;", ask.flows),
]

OF_CADDY = [
    Line(CADDY, "protocols h1 h2", "protocols h1", ask.http2),
    Line(CADDY, "read_timeout 180s", f"read_timeout {IDLE}s", ask.lasts),
    Line(CADDY, "respond 404\n", "respond 200\n", ask.closed),
    Line(CADDY, "lb_try_duration 10s\n\t\t\ttransport", "flush_interval -1\n\t\t\ttransport", ask.lets_go),
    Line(CADDY, "lb_try_duration 10s\n\t\t\ttransport", "transport", ask.patient),
    Line(CADDY, "lb_try_duration 10s\n\t\t}\n\t}\n\n\t# What", "}\n\t}\n\n\t# What", ask.patient_too),
    *(
        Line(CADDY, text, instead, question, HASTY["caddy"])
        for text, instead, question in (
            ("header Accept *text/event-stream*", "header Accept none", ask.comes_back),
            ('header Content-Type "text/event-stream; charset=utf-8"', "", ask.comes_back),
            ("header Cache-Control no-store", "", ask.comes_back),
            ("header @page Access-Control-Allow-Origin {http.request.header.Origin}", "", ask.comes_back),
            ("header @page Access-Control-Allow-Credentials true", "", ask.comes_back),
            ('"id: ${1}\n"', '""', ask.comes_back),
            ("header Accept *text/event-stream*", "", ask.told),
            ("header Retry-After 5", "", ask.told),
            ("map {http.request.uuid}", "map {http.request.host}", ask.scatters),
        )
    ),
]

ERROR = 'http-error status {} content-type "text/event-stream; charset=utf-8" lf-string "${{REFUSAL}}{}\\n"'
ANOTHER = "http-response set-header A"
RESUMED = r"id: %[var(txn.id)]\n"

OF_HAPROXY = [
    Line(HAPROXY, "alpn h2,http/1.1", "alpn http/1.1", ask.http2),
    Line(HAPROXY, "    option abortonclose\n    # The client's", "    # The client's", ask.lets_go),
    Line(HAPROXY, "option forwardfor", "", ask.outside, open=True),
    Line(HAPROXY, "timeout server 1d", "", ask.waits, SILENT_HAPROXY),
    Line(HAPROXY, "retries 3", "retries 0", ask.patient),
    Line(HAPROXY, "%HPO", "%HU", ask.secret, HASTY["haproxy"]),
    Line(HAPROXY, "http-request deny deny_status 404 unless", "http-request deny if !", ask.closed),
    *(
        Line(HAPROXY, text, instead, question, {**HASTY["haproxy"], **SILENT_HAPROXY})
        for text, instead, question in (
            ("%[rand(3000),add(2000)]", "3000", ask.scatters),
            ("use_backend resumed if sse", "use_backend streams if sse", ask.comes_back),
            ("use_backend streams if sse", "use_backend programs if sse", ask.comes_anew),
            ("http-request set-var(txn.id) req.hdr(Last-Event-ID,-1)", "", ask.comes_back),
            ("http-request set-var(txn.origin) req.hdr(Origin)", "", ask.comes_back),
            (ERROR.format(502, RESUMED), "", ask.comes_back_after_a_cut),
            (ERROR.format(503, RESUMED), "", ask.comes_back),
            (ERROR.format(504, RESUMED), "", ask.comes_back_after_silence),
            (ERROR.format(503, ""), "", ask.comes_anew),
            ("http-after-response set-status 200 if away own sse", "", ask.comes_back),
            ("http-after-response set-header Retry-After 5", f"{ANOTHER} 5", ask.told),
            ("http-after-response set-header Cache-Control no-store", f"{ANOTHER} 5", ask.told),
            ("http-after-response set-header Access-Control-Allow-Origin", ANOTHER, ask.told),
            ("http-after-response set-header Access-Control-Allow-Credentials", ANOTHER, ask.told),
        )
    ),
]

DEFLATING = {"    ProxyTimeout 180": "    SetOutputFilter DEFLATE\n    ProxyTimeout 180"}
BROTLI = {
    "    ProxyTimeout 180": "    LoadModule brotli_module /usr/lib/apache2/modules/mod_brotli.so\n"
    "    SetOutputFilter BROTLI_COMPRESS\n    ProxyTimeout 180"
}

OF_APACHE = [
    Line(APACHE, "Protocols h2 http/1.1", "", ask.http2),
    Line(APACHE, "ProxyPreserveHost On", "", ask.own),
    Line(APACHE, "SetEnv no-gzip 1", "", ask.plain, DEFLATING),
    Line(APACHE, "SetEnv no-brotli 1", "", ask.plain, BROTLI),
    Line(APACHE, "SetEnv proxy-prefetch-nonblocking 1", "", ask.pipes),
    Line(APACHE, 'RedirectMatch 404 "^/(?!(events|send|away)(/|$))"', "", ask.closed),
    Line(APACHE, '\\"%m %U %H\\"', '\\"%r\\"', ask.secret),
    Line(APACHE, "Require all granted", "", ask.comes_back),
    Line(APACHE, "ErrorDocument 502 /away", "", ask.comes_back_after_a_cut),
    Line(APACHE, "ErrorDocument 503 /away", "", ask.comes_back),
    Line(APACHE, "ErrorDocument 503 /away", "", ask.told),
    Line(APACHE, 'LuaMapHandler "^/away$"', 'LuaMapHandler "^/none$"', ask.comes_back),
]

OF_LIGHTTPD = [
    Line(LIGHTTPD, "server.stream-response-body = 2", "", ask.flows),
    Line(LIGHTTPD, "server.stream-request-body = 2", "", ask.pipes),
    Line(LIGHTTPD, '"tcp-fin-propagate" => "enable",', "", ask.lets_go),
    Line(LIGHTTPD, '$HTTP["url"] =~ "^/events(/|$)"', '$HTTP["url"] =~ "^/"', ask.closed),
    Line(LIGHTTPD, '$HTTP["url"] =~ "^/send(/|$)"', '$HTTP["url"] =~ "^/"', ask.closed),
    Line(
        LIGHTTPD,
        """"|sed -u 's/?[^ ]*/?/' >>/var/log/lighttpd/error.log\"""",
        '"/var/log/lighttpd/error.log"',
        ask.secret,
    ),
    Line(LIGHTTPD, 'accesslog.format = "%h %t %m %U %H %>s %b"', "", ask.secret),
    Line(LIGHTTPD, "magnet.attract-response-start-to = (", "magnet.attract-raw-url-to += (", ask.comes_back),
]

OF_VARNISH = [
    Line(VARNISH, "return (pipe);", "return (pass);", ask.lets_go),
    Line(VARNISH, "return (synth(404));", "return (pass);", ask.closed),
    Line(VARNISH, "set beresp.status = 502;", "", ask.doubts),
    Line(VARNISH, "std.random(2000, 5000)", "std.random(2000, 2000)", ask.scatters),
]

OF_SQUID = [
    Line(SQUID, " login=PASSTHRU", "", ask.authorized),
    Line(SQUID, "http_access allow subscribe\n", "http_access allow all\n", ask.closed),
    Line(SQUID, "http_reply_access deny subscribe away own sse resumes", "", ask.comes_back),
    Line(SQUID, "http_reply_access deny subscribe away own sse anyone", "", ask.comes_anew),
    Line(SQUID, "reply_header_access Content-Type deny refusal", "", ask.comes_back),
    Line(SQUID, "reply_header_add Cache-Control no-store subscribe own", "", ask.told),
    Line(SQUID, "reply_header_add Retry-After 5 subscribe own", "", ask.told),
    Line(
        SQUID, 'reply_header_add Access-Control-Allow-Origin "%{Origin}>h" subscribe own page', "", ask.told
    ),
    Line(SQUID, "reply_header_add Access-Control-Allow-Credentials true subscribe own page", "", ask.told),
]

OF_H2O = [
    Line(H2O, "proxy.preserve-host: ON", "proxy.preserve-host: OFF", ask.own),
    Line(H2O, 'format: "%h %t %m %U %H %s %b"', 'format: "%r"', ask.secret),
    Line(H2O, "2000 + rand(3000)", "2000", ask.scatters),
]

TRIED = [*OF_NGINX, *OF_CADDY, *OF_HAPROXY, *OF_APACHE, *OF_LIGHTTPD, *OF_VARNISH, *OF_SQUID, *OF_H2O]


@pytest.fixture(scope="module")
def affirmed() -> set[object]:
    """Cache the answer of questions that several lines share."""
    return set()


@pytest.mark.parametrize("line", TRIED, ids=str)
async def test_a_line_has_its_effect(serve: Serve, fronts: Fronts, affirmed: set[object], line: Line) -> None:
    """The answer is yes with it, and no without it or with its replacement."""

    async def answer(changes: Mapping[str, str]) -> bool:
        server = await serve(**({} if line.open else SETTINGS))
        async with Proxy(server.port) as wire:
            front = await fronts.put(line.kind, wire.port, changes)
            answered = await line.question(Trial(fronts, server, wire, front))
            await front.kill()
        return answered

    if line.asked not in affirmed:
        assert await answer(line.around)
        affirmed.add(line.asked)
    assert not await answer({line.text: line.instead, **line.around})


async def test_haproxy_holds_each_event_without_its_option(serve: Serve, fronts: Fronts) -> None:
    """It does so to a client without TLS, for as long as Linux waits for more of a packet."""
    server = await serve(**SETTINGS)
    tls = " ssl crt /etc/ssl/push.example.com/both.pem alpn h2,http/1.1"
    took = []
    for changes in ({}, {"option http-no-delay": ""}):
        front = await fronts.put(HAPROXY, server.port, {tls: tls.replace("ssl", "#", 1), **changes})
        url = f"http://127.0.0.1:{front.place.port}"
        async with httpx.AsyncClient(base_url=url) as client, reading(client) as subscriber:
            await subscriber.block()
            begun = asyncio.get_running_loop().time()
            for number in range(3):
                await server.broadcaster.broadcast(str(number))
                await subscriber.block()
            took.append(asyncio.get_running_loop().time() - begun)
    assert took[1] > 3 * took[0]


GIVEN = {
    NGINX: [
        r"worker_\w+ \w+;",
        r"error_log /var/log/nginx/error.log;",
        r"access_log \S+ no_query;",
        r"'\$body_bytes_sent \$request_time';",
        r"server 127.0.0.1:8000;",
        r"25% \d+;|\* +5000;|default \"\";",
        r"listen (\[::\]:)?(80|443 ssl http2);",
        r"server_name push.example.com;",
        r"ssl_certificate(_key)? \S+;",
        r"proxy_pass http://sse_broadcast;",
        r"return (301|503|200) ?.*;",
        r"\}|(events|http|upstream sse_broadcast|server|location .*|map .*|geo .*) \{",
    ],
    CADDY: [
        r"grace_period 5s",
        r"(\{\$SSE_SITE.*|reverse_proxy .*|transport http|handle( @\w+)?|servers|handle_errors|@browser) \{",
        r"\{|@page header Origin \*",
        r"@(events|send|program) path .*|path .*|expression .*",
        r"\S+ [2345]000",
        r"map \{http.request.header.Last-Event-ID\} \{id_line\} \{|~\(.*|\"|default \"\"",
        r"respond (503|\"\" \{http.error.status_code\}|\"event: \$close)|retry: \{come_back\}",
        r"data: .*|\{id_line\}|\" 200|\}",
    ],
    HAPROXY: [
        r"(global|defaults|frontend \w+|backend \w+)",
        r"log (/dev/log local0|global)|chroot .*|user haproxy|group haproxy|mode http",
        r"maxconn 16384|hard-stop-after 1h|timeout (connect|http-request|http-keep-alive|client|server) \d+s",
        r"option http-no-delay|no option abortonclose",
        r"bind :::80 v4v6|http-request redirect scheme https code 301|server sse 127.0.0.1:8000",
        r"acl \w+ .*|http-request set-var\(txn.(subscriber|sse)\) .*|use_backend programs if subscriber",
        r"default_backend publish|http-error status (502|504) .*|http-after-response set-status 503 .*",
    ],
    APACHE: [
        r"ServerLimit \d+|ThreadsPerChild \d+|MaxRequestWorkers \d+|H2MaxWorkers \d+",
        r"CustomLog .*|</?VirtualHost.*>|ServerName push.example.com|Redirect permanent .*|SSL.*",
        r"ProxyPass /(events|send) http://127.0.0.1:8000/\1|ProxyTimeout 180",
        r"RequestReadTimeout .*|ErrorDocument 504 /away|</?Location.*>",
    ],
    LIGHTTPD: [
        r"server.(modules|username|groupname|document-root|port|bind|v4mapped) = .*",
        r"server.(max-fds|max-connections|feature-flags) = .*",
        r"accesslog.filename = .*|ssl.\w+ = .*|url.redirect = .*|\$(SERVER|HTTP)\[.*\{|\}|\)\)\)",
        r"proxy.server = .*|\"(host|port|read-timeout)\" => .*|server.max-read-idle = 86400",
    ],
    VARNISH: [
        r"vcl 4.1;|import std;|backend sse \{|\.(host|port) = .*|\.probe = \{|\.\w+ = \S+;|sub \w+ \{|\}",
        r"if \(.*\) \{|return \((synth\(503\)|pass|deliver)\);|std.collect\(.*\);|unset req.http.\S+;",
        r"synthetic\(.*|retry: .*|data: .*|\"\"\".*",
        # It is the slowest to start. The tests of all proxies compare all of these responses.
        r"set resp\.(status|http\.\S+) = .*",
    ],
    SQUID: [
        r"https?_port .*|max_filedescriptors 65536|read_timeout 180 seconds|shutdown_lifetime 1 second",
        r"access_log .*|pinger_enable off|never_direct allow all|acl \w+ .*|http_access deny plain",
        r"deny_info .*|http_access (allow publish|deny all)|reply_header_replace Content-Type .*",
    ],
    H2O: [
        r"user: www-data|pid-file: .*|error-log: .*|access-log:|path: .*|max-connections: 32768",
        r"proxy.timeout.io: 180000|hosts:|\"push.example.com:(80|443)\":|listen:|port: \d+|paths:|\"/\w*\":",
        r"redirect:|status: 301|url: https://push.example.com/|ssl:|(certificate|key)-file: .*",
        r"proxy.reverse.url: .*|mruby.handler: \|",
        # The script: the tests of all proxies show that it works.
        r"Proc.new do \|env\||end|headers.*|env.each .*|url \+?= .*|asked = .*|answer = .*|next .*|away.*",
        r"if env\[\"HTTP_ORIGIN\"\]|brought = .*|block = .*|\[200, away, \[block\]\]",
    ],
}
"""Lines with addresses and sizes, lines that every proxy needs, and lines with tests of their own."""


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_line_has_a_purpose(kind: Kind) -> None:
    lines = [line.strip() for line in (DEPLOY / kind.file).read_text().splitlines()]
    tried = [line.text.split("\n")[0].strip() for line in TRIED if line.kind is kind]
    untold = [
        line
        for line in lines
        if line
        and not line.startswith("#")
        and not any(re.fullmatch(given, line) for given in GIVEN[kind])
        and not any(text in line for text in tried)
    ]
    assert untold == []
