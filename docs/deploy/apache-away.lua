-- What apache.conf answers to subscribers while the server is away.
function handle(r)
    local headers = r.err_headers_out
    headers["Cache-Control"] = "no-store"
    headers["Retry-After"] = "5"
    local origin = r.headers_in["Origin"]
    if origin then
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
    end

    -- A client that does not name this type understands a status.
    local accept = r.headers_in["Accept"] or ""
    if not accept:lower():find("text/event-stream", 1, true) then
        r.status = 503
        return apache2.OK
    end

    -- An EventSource comes back after `retry`; the random part keeps all of them from coming back at once. Some
    -- clients forget their id over data without one: they get back the one they brought, as the last line.
    local id = ("," .. (r.headers_in["Last-Event-ID"] or "")):match(", *([A-Za-z0-9._-]+)$")
    r.status = 200
    r.content_type = "text/event-stream; charset=utf-8"
    r:puts(string.format('event: $close\nretry: %d\ndata: {"reason": "backend"}\n', 2000 + r:clock() % 3000))
    r:puts(id and #id <= 128 and "id: " .. id .. "\n\n" or "\n")
    return apache2.OK
end
