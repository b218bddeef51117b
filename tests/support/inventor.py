"""Requests as nobody should send them: real ones, made up from a seed, bent, broken, and sent badly."""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sse_broadcast.wire import chunk

READ = ("GET", "GET", "GET", "HEAD", "OPTIONS")
WRITE = ("POST", "POST", "PUT")
ODD_METHODS = (
    "DELETE",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "PRI",
    "M-SEARCH",
    "G\x00T",
    "QUERY",
    "",
    "X" * 9000,
)
VERSIONS = ("1.0", "1.0", "0.9", "2.0", "1.2", "9.9", "1", "x", "1.1 ", "\u0661.1")
READABLE = (
    "/events", "/events/a", "/events/a,b", "/events/a*", "/events/*", "/channels", "/channels/a", "/status",
    "/openapi.json", "/healthz", "/readyz",
)  # fmt: skip
WRITABLE = ("/send", "/send/a", "/send/a,b", "/events", "/tokens", "/revoke")
ODD_PATHS = (
    "/", "/nothing", "*", "/events/", "/events/a/b", "//events", "/events/..", "/%65vents", "/events/%",
    "/events/%ff", "/events/%zz", "/events/a%2Cb", "/events/%00", "/events/%ed%a0%80", "/events/{channels}",
    "/send/..%2f..", "/send/" + "a," * 150, "/events/" + "*a" * 64, "/events/" + "a" * 8000,
    "/events/" + ",".join(["*a*b*"] * 90), "http://localhost/events", "http://evil.example/status",
    "http://user:pass@localhost/status", "http:///status", "https://localhost:99999/status", "localhost:80",
    "evil.example:443", "http://[::1/status", "http://[::1%25x]/", "http://localhost:port/", "?", "#",
    "/status#x", "/status?#", "events", "/events\\a", "/\xff", "/events/\u00e9", ":80", "http:", "//",
    "/;x=1", "/send/", "//send/a", "/subscribe/a", "/.well-known/mercure", "/events?x=" + "x" * 17_000,
)  # fmt: skip
NAMES = (
    "since", "last_event_id", "channel", "event", "format", "heartbeat", "id", "retry", "key", "stream",
    "access_token", "sinse", "chanel", "x", "", "a%00b", "lastEventId", "Last-Event-ID", "topic",
)  # fmt: skip
VALUES = (
    "", "a", "*", "1", "0", "-1", "10m", "9" * 9, "9" * 400, "1e999", "earliest", "last", "json", "text",
    "event", "0123abcd-1", "0123abcd-99999999999999999999", "%00", "%0a", "%0d%0a", "%", "a,b", "$reset",
    "%F0%9F%98%80", "..", "x" * 3000, "<script>", "%2B+%20", "null", "event,4", "60", "yesterday", "open",
)  # fmt: skip
ODD_PAIRS = (
    "%ff=1",
    "event=%ed%a0%80",
    "\u00e9=1",
    "event=\u0663",
    "id=\xfe",
    "a=" + "&a=" * 2000,
    "&&&==&;;",
)
HEADERS = (
    "Accept", "Accept-Encoding", "Access-Control-Request-Method", "Connection", "Content-Encoding",
    "Content-Type", "Cookie", "Date", "Expect", "Forwarded", "Idempotency-Key", "If-None-Match", "Keep-Alive",
    "Last-Event-ID", "Origin", "Range", "Referer", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "TE",
    "Trailer", "Upgrade", "Via", "X-Forwarded-For", "X-HTTP-Method-Override", "X" * 300, "A",
)  # fmt: skip
ODD_HEADERS = (
    "Host", "Content-Length", "Transfer-Encoding", "Authorization", "a b", "a:b", "", " Host", "Host ",
    "H\xf6st", "\x00", "(x)", "X" * 9000,
)  # fmt: skip
SAID = (
    "", " ", "a", "close", "keep-alive", "upgrade", "keep-alive, upgrade, close", "websocket", "h2c",
    "100-continue", "200-maybe", "gzip", "deflate", "identity", "br, gzip", "chunked", "Chunked",
    "chunked, chunked", "gzip, chunked", "identity, chunked", "xchunked", "0", "1", "-1", "+5", "0x10",
    "5, 5", "5, 6", "9" * 30, "1_0", "\u0665", "text/event-stream", "application/x-ndjson",
    "application/json", "application/json; charset=utf-16", "text/plain; charset=\xff",
    "text/plain; charset=iso-8859-1", "application/json; charset=us-ascii", "https://b.a.example",
    "text/plain;" + "a=b;" * 500, "multipart/form-data; boundary=x", "multipart/form-data",
    "application/x-www-form-urlencoded", "/", "a/b/c", "*/*", ";", "localhost", "localhost:8000",
    "LOCALHOST.", "127.0.0.1", "[::1]", "[::1", "evil.example", "localhost@evil.example",
    "localhost, evil.example", "a\tb", "http://localhost", "https://a.example", "null",
    "http://localhost:port", "for=192.0.2.1", 'for="[2001:db8::1]:80";proto=https', 'for="' + '\\"' * 500,
    "for=" + "," * 2000, "192.0.2.1, 192.0.2.2", "1.1.1.1," * 800, "::1", "0123abcd-1", "bytes=0-",
    "bytes=" + "0-," * 900, "\xff\xfe", "\u00e9\u4e2d", "x" * 8000, "dGhlIHNhbXBsZSBub25jZQ==", "13",
    "trailers", "Host",
)  # fmt: skip
ODD_SAID = ("chunked\x0b", "\x01", "\x00", "a\rb", "a\nb", "a\x7fb", "x" * 9000)
BODIES = (
    b"", b"x", b"hello", b"\xff\xfe", b"\x00", b"a\nb\n", b"\r\n" * 50, b"{}", b"[]", b"null", b"1e999",
    b"9" * 5000, b'{"message": "x"}', b'{"message": "x", "id": "a\\u0000b"}', b'{"message": "\\ud800"}',
    b'{"data": NaN}', b'{"message": 1}', b'{"data": {"a": [1, 2.5e300]}, "event": "$close"}',
    b'{"data": ' + b"[" * 4000, b"[" * 6000 + b"]" * 6000,
    b'{"data": ' + b'{"a":' * 2000 + b"1" + b"}" * 2001, b'{"data": ' + b"9" * 5000 + b"}",
    b'{"data": -0.0, "retry": 1e400}', b'{"message": "x", "channel": "../a"}',
    b'{"message": "x", "channels": ["a", "b"]}', b'{"message": "x", "channels": []}', b'{"message": "\xff"}',
    b'[{"message": "1"}, {"message": "2"}]', b'[{"message": "1"}, 2]',
    b'{"message": "1"}\n{"message": "2"}\n', b'{"message": "1"}\n{"bad\n', b"[" + b"{}," * 1500,
    b'{"grants": {"subscribe": ["a"]}}',
    b'{"grants": {"subscribe": ["*"], "admin": ["*"]}, "lifetime": 1e300}',
    b'{"grants": {"subscribe": ["' + b"*a" * 60 + b'"]}, "subject": "\\ud83d\\ude00"}',
    b'{"grants": {"\\ud800": []}}', b'{"grants": {"subscribe": ["\\udfff"]}, "lifetime": -1}',
    b'{"grants": []}', b'{"grants": {"subscribe": ["a"]}, "x": 1}', b'{"subject": "x"}', b'{"id": "x"}',
    b'{"subject": "x", "id": "y"}', b'{"id": "\\ud800"}', b'{"subject": "\\u0000"}',
    b'{"subject": "x", "expires": 1e308}', b'{"id": "", "expires": -1}',
    b'{"subject": "' + b"x" * 5000 + b'"}',
    b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nc\r\n--x--\r\n', b"--x\r\n" * 2000,
    b"a=b&c=d", b"message=%C3%A9&event=n", b"data=" + b"&x" * 3000, b'{"channel": "a", "since": "earliest"}',
    b'{"channels": ["a*", "b"], "heartbeat": "event,4", "lastEventId": "0123abcd-1"}', b'{"channels": [[]]}',
    b'{"heartbeat": 4, "x` - at `$[7]": 1}', b'{"chanel": "a"}',
    b"\xef\xbb\xbf{}", b"{" + b" " * 60_000 + b"}", zlib.compress(bytes(500_000)),
    zlib.compressobj(wbits=31).compress(bytes(10)) + b"\x1f\x8b\x08" + bytes(300), b"x" * 70_000,
)  # fmt: skip
KINDS = (
    "text/plain",
    "application/json",
    "application/json",
    "application/x-ndjson",
    "application/octet-stream",
)

GET = b"GET /events HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /send HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = (
    b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(160)),  # a TLS hello
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    GET + b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"GET /status?x=" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: localhost\r\n" + (b"Cookie: " + b"x" * 8000 + b"\r\n") * 5 + b"\r\n",
    GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    GET
    + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    + b"Sec-WebSocket-Version: 13\r\n\r\n\x81\x85\x00\x00\x00\x00hello"
    + GET
    + b"\r\n",
    b"GET /status\r\n",
    b"\r\n\r\n\r\nGET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x00" * 300,
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\r\n" * 20_000,
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    + b"".join(b"a%d: %b\r\n" % (n, b"x" * 4000) for n in range(100)),
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x",
    POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    CHUNKED + b"1;" + b"e" * 200_000,
    CHUNKED + b"1\r\nx\r\n0\r\n" + b"t: v\r\n" * 500,
    CHUNKED + b"-1\r\nx\r\n0\r\n\r\n",
    CHUNKED + b"ffffffffffffffffff\r\nx",
    GET + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    GET + b"Last-Event-ID: a\r\nLast-Event-ID: b, c\r\n\r\n",
    b"GET /status HTTP/1.1\nHost: localhost\n\n",
    b"GET /status HTTP/1.1\rHost: localhost\r\r",
    b"GET /status HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c: d\r\n\te\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n\x16\x03\x01",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
)


class Ending(StrEnum):
    """How a trick leaves, when it has sent what it sends and waited as long as it waits."""

    FIN = "fin"
    RST = "rst"
    HALF = "half"
    """It says that it sends no more, and waits once more."""


@dataclass(frozen=True, slots=True)
class Trick:
    """What one connection sends: in pieces, with seconds between them; and how long it waits for answers."""

    pieces: tuple[bytes, ...]
    requests: int
    pause: float
    patience: float
    ending: Ending


class Inventor:
    """Makes up tricks: the same ones for the same seed. `tokens` are credentials, good and bad.

    With `costly`, which makes up one of its own, every third is by that.
    """

    def __init__(
        self,
        seed: int,
        *,
        tokens: Sequence[str] = (),
        costly: Callable[[random.Random], Trick] | None = None,
    ) -> None:
        self._random = random.Random(seed)
        self._costly = costly
        self._tokens = (*tuple(tokens) * 10, "", "x", "\xff", "a.b.c", "e30.e30.e30", "x" * 8000, "a b", "=")

    def trick(self) -> Trick:
        """Make up the next."""
        if self._costly is not None and self._one_in(3):
            return self._costly(self._random)
        requests = self._requests()
        data = b"".join(requests)
        if self._one_in(8):
            data = self._bent(data)
        return Trick(
            pieces=self._cut(data),
            requests=len(requests),
            pause=self._random.choice((0.0, 0.0, 0.0, 0.002)),
            patience=self._random.choice((0.0, 0.02, 0.02, 0.05, 0.2)),
            ending=self._random.choice((Ending.FIN, Ending.FIN, Ending.RST, Ending.HALF)),
        )

    def _requests(self) -> list[bytes]:
        kind = self._random.random()
        if kind < 0.1:
            return [self._random.choice(WHOLE)]
        if kind < 0.15:
            return [self._stream(), *(self._request() for _ in range(self._random.choice((1, 40, 100))))]
        return [self._request() for _ in range(self._random.choice((1, 1, 1, 2, 5)))]

    def _stream(self) -> bytes:
        return b"GET /events/a HTTP/1.1\r\nHost: localhost\r\n" + self._credential() + b"\r\n"

    def _request(self) -> bytes:
        writes = self._one_in(2)
        version = self._random.choice(VERSIONS) if self._one_in(20) else "1.1"
        first = f"{self._method(writes=writes)} {self._target(writes=writes)} HTTP/{version}"
        head = [first.encode("utf-8", "surrogateescape")]
        if not self._one_in(60):
            head.append(b"Host: localhost")
        lines = [self._header() for _ in range(self._random.choice((0, 0, 1, 1, 2, 4)))]
        body, framing = self._body() if writes or self._one_in(15) else (b"", [])
        end = self._random.choice((b"\n", b"\r", b"\r\n ", b"\r\n\t")) if self._one_in(40) else b"\r\n"
        return end.join([*head, *lines, *framing]) + end + self._credential() + b"\r\n" + body

    def _method(self, *, writes: bool) -> str:
        if self._one_in(20):
            return self._random.choice(ODD_METHODS)
        return self._random.choice(WRITE if writes != self._one_in(20) else READ)

    def _target(self, *, writes: bool) -> str:
        path = self._random.choice(ODD_PATHS if self._one_in(20) else WRITABLE if writes else READABLE)
        pairs = [
            f"{self._random.choice(NAMES)}={self._random.choice(VALUES)}"
            for _ in range(self._random.choice((0, 0, 0, 1, 2, 3)))
        ]
        if self._one_in(20):
            pairs.append(f"access_token={self._random.choice(self._tokens)}")
        if self._one_in(30):
            pairs.append(self._random.choice(ODD_PAIRS))
        return f"{path}?{'&'.join(pairs)}" if pairs else path

    def _header(self) -> bytes:
        name = self._random.choice(ODD_HEADERS if self._one_in(25) else HEADERS)
        said = self._random.choice(ODD_SAID if self._one_in(40) else SAID)
        colon = " : " if self._one_in(40) else self._random.choice((": ", ":", ":\t"))
        line = f"{name}{colon}{said}".encode(*(("utf-8",) if self._one_in(10) else ("latin-1", "replace")))
        return b"\r\n".join([line] * (130 if self._one_in(150) else self._random.choice((1, 1, 1, 1, 2))))

    def _credential(self) -> bytes:
        token = self._random.choice(self._tokens)
        forms: tuple[str, ...] = ("",) * 2
        forms += (f"Authorization: Bearer {token}\r\n",) * 12
        forms += (
            f"authorization:bearer\t{token}\r\n",
            f"Authorization: Basic {token}\r\n",
            f"Authorization: Bearer {token}\r\n" * 2,
            f"Authorization: {token}\r\n",
            f"Cookie: session={token}\r\n",
            f"Cookie: a=b; session={token}; session=x; =; ;;\r\nCookie: session\r\n",
            f"Cookie: session={token}\r\nOrigin: https://a.example\r\n",
        )
        return self._random.choice(forms).encode("latin-1", "replace")

    def _body(self) -> tuple[bytes, list[bytes]]:
        """Return a body as it is sent, and the lines that say how."""
        body = self._random.choice(BODIES)
        kind = [b"Content-Type: " + self._random.choice(KINDS).encode()]
        ways: tuple[Callable[[bytes], tuple[bytes, list[bytes]]], ...] = (
            *(_by_length,) * 8, *(self._by_chunks,) * 4, self._by_another_length, self._by_both, self._zipped,
        )  # fmt: skip
        sent, framing = self._random.choice(ways)(body)
        if self._one_in(12):
            framing.append(b"Expect: 100-continue")
        return sent, kind + framing

    def _by_chunks(self, body: bytes) -> tuple[bytes, list[bytes]]:
        size = self._random.choice((1, 3, 1000, 100_000))
        cuts = range(0, min(len(body), size * 300), size)
        chunks = [chunk(body[begin : begin + size]) for begin in cuts]
        end = self._random.choice(
            (b"0\r\n\r\n",) * 6 + (b"0\r\nA: b\r\n\r\n", b"0\r\n", b"", b"0;x=y\r\n\r\n", b"x\r\n\r\n")
        )
        if self._one_in(6):
            odd = self._random.choice((b";e=" + b"v" * 900 + b"\r\n", b"\n", b" \r\n"))
            chunks = [each.replace(b"\r\n", odd, 1) for each in chunks]
        return b"".join(chunks) + end, [b"Transfer-Encoding: chunked"]

    def _by_another_length(self, body: bytes) -> tuple[bytes, list[bytes]]:
        length = self._random.choice((len(body) - 1, len(body) + 1, len(body) + 5000, 10**9, 10**15))
        return body, [b"Content-Length: %d" % length]

    def _by_both(self, body: bytes) -> tuple[bytes, list[bytes]]:
        sent, framing = self._by_chunks(body)
        return sent, self._random.choice(([*framing, *_by_length(body)[1]], [*_by_length(body)[1], *framing]))

    def _zipped(self, body: bytes) -> tuple[bytes, list[bytes]]:
        zipped, framing = _by_length(zlib.compress(body))
        return zipped, [
            *framing,
            b"Content-Encoding: " + self._random.choice((b"deflate", b"gzip", b"br", b"x")),
        ]

    def _bent(self, data: bytes) -> bytes:
        bent = bytearray(data)
        for _ in range(self._random.choice((1, 1, 3, 20))):
            place = self._random.randrange(min(len(bent), 600) + 1)
            match self._random.randrange(5):
                case 0:
                    bent[place : place + 1] = self._random.randbytes(1)
                case 1:
                    del bent[place : place + self._random.randrange(1, 40)]
                case 2:
                    bent[place:place] = bent[place : place + 80]
                case 3:
                    bent[place:place] = self._random.choice(
                        (b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b"\xff", b":", b"%")
                    )
                case _:
                    bent[place:place] = self._random.randbytes(self._random.choice((1, 5, 50)))
        return bytes(bent)

    def _cut(self, data: bytes) -> tuple[bytes, ...]:
        """Cut it in pieces; sometimes the last of them is never sent."""
        if self._one_in(8):
            data = data[: self._random.randrange(len(data) + 1)]
        many = self._random.choice((0, 0, 0, 1, 2, 12))
        cuts = sorted(self._random.randrange(len(data) + 1) for _ in range(many))
        return tuple(data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True))

    def _one_in(self, count: int) -> bool:
        return self._random.randrange(count) == 0


def _by_length(body: bytes) -> tuple[bytes, list[bytes]]:
    return body, [b"Content-Length: %d" % len(body)]
