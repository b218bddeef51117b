"""GET / and GET /client.js: who is given what, and what a page may do."""

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from sse_broadcast.config.schema import Endpoint, ListenerRule
from sse_broadcast.server.endpoints.console import FILES, client_file, page_file
from sse_broadcast.server.runner import Server
from sse_broadcast.version import __version__
from tests.conftest import Connect, Program, Serve, missing
from tests.support.sockets import RawClient

HTML = "Accept: text/html,*/*;q=0.8\r\n"
CLIENTS = Path(__file__).parents[2] / "clients"


async def answered(client: RawClient, path: str, headers: str = "") -> tuple[int, dict[str, str], bytes]:
    """Return status, headers by their names in lower case, and body."""
    await client.request("GET", path, headers=headers)
    head = await client.head()
    lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:] if line]
    said = {name.lower(): value for name, _, value in lines}
    body = b""
    if size := int(said.get("content-length", 0)):
        body = await client.take(size)
    return int(head.split()[1]), said, body


async def test_a_program_is_told_what_is_here(client: RawClient) -> None:
    """In lines that it can run."""
    status, said, body = await answered(client, "/")
    assert (status, said["content-type"]) == (200, "text/plain; charset=utf-8")
    assert body.decode() == (
        f"sse-broadcast {__version__}\n\n"
        "curl -N http://localhost/events                # subscribe to the channel `default`\n"
        "curl -N http://localhost/events/orders,chat.*  # to channels and patterns\n"
        "curl -d hello http://localhost/send            # publish to `default`\n"
        "curl -d hello http://localhost/send/orders     # to another channel\n"
        "curl http://localhost/status                   # what the server does\n"
        "curl http://localhost/openapi.json             # all of its interface\n"
        '\nWhere a token is needed: -H "Authorization: Bearer $TOKEN"\n'
        "A browser gets the console here.\n"
    )


async def test_a_browser_is_given_a_page_that_may_do_little(client: RawClient) -> None:
    """Its own script and style, by their hashes, and requests to this server; in nobody's frame."""
    status, said, body = await answered(client, "/", HTML)
    assert (status, said["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(each.split(" ", 1) for each in said["content-security-policy"].split("; "))
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy.pop("script-src"))
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy.pop("style-src"))
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert said["x-frame-options"] == "DENY"
    assert said["referrer-policy"] == "no-referrer"
    assert said["x-content-type-options"] == "nosniff"
    assert said["vary"] == "Accept, Accept-Encoding"
    assert b"/*script*/" not in body
    assert b"/*style*/" not in body


async def test_the_page_and_the_module_need_no_credential(serve: Serve, connect: Connect) -> None:
    """A browser sends none with them, or an old cookie; the page asks for a token."""
    server = await serve(token="t" * 40, cookie="session")
    for path in ("/", "/client.js"):
        client = await connect(server)
        assert (await answered(client, path, f"{HTML}Cookie: session=old\r\n"))[0] == 200


@pytest.mark.parametrize(
    ("endpoints", "page", "module"),
    [
        ((Endpoint.CONSOLE,), 200, 404),
        ((Endpoint.SUBSCRIBE,), 404, 200),
        ((Endpoint.INSPECT, Endpoint.ADMIN), 404, 404),
    ],
)
async def test_a_listener_may_leave_them_out(
    serve: Serve, endpoints: tuple[Endpoint, ...], page: int, module: int
) -> None:
    """The methods that they take, too."""
    server = await serve(listener=(ListenerRule(host="127.0.0.1", port=0, endpoints=endpoints),))
    for path, status in (("/", page), ("/client.js", module)):
        client = await RawClient.open(server.port)
        assert (await answered(client, path, HTML))[0] == status
        assert (await answered(client, path))[0] == status
        client.close()


async def test_the_console_may_be_switched_off(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(console=False))
    for headers in ("", HTML):
        status, body = await client.ask("GET", "/", headers=headers)
        assert (status, json.loads(body)["detail"]) == (
            404,
            "nothing is at /; GET /events subscribes, POST /send publishes",
        )


async def test_any_page_may_load_the_module(client: RawClient) -> None:
    status, said, body = await answered(client, "/client.js", "Origin: https://elsewhere.example\r\n")
    assert status == 200
    assert said["access-control-allow-origin"] == "*"
    assert said["cross-origin-resource-policy"] == "cross-origin"
    assert said["content-type"] == "text/javascript; charset=utf-8"
    assert body == (FILES / "client" / "client.js").read_bytes()
    status, said, _ = await answered(client, "/client.js", f"If-None-Match: {said['etag']}\r\n")
    assert status == 304


async def test_caches_keep_answers_to_origins_apart(serve: Serve, connect: Connect) -> None:
    """Where pages of some origins are named, besides the other differences."""
    server = await serve(cors_origins=("https://app.example",))
    client = await connect(server)
    _, said, _ = await answered(client, "/client.js", "Origin: https://app.example\r\n")
    assert said["vary"] == "Accept-Encoding, Origin"


async def test_both_are_small() -> None:
    """The module below 4 KB, all of the console below 60 KB, as a browser is sent them."""
    assert client_file().transferred_bytes < 4096
    assert page_file().transferred_bytes < 61_440


def test_the_module_is_a_package_of_npm() -> None:
    """Its files are there, and the package has the version of the server."""
    folder = FILES / "client"
    package = json.loads((folder / "package.json").read_text())
    assert package["version"] == __version__
    assert package["exports"]["."] == {"types": "./client.d.ts", "default": "./client.js"}
    for name in package["files"]:
        assert (folder / name).is_file()


USE = """
import { subscribe, type Received } from "./client.js";
const events: Received[] = [];
const subscription = subscribe("/events", {
  channels: ["orders", "chat.*"],
  user: "alice",
  token: async ({ rejected }) => ({ token: String(rejected), expires: 1 }),
  lastEventId: "0a1b2c3d-7",
  onevent: (event) => events.push(event),
  onreset: ({ reason, missed }) => console.log(reason, missed),
  onclose: ({ reason }) => console.log(reason),
  onerror: ({ status }) => console.log(status),
});
subscription.close();
// @ts-expect-error
subscribe("/events", { chanels: ["orders"] });
"""


def test_the_module_is_typed(program: Program, tmp_path: Path) -> None:
    """The module agrees with its declarations, and a strict program that uses it does too."""
    node, tsc = program("node"), CLIENTS / "node_modules" / "typescript" / "lib" / "tsc.js"
    if not tsc.is_file():
        missing("the packages of npm are not installed: npm ci --prefix tests/clients")
    for name in ("client.js", "client.d.ts"):
        (tmp_path / name).write_bytes((FILES / "client" / name).read_bytes())
    (tmp_path / "use.ts").write_text(USE)
    common = ["--noEmit", "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--module", "esnext"]
    lax = ["--allowJs", "--checkJs", "--strict", "--noImplicitAny", "false", "--strictNullChecks", "false"]
    lax += ["--useUnknownInCatchVariables", "false", "--moduleResolution", "bundler"]
    for arguments in ([*lax, "client.js"], ["--strict", "--moduleResolution", "bundler", "use.ts"]):
        done = subprocess.run(
            [node, tsc, *common, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


async def test_the_page_is_compressed(server: Server, connect: Connect) -> None:
    client = await connect(server)
    _, said, body = await answered(client, "/", f"{HTML}Accept-Encoding: gzip\r\n")
    assert said["content-encoding"] == "gzip"
    assert gzip.decompress(body).startswith(b"<!doctype html>")
