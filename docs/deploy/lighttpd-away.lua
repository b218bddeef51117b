-- What lighttpd.conf answers while the server is away. The server's own answers have a Server header.
local r = lighty.r
if r.req_item.http_status < 500 or r.resp_header["Server"] then
    return 0
end

-- 503 would say that nothing was published, and it may have been.
local path = r.req_attr["uri.path"] or ""
if path:sub(1, 5) == "/send" then
    return 502
end

r.resp_header["Cache-Control"] = "no-store"
r.resp_header["Retry-After"] = "5"
local origin = r.req_header["Origin"]
if origin then
    r.resp_header["Access-Control-Allow-Origin"] = origin
    r.resp_header["Access-Control-Allow-Credentials"] = "true"
end

-- A client that does not name this type understands a status.
local accept = r.req_header["Accept"] or ""
if not accept:lower():find("text/event-stream", 1, true) then
    return 503
end

-- An EventSource comes back after `retry`; the random part keeps all of them from coming back at once. Some
-- clients forget their id over data without one: they get back the one they brought, as the last line.
local id = ("," .. (r.req_header["Last-Event-ID"] or "")):match(", *([A-Za-z0-9._-]+)$")
r.resp_header["Content-Type"] = "text/event-stream; charset=utf-8"
r.resp_body.set({
    "event: $close\nretry: ", math.random(2000, 5000), '\ndata: {"reason": "backend"}\n',
    id and #id <= 128 and "id: " .. id .. "\n\n" or "\n",
})
return 200
