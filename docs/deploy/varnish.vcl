# Varnish in front of sse-broadcast: for /etc/varnish/default.vcl of Debian's varnish (7.1 or newer). It has no TLS:
# put it behind something that has (HAProxy, nginx, hitch), for browsers over HTTP/2. Change 127.0.0.1:8000. Tell the
# server trusted_proxies = ["127.0.0.1"], and give it a token. Varnish adds to X-Forwarded-For by itself.
#
# A stream is cut after pipe_timeout without a byte, which is 60 s unless varnishd is started with
# `-p pipe_timeout=180`: enough for the server's heartbeats, too short for a subscriber that asks `heartbeat=60`.
vcl 4.1;

import std;

backend sse {
    .host = "127.0.0.1";
    .port = "8000";
    # What knows that the server is away.
    .probe = {
        .url = "/healthz";
        .interval = 1s;
        .window = 1;
        .threshold = 1;
        .initial = 1;
    }
}

sub vcl_recv {
    # What tells of the server, and what administers it, is asked of the server itself.
    if (req.url !~ "^/(events|send)([/?]|$)") {
        return (synth(404));
    }
    if (req.url ~ "^/events" && !std.healthy(req.backend_hint)) {
        return (synth(503));
    }
    # Streams, and publishing line by line (`?stream=1`). Passed, a subscriber that leaves is noticed only when its
    # third heartbeat cannot be written, a stream is cut after send_timeout (10 minutes) however busy it is, and a
    # publisher after timeout_idle (5 s) without a line.
    if (req.url ~ "^/events" || req.url ~ "[?&]stream=") {
        return (pipe);
    }
    return (pass);
}

# A publish that fails may have happened: 502, and not a 503, which says that it has not.
sub vcl_backend_error {
    if (bereq.url ~ "^/send") {
        set beresp.status = 502;
    }
}

# While the server is away: an EventSource would give up for good at a 503. It comes back after `retry`; the random
# part keeps all of them from coming back at once. Some clients forget their id over data without one: they get back
# the one they brought, as the last line.
sub vcl_synth {
    if (resp.status != 503) {
        return (deliver);
    }
    set resp.http.Cache-Control = "no-store";
    set resp.http.Retry-After = "5";
    if (req.http.Origin) {
        set resp.http.Access-Control-Allow-Origin = req.http.Origin;
        set resp.http.Access-Control-Allow-Credentials = "true";
    }
    if (req.http.Accept !~ "(?i)text/event-stream") {
        return (deliver);
    }
    set resp.status = 200;
    set resp.http.Content-Type = "text/event-stream; charset=utf-8";
    std.collect(req.http.Last-Event-ID);
    if (req.http.Last-Event-ID !~ "(^|,) *[A-Za-z0-9._-]{1,128}$") {
        unset req.http.Last-Event-ID;
    }
    synthetic("""event: $close
retry: """ + std.integer(real=std.random(2000, 5000)) + """
data: {"reason": "backend"}
""" + regsub(req.http.Last-Event-ID, "^(.*, *)?(.+)$", """id: \2
""") + """
""");
    return (deliver);
}
