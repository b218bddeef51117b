"""Cures: what to change, per fault and proxy."""

from collections.abc import Sequence

from sse_broadcast.doctor.findings import Fault
from sse_broadcast.doctor.proxy_marks import Proxy

CURES: dict[Fault, dict[Proxy | None, str]] = {
    Fault.BUFFERING: {
        Proxy.NGINX: "proxy_buffering off; in the location of /events, and no proxy_ignore_headers "
        "X-Accel-Buffering",
        Proxy.CADDY: "take response_buffers (buffer_responses) out of reverse_proxy; by itself "
        "it sends an event stream on at once",
        Proxy.HAPROXY: "no option http-buffer-request and no compression filter in the backend of /events",
        Proxy.APACHE: "ProxyPass ... flushpackets=on for /events, and SetEnv no-gzip 1",
        Proxy.TRAEFIK: "no buffering middleware on the router of /events",
        Proxy.ALB: "an ALB does not buffer: look behind it, at a Lambda target or another proxy",
        Proxy.CLOUDFLARE: "a rule for /events/* that turns off compression, Rocket Loader and Polish, and "
        "the proxy itself (grey cloud) if that is not enough",
        Proxy.VARNISH: "return (pipe) for /events in vcl_recv",
        None: "have the proxy send text/event-stream on at once, without a response buffer",
    },
    Fault.COMPRESSION: {
        Proxy.NGINX: "gzip off; in the location of /events, and no text/event-stream in gzip_types",
        Proxy.CADDY: "keep `encode` away from /events, or take text/event-stream out of its match",
        Proxy.HAPROXY: "take text/event-stream out of `compression type`",
        Proxy.APACHE: "SetEnvIf Request_URI ^/events no-gzip, and no text/event-stream in "
        "AddOutputFilterByType",
        Proxy.TRAEFIK: "excludedContentTypes: [text/event-stream] in the compress middleware",
        Proxy.CLOUDFLARE: "a compression rule for /events/*: disabled",
        None: "have the proxy leave text/event-stream as it is (Cache-Control: no-transform asks for it)",
    },
    Fault.IDLE: {
        Proxy.NGINX: "proxy_read_timeout 180s; in the location of /events",
        Proxy.CADDY: "transport http { read_timeout 180s } in reverse_proxy",
        Proxy.HAPROXY: "timeout server 180s and timeout tunnel 180s in the backend",
        Proxy.APACHE: "ProxyTimeout 180, or timeout=180 in ProxyPass",
        Proxy.TRAEFIK: "respondingTimeouts of the entry point: writeTimeout 0, and idleTimeout 180s",
        Proxy.ALB: "idle_timeout.timeout_seconds = 180 of the load balancer",
        Proxy.CLOUDFLARE: "a heartbeat below 100 s; the timeout of Cloudflare is fixed below Enterprise",
        None: "a read timeout of 180 s, or ask for heartbeats that are shorter than the timeout",
    },
    Fault.HTTP_1_0: {
        Proxy.NGINX: 'proxy_http_version 1.1; and proxy_set_header Connection "";',
        Proxy.APACHE: "no force-proxy-request-1.0 and no proxy-nokeepalive in SetEnv",
        None: "have the proxy speak HTTP/1.1 to the server",
    },
    Fault.LAST_EVENT_ID: {
        Proxy.NGINX: 'no proxy_set_header Last-Event-ID "" and no proxy_pass_request_headers off; in /events',
        Proxy.CADDY: "take header_up -Last-Event-ID out of reverse_proxy",
        Proxy.HAPROXY: "no http-request del-header Last-Event-ID",
        Proxy.APACHE: "no RequestHeader unset Last-Event-ID",
        Proxy.TRAEFIK: "no customRequestHeaders with Last-Event-ID: '' in the headers middleware",
        Proxy.CLOUDFLARE: "no transform rule that removes Last-Event-ID",
        Proxy.VARNISH: "no unset req.http.Last-Event-ID; pipe /events",
        None: "have the proxy pass the request header Last-Event-ID",
    },
    Fault.CACHE: {
        Proxy.NGINX: "proxy_cache off; in the location of /events, and no proxy_ignore_headers Cache-Control",
        Proxy.CADDY: "keep the `cache` directive away from /events",
        Proxy.HAPROXY: "no http-request cache-use for /events",
        Proxy.APACHE: "CacheDisable /events",
        Proxy.CLOUDFLARE: "a cache rule for /events/*: bypass",
        Proxy.VARNISH: "return (pipe) for /events in vcl_recv",
        None: "have the cache obey Cache-Control: no-store, or leave /events out of it",
    },
    Fault.AWAY: {
        Proxy.NGINX: "error_page 502 504 = @away; as in docs/deploy/nginx.conf",
        Proxy.CADDY: "lb_try_duration 10s and handle_errors, as in docs/deploy/Caddyfile",
        Proxy.HAPROXY: "retries, option redispatch and http-errors, as in docs/deploy/haproxy.cfg",
        Proxy.APACHE: "ProxyPass ... retry=0 and the filter of docs/deploy/apache.conf",
        Proxy.TRAEFIK: "the retry and errors middlewares on the router of /events",
        Proxy.ALB: "a target that is ready before the old one is deregistered, and a deregistration delay",
        Proxy.CLOUDFLARE: "start a second server before the first one stops",
        None: "have the proxy answer 200 with an event and a retry while the server is away",
    },
    Fault.REFUSED: {None: "a token that may subscribe and publish: SSE_BROADCAST_TOKEN or --token-file"},
    Fault.NOT_A_STREAM: {None: "have the proxy pass /events and everything below it to the server"},
    Fault.HISTORY: {None: "history_size above 0, and a history_age longer than a reconnection takes"},
    Fault.HEADERS: {
        Proxy.NGINX: "no proxy_hide_header and no add_header for these in /events",
        Proxy.CADDY: "no header directive for these in /events",
        None: "have the proxy leave the headers of a stream as they are",
    },
    Fault.CORS: {
        None: "cors_origins with this origin in the server's settings, and no CORS headers of the proxy"
    },
    Fault.REDIRECT: {None: "use the address that it redirects to"},
    Fault.CERTIFICATE: {
        Proxy.NGINX: "ssl_certificate with the whole chain (fullchain.pem), and a renewal that reloads nginx",
        None: "a certificate for this name, in date, with the intermediate certificates behind it",
    },
    Fault.CLOCK: {None: "synchronise the clocks (chrony, systemd-timesyncd): tokens and ages go by them"},
    Fault.LEAVING: {
        Proxy.NGINX: "proxy_ignore_client_abort off; and no proxy_cache in /events",
        Proxy.CADDY: "no flush_interval -1 in reverse_proxy",
        Proxy.HAPROXY: "option abortonclose in the backend",
        None: "have the proxy close its connection to the server when the client leaves",
    },
    Fault.HELD_BODY: {
        Proxy.NGINX: "proxy_request_buffering off; with proxy_http_version 1.1; in the location of /send",
        Proxy.CADDY: "take request_buffers (buffer_requests) out of reverse_proxy",
        Proxy.HAPROXY: "no option http-buffer-request",
        Proxy.APACHE: "no proxy-sendcl and no mod_security body inspection for /send",
        Proxy.TRAEFIK: "no buffering middleware on the router of /send",
        None: "have the proxy pass a request's body on as it comes",
    },
    Fault.EVICTION: {None: "a smaller response buffer in the proxy: the server then sees who does not read"},
}


def cure_for(fault: Fault, proxies: Sequence[Proxy]) -> str:
    """Return the cure for a fault: for each proxy that was seen, or the general one."""
    known = CURES[fault]
    found = [f"{proxy}: {known[proxy]}" for proxy in proxies if proxy in known]
    return "; or ".join(found) or known[None]
