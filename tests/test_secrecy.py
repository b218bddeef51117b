"""Secrecy: a token appears in no response, output or log, wherever a client sends it."""

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.credentials import (
    OWN_SECRET,
    STATIC,
    altered,
    confused,
    own,
    signed,
    static,
    unsigned,
    write_jwks,
)
from tests.support.process import Programs, announced, programs
from tests.support.signing import SECRET
from tests.support.sockets import RawClient

start = pytest.fixture(programs, name="programs")

PIECE = 12
"""Characters of a token that no other text has by accident."""

BY_FILE = "of-a-caller-by-its-file-0123456789"
BY_VARIABLE = "of-a-caller-by-its-variable-0123456789"
NOBODYS = "of-nobody.at-all_0123456789"


class Pieces:
    """Substrings of one length. A regular expression of all of them takes a minute for a log."""

    def __init__(self, found: set[str]) -> None:
        self._found = found

    def search(self, text: str) -> str | None:
        """Return the first of them in a text."""
        windows = (text[begin : begin + PIECE] for begin in range(len(text) - PIECE + 1))
        return next((window for window in windows if window in self._found), None)


def pieces(secrets: list[str]) -> Pieces:
    """Return every substring of a secret, plain and as in JSON or a URL."""
    found = {secret[begin : begin + PIECE] for secret in secrets for begin in range(len(secret) - PIECE + 1)}
    # The header of a signed token is no secret, and the same in all.
    found -= {piece for piece in found if any(piece in secret.partition(".")[0] + "." for secret in SIGNED)}
    return Pieces(found)


SIGNED = [
    signed("RS256"),
    signed("HS256", jti="one"),
    signed(exp=time.time() - 5),
    signed(aud="another.example"),
    altered(signed(), sub="eve"),
    unsigned(),
    confused(),
    own(),
    own(exp=time.time() - 5),
]
TOKENS = [STATIC, static("reader"), BY_FILE, BY_VARIABLE, NOBODYS, *SIGNED]
SECRETS = [*TOKENS, OWN_SECRET, SECRET]
LEAK = pieces(SECRETS)


def configure(folder: Path) -> Path:
    """Write a configuration with every kind of credential."""
    file, token_file, caller_file = folder / "config.toml", folder / "token", folder / "caller"
    token_file.write_text(f"{STATIC}\n")
    caller_file.write_text(BY_FILE)
    file.write_text(f"""
port = 0
log_level = "debug"
token_file = "{token_file}"
cookie = "visitor"
jwt_jwks = "{write_jwks(folder)}"
jwt_issuer = "https://issuer.example"
jwt_audience = "sse.example"
cors_origins = ["https://app.example"]
# So that whatever is left open ends soon.
body_timeout = 0.1
head_timeout = 0.2
lifetime = 0.05

[[caller]]
name = "reader"
token = "{static("reader")}"
subscribe = ["*"]

[[caller]]
name = "by-file"
token_file = "{caller_file}"
publish = ["*"]

[[caller]]
name = "by-variable"
token_env = "CALLER"
inspect = ["*"]
""")
    return file


ENVIRONMENT = {"SSE_BROADCAST_TOKEN_SECRET": OWN_SECRET, "CALLER": BY_VARIABLE}

DOINGS = ["GET /events", "HEAD /events", "POST /send", "GET /status", "GET /channels/a", "POST /tokens"]
DOINGS += ["POST /events", "POST /revoke", "GET /nope", "DELETE /send", "OPTIONS /events", "GET /healthz"]

JSON = "Content-Type: application/json\r\n"


HOST = "Host: localhost\r\nConnection: close\r\n"


def request(line: str, headers: str = "", body: str = "") -> str:
    return f"{line} HTTP/1.1\r\n{HOST}Content-Length: {len(body)}\r\n{headers}\r\n{body}"


def send_everywhere(token: str) -> Iterator[str]:
    """Send a token in every place of every request, in its own and in all wrong ones."""
    for doing in DOINGS:
        method, path = doing.split()
        yield request(doing, f"Authorization: Bearer {token}\r\n", "x" if doing == "POST /send" else "")
        yield request(doing, f"Cookie: visitor={token}\r\nOrigin: https://evil.example\r\n")
        yield request(f"{method} {path}?access_token={token}")
    for headers in (
        f"Authorization: {token}\r\n",
        f"Authorization: Basic {token}\r\n",
        f"Authorization: Bearer {token} {token}\r\n",
        f"Authorization: Bearer {token}\r\n" * 2,
        f"Cookie: visitor={token}; visitor={token}\r\n",
        f"Cookie: {token}\r\n",
        f'Cookie: visitor="{token}\r\n',
    ):
        yield request("GET /events", headers)
    for query in (
        f"access_token={token}&access_token={token}",
        f"acces_token={token}",
        f"ACCESS_TOKEN={token}",
        f"access_token={token}&since=x&format=x",
        f"access_token={token}%ff",
        f"access_token={token}&sinse=1",
        f"%61ccess_token={token}",
    ):
        yield request(f"GET /events?{query}")
        yield request(f"GET /events?{query}", f"Authorization: Bearer {STATIC}\r\n")
    for body in (
        {"grants": {}, "token": token},
        {"grants": {"subscribe": {"a": token}}},
        {"grants": {}, "lifetime": token},
        {"id": "x", "expires": token},
        [token],
        token,
    ):
        for path in ("/tokens", "/revoke"):
            yield request(f"POST {path}", f"{JSON}Authorization: Bearer {STATIC}\r\n", json.dumps(body))
    yield request("POST /tokens", f"{JSON}Authorization: Bearer {STATIC}\r\n", f'{{"grants": {{}} {token}')
    for subscription in ({"token": token}, {"access_token": token}, {"channel": [[token]]}, [token], token):
        yield request("POST /events", f"{JSON}Authorization: Bearer {STATIC}\r\n", json.dumps(subscription))
    for event in ({"message": "x", "token": token}, {"message": {"token": token}}, [{"data": 1, "t": token}]):
        yield request("POST /send", f"{JSON}Authorization: Bearer {STATIC}\r\n", json.dumps(event))
    form = "Content-Type: application/x-www-form-urlencoded\r\n"
    yield request("POST /send", f"{form}Authorization: Bearer {STATIC}\r\n", f"message=x&private={token}")


def send_malformed(token: str) -> Iterator[str]:
    """Send a token in malformed requests."""
    header = f"Authorization: Bearer {token}"
    lines = f"{HOST}{header}\r\n\r\n"
    for line in (
        f"GÄT /events?access_token={token} HTTP/1.1",
        f"GET /events?access_token={token} HTTP/9.9",
        f"GET /events?access_token={token} HTTP/1.1 x",
        f"GET /events?access_token={token}",
        f"GET  /events?access_token={token} HTTP/1.1",
        f"GET /events?access_token={token}\x01 HTTP/1.1",
        f"GET /events?access_token={token}\udcff HTTP/1.1",
        f"GET http://[x/events?access_token={token} HTTP/1.1",
        f"GET http://x:y/events?access_token={token} HTTP/1.1",
        f"GET //x@[/events?access_token={token} HTTP/1.1",
        f"CONNECT {token} HTTP/1.1",
        f"{token} / HTTP/1.1",
        f"GET /events?access_token={token * 400} HTTP/1.1",
    ):
        yield f"{line}\r\n{lines}"
    for headers in (
        f"Authorization Bearer {token}\r\n",
        f"{header}\x00\r\n",
        f"{header}\n x\r\n",
        f" {header}\r\n",
        f"Authorization : Bearer {token}\r\n",
        f"{header}{'x' * 9000}\r\n",
        f"{header}\r\n" * 200,
        f"{token}: x\r\n",
        f"{header}\r\nContent-Length: {token}\r\n",
        f"{header}\r\nTransfer-Encoding: {token}\r\n",
        f"{header}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        f"{header}\r\nHost: x\r\n",
        f"{header}\r\nUpgrade: {token}\r\nConnection: Upgrade\r\n",
    ):
        yield f"GET /events HTTP/1.1\r\n{HOST}{headers}\r\n"
    for body in (f"{token}\r\n", f"5;{token}\r\nhello\r\nx{token}", f"5\r\nhello{token}\r\n0\r\n\r\n"):
        chunked = f"Authorization: Bearer {STATIC}\r\n{JSON}Transfer-Encoding: chunked\r\n"
        yield f"POST /tokens HTTP/1.1\r\n{HOST}{chunked}\r\n{body}"
        yield f"POST /send?stream=1 HTTP/1.1\r\n{HOST}{chunked}\r\n{body}"
    yield f"GET /events HTTP/1.1\r\n{header}\r\n\r\n"
    yield f"\x16\x03\x01{token}\r\n\r\n"


async def response_to(port: int, text: str) -> str:
    """Send bytes, and return the response up to the end of the connection."""
    client = await RawClient.open(port)
    try:
        await client.send(text.encode("utf-8", "surrogateescape"))
        return (await client.rest()).decode("latin-1")
    except ConnectionError:
        return client.buffer.decode("latin-1")
    finally:
        client.close()


TALKATIVE = """\
import sys
from sse_broadcast.cli import main
from sse_broadcast.logs import rate_limit
rate_limit.MAX_LINES_A_SECOND = sys.maxsize
sys.exit(main())
"""
"""The command without the rate limit of log lines."""


@pytest.mark.parametrize(("format", "debug"), [("text", " DEBUG "), ("json", '"level":"debug"')])
async def test_a_token_appears_nowhere(programs: Programs, tmp_path: Path, format: str, debug: str) -> None:
    """Tokens are good or bad, in their place or another, or in bytes that are not HTTP."""
    command = (sys.executable, "-c", TALKATIVE, "serve", "--config", str(configure(tmp_path)))
    serving = await announced(await programs.start(*command, "--log-format", format, env=ENVIRONMENT))
    count = 0
    for token in TOKENS:
        texts = [*send_everywhere(token), *send_malformed(token)]
        count += len(texts)
        answers = await asyncio.gather(*(response_to(serving.port, text) for text in texts))
        for text, answer in zip(texts, answers, strict=True):
            assert LEAK.search(answer) is None, (text, answer)
    assert count > 1000
    response = await response_to(
        serving.port,
        request(
            "POST /tokens", f"{JSON}Authorization: Bearer {STATIC}\r\n", '{"grants": {"subscribe": ["a"]}}'
        ),
    )
    token = json.loads(response.partition("\r\n\r\n")[2])["token"]
    assert "200 OK" in await response_to(serving.port, request(f"HEAD /events/a?access_token={token}"))
    ended = await serving.stop()
    assert ended.code == 0
    said = (ended.out + ended.err + "".join(serving.tries).encode()).decode()
    assert debug in said
    assert "published " in said
    assert said.count("Error handling request from ") > 200
    assert "Traceback" not in said
    assert LEAK.search(said) is None
    assert pieces([token]).search(said) is None


async def test_a_generated_token_is_printed_once(programs: Programs) -> None:
    soon = ("--body-timeout", "0.1", "--head-timeout", "0.2", "--lifetime", "0.05")
    process = await programs.cli("serve", "--host", "0.0.0.0", "--port", "0", "--log-level", "debug", *soon)
    said = b""
    while b"Bearer" not in said:
        said += await process.line()
    (token,) = re.findall(r"Bearer ([\w-]{43})", said.decode())
    (port,) = re.findall(r"listens on http://0\.0\.0\.0:(\d+)", said.decode())
    for text in (*send_everywhere(token), *send_malformed(token)):
        assert token not in await response_to(int(port), text), text
    process.send_signal(signal.SIGTERM)
    ended = await process.ended()
    assert ended.code == 0
    assert (said + ended.out + ended.err).decode().count(token) == 1


async def test_show_config_has_no_secrets(programs: Programs, tmp_path: Path) -> None:
    ended = await programs.run(
        "serve", "--config", str(configure(tmp_path)), "--show-config", env=ENVIRONMENT
    )
    assert ended.code == 0
    said = (ended.out + ended.err).decode()
    assert LEAK.search(said) is None
    assert 'token_secret = "(not shown)"' in said
    assert said.count("(not shown)") == 2


@pytest.mark.parametrize(
    "lines",
    [
        f'token = "{STATIC}"\ntoken_file = "x"',
        f'token = "{STATIC} "',
        f'token = ["{STATIC}"]',
        f'token_secret = "{NOBODYS}"',
        f'tokens = "{STATIC}"',
        f'token = "{STATIC}\n',
        f'token = "{STATIC}"\n[[caller]]\nname = "a"\ntoken = "{STATIC}"',
        f'[[caller]]\nname = "a"\ntoken = "{STATIC}"\n[[caller]]\nname = "b"\ntoken = "{STATIC}"',
        f'[[caller]]\nname = "a"\ntoken = ["{STATIC}"]',
        f'[[caller]]\nname = "a"\ntoken = "{STATIC}"\ntoken_env = "X"',
        f'[[caller]]\nname = "a"\ntoken = "{STATIC}é"',
    ],
)
async def test_a_failed_start_shows_no_secrets(programs: Programs, tmp_path: Path, lines: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(lines)
    ended = await programs.run("serve", "--port", "0", "--config", str(file))
    assert ended.code == 2
    said = (ended.out + ended.err).decode()
    assert said.startswith("sse-broadcast: ")
    assert LEAK.search(said) is None
