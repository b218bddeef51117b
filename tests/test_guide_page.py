"""docs/guide.md: followed step by step, to live updates of each visitor's own channel in a browser."""

import asyncio
import ipaddress
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import yaml
from playwright.async_api import Browser, Page

from sse_broadcast.config.sources import ENV_PREFIX, load, unknown_variables
from tests.conftest import Program, Serve
from tests.support import process
from tests.support.browser import chromium
from tests.support.fronts import free_port, is_listening, replaced
from tests.support.pages import ROOT, page
from tests.support.process import Ended, Process, Programs
from tests.support.shell import bash, serving_at
from tests.support.sockets import until

GUIDE = page("docs/guide.md")
BLOCKS = GUIDE.blocks
README = page("README.md")

BACK_ENDS = {"php": BLOCKS["token-php"], "django": BLOCKS["token-django"]}
INSTALLS, MAKES_TOKEN, SERVES = BLOCKS["serve"].code.splitlines(keepends=True)

PAID = 'paid: {"order":17}'
"""The event of step 5, as the page shows it."""

programs = pytest.fixture(process.programs)


def test_every_block_has_a_test() -> None:
    here = Path(__file__).read_text()
    assert all(block.name for block in GUIDE.every_block)
    assert {name for name in BLOCKS if f'"{name}"' not in here} == set()


def test_the_guide_installs_as_the_readme_does() -> None:
    """tests/test_readme.py runs the same command in a fresh clone."""
    assert README.blocks["serve"].code.startswith(f"{INSTALLS.strip()} && ")


PHP = """<?php
$path = parse_url($_SERVER["REQUEST_URI"], PHP_URL_PATH);
if ($path === "/live-token") require "live-token.php";
elseif ($path === "/login") { session_start(); $_SESSION["user_id"] = $_GET["user"]; }
elseif ($path === "/") readfile("page.html");
else http_response_code(404);
"""
"""A back end with logins, around the guide's file."""

DJANGO = """
import sys
from pathlib import Path
from types import SimpleNamespace
from wsgiref.simple_server import make_server

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"], MIDDLEWARE=["__main__.visitor"], ROOT_URLCONF="__main__", SECRET_KEY="x" * 50
)
django.setup()

from live_token import live_token
from django.http import HttpResponse


def visitor(get_response):
    def middleware(request):
        user = request.COOKIES.get("user")
        request.user = SimpleNamespace(pk=user, is_authenticated=user is not None)
        return get_response(request)

    return middleware


def login(request):
    response = HttpResponse()
    response.set_cookie("user", request.GET["user"])
    return response


urlpatterns = [
    path("live-token", live_token),
    path("login", login),
    path("", lambda request: HttpResponse(Path("page.html").read_text())),
]
make_server("127.0.0.1", int(sys.argv[1]), get_wsgi_application()).serve_forever()
"""
"""The same around the guide's view."""

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; {user}
events {{ }}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    access_log {folder}/access.log; gzip on; gzip_types *;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{back_end}; proxy_set_header Host $http_host; }}
{pasted}
    }}
}}
"""

CADDY = """
{{
	admin off
	auto_https off
}}
http://:{port} {{
	bind 127.0.0.1
{pasted}
	reverse_proxy 127.0.0.1:{back_end}
}}
"""


@dataclass(slots=True)
class Shop:
    """The guide's site: server, back end and proxy, each in its own process."""

    programs: Programs
    program: Program
    folder: Path
    port: int = field(default_factory=free_port)
    """The server's."""
    back_end: int = field(default_factory=free_port)
    site: int = field(default_factory=free_port)
    server: Process | None = None

    @property
    def url(self) -> str:
        """Return the URL of the site for visitors."""
        return f"http://127.0.0.1:{self.site}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the environment of step 2."""
        return {"SSE_BROADCAST_TOKEN": (self.folder / "token").read_text().strip()}

    async def serve(self) -> None:
        """Start the server as step 1 does, without the installation."""
        command = replaced(SERVES, {".venv/bin/sse-broadcast serve": "exec sse-broadcast serve"}).strip()
        code = f"exec 2>&1\n{command} --port {self.port}"
        self.server = await bash(self.programs, code, self.port, folder=self.folder)
        assert await serving_at(self.server) == f"http://127.0.0.1:{self.port}"

    async def kill(self) -> None:
        """Kill the server, and wait until its port is closed."""
        assert self.server is not None
        self.server.signal_all(signal.SIGKILL)
        await until(lambda: not is_listening(self.port))

    async def run(self, name: str, **env: str) -> Ended:
        """Run a block of shell commands."""
        code = BLOCKS[name].at(self.port).replace("https://shop.example", self.url)
        command = f"{BLOCKS['environment'].code}{code}"
        return await (await bash(self.programs, command, self.port, folder=self.folder, env=env)).ended()

    async def start_back_end(self, kind: str, changes: Mapping[str, str]) -> None:
        """Start the back end, which issues tokens and serves the page, with the token of step 2."""
        token = replaced(BACK_ENDS[kind].at(self.port), changes)
        if kind == "php":
            (self.folder / "live-token.php").write_text(token)
            (self.folder / "site.php").write_text(PHP)
            options = f"-d session.save_path={self.folder} -S 127.0.0.1:{self.back_end} site.php"
            command = f"{self.program('php')} {options}"
        else:
            (self.folder / "live_token.py").write_text(token)
            (self.folder / "site_of_the_shop.py").write_text(DJANGO)
            command = f"{sys.executable} site_of_the_shop.py {self.back_end}"
        code = f"{BLOCKS['environment'].code}exec 2>&1\nexec {command}"
        await bash(self.programs, code, self.port, folder=self.folder)
        await until(lambda: is_listening(self.back_end))

    async def start_proxy(self, kind: str) -> None:
        """Start a web server with the site, and with the lines of step 4 in its configuration."""
        pasted = replaced(BLOCKS[kind].code, {"127.0.0.1:8000": f"127.0.0.1:{self.port}"})
        pasted = pasted.replace("/var/log/nginx/", f"{self.folder}/")
        around = {"folder": self.folder, "port": self.site, "back_end": self.back_end, "pasted": pasted}
        config = self.folder / f"{kind}.conf"
        path = self.program(kind)
        if kind == "nginx":
            user = "user root;" if os.geteuid() == 0 else ""
            config.write_text(NGINX.format(**around, user=user))
            await self.programs.start(path, "-c", str(config), "-e", f"{self.folder}/error.log")
        else:
            config.write_text(CADDY.format(**around))
            homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(self.folder))
            command = ("run", "--adapter", "caddyfile", "--config", str(config))
            await self.programs.start(path, *command, env=homes)
        await until(lambda: is_listening(self.site))

    async def status(self) -> dict[str, Any]:
        """Return the counters of the server."""
        token = self.environment["SSE_BROADCAST_TOKEN"]
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
            answer: dict[str, Any] = (await client.get(f"http://127.0.0.1:{self.port}/status")).json()
            return answer

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for a counter of the server."""
        async with asyncio.timeout(60):
            while not condition(await self.status()):
                await asyncio.sleep(0.01)

    async def publish(self) -> None:
        """Publish as step 5 does."""
        ended = await self.run("publish")
        assert (ended.code, ended.out[:17]) == (0, b'{"status":"sent",')


@asynccontextmanager
async def opened(
    programs: Programs,
    program: Program,
    folder: Path,
    *,
    back_end: str = "php",
    proxy: str = "nginx",
    token: Mapping[str, str] | None = None,
) -> AsyncIterator[Shop]:
    """Follow the guide up to step 4, optionally with replaced text in the back end's code."""
    for name in ("curl", "openssl"):
        program(name)
    shop = Shop(programs, program, folder)
    made = await (await bash(programs, MAKES_TOKEN, 0, folder=folder)).ended()
    assert made == Ended(0)
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    await shop.serve()
    await shop.start_back_end(back_end, token or {})
    await shop.start_proxy(proxy)
    yield shop


async def visit(browser: Browser, shop: Shop, user: int, changes: Mapping[str, str] | None = None) -> Page:
    """Log in, and open the page of step 3. The test controls its clock, which also runs by itself."""
    (shop.folder / "page.html").write_text(replaced(BLOCKS["page"].code, changes or {}))
    tab = await (await browser.new_context()).new_page()
    await tab.clock.install()
    await tab.goto(f"{shop.url}/login?user={user}")
    await tab.goto(shop.url)
    await tab.wait_for_function("source?.readyState === EventSource.OPEN")
    return tab


async def shows(tab: Page, *lines: str) -> None:
    """Wait until the page has as many lines as expected, and compare all of them."""
    await tab.wait_for_function(f"document.querySelectorAll('li').length >= {len(lines)}")
    assert await tab.locator("li").all_inner_texts() == list(lines)


@pytest.mark.parametrize(
    ("back_end", "proxy"), [("php", "nginx"), ("django", "nginx"), ("php", "caddy")], ids=str
)
async def test_each_visitor_gets_its_own_channel_and_renews_its_token(
    back_end: str, proxy: str, programs: Programs, program: Program, tmp_path: Path
) -> None:
    """Events are live over a renewal before the expiry: none is lost or comes twice."""
    async with (
        opened(programs, program, tmp_path, back_end=back_end, proxy=proxy) as shop,
        chromium(program) as browser,
    ):
        seven, eight = [await visit(browser, shop, user) for user in (7, 8)]
        await shop.publish()
        await shows(seven, PAID)
        first = await seven.evaluate("source.url")
        await seven.clock.fast_forward(481_000)
        await shop.until(lambda status: status["opened"] == 3 and status["connected_clients"] == 2)
        assert await seven.evaluate("source.url") != first
        await shop.publish()
        await shows(seven, PAID, PAID)
        await shows(eight)
        assert (await shop.status())["closed"].get("expired", 0) == 0


async def test_a_page_that_slept_renews_its_expired_token(
    programs: Programs, program: Program, tmp_path: Path
) -> None:
    """The stream ends with `$close`, `expired`. Events published meanwhile arrive."""
    short = {'"lifetime" => 600': '"lifetime" => 2'}
    asleep = {"visitor.seconds * 0.8": "visitor.seconds * 1000", "CLOSED) again(3)": "CLOSED) void 0"}
    async with (
        opened(programs, program, tmp_path, token=short) as shop,
        chromium(program) as browser,
    ):
        tab = await visit(browser, shop, 7, asleep)
        await shop.until(lambda status: status["closed"].get("expired", 0) >= 1)
        await shop.publish()
        await shows(tab, PAID)


async def test_a_page_survives_a_killed_server(programs: Programs, program: Program, tmp_path: Path) -> None:
    """The proxy's 502 stops the EventSource. The page reconnects with a new token."""
    soon = {"return again(3)": "return again(0.05)", "CLOSED) again(3)": "CLOSED) again(0.05)"}
    async with opened(programs, program, tmp_path) as shop, chromium(program) as browser:
        tab = await visit(browser, shop, 7, soon)
        await shop.publish()
        await shows(tab, PAID)
        await shop.kill()
        await tab.wait_for_function("source.readyState === EventSource.CLOSED")
        await shop.serve()
        await shop.until(lambda status: status["connected_clients"] == 1)
        await shop.publish()
        reset = '$reset: {"reason": "epoch", "channels": ["user.7"], "missed": null}'
        await shows(tab, PAID, reset, PAID)


async def test_a_visitor_without_login_gets_no_token(
    programs: Programs, program: Program, tmp_path: Path
) -> None:
    """Both back ends respond with 403."""
    for back_end in ("php", "django"):
        folder = tmp_path / back_end
        folder.mkdir()
        async with (
            opened(programs, program, folder, back_end=back_end) as shop,
            httpx.AsyncClient() as client,
        ):
            assert (await client.get(f"{shop.url}/live-token")).status_code == 403


async def test_the_proxy_exposes_nothing_else(programs: Programs, program: Program, tmp_path: Path) -> None:
    """Only the paths of step 6 are reachable, and no token is in a log."""
    async with opened(programs, program, tmp_path) as shop, httpx.AsyncClient(base_url=shop.url) as client:
        await client.get("/login?user=8")
        answer = await client.get("/live-token")
        assert answer.headers["Cache-Control"] == "no-store"
        token = answer.json()["token"]
        assert 0 < answer.json()["seconds"] <= 600
        checked = await shop.run("check", TOKEN_OF_VISITOR_8=token)
        assert checked.out.split() == [b"401", b"403", b"404"]
        logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
        assert "/live-token" in logs
        assert "access_token" not in logs
        assert token not in logs


async def test_a_back_end_may_sign_tokens_itself(serve: Serve, tmp_path: Path) -> None:
    """The server has its key. The token is for one channel and ten minutes, and can be revoked."""
    key = tmp_path / "key"
    key.write_text("a-secret-of-at-least-thirty-two-bytes")
    server = await serve(jwt_key_file=str(key), token="a-token-of-the-back-end")
    program: dict[str, Any] = {}
    exec(BLOCKS["token-jwt"].code, program)
    token = program["token_for"](7, key.read_text())
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 600
    async with httpx.AsyncClient(base_url=server.url) as client:
        for channel, status in (("user.7", 200), ("user.8", 403)):
            head = await client.head(f"/events/{channel}", params={"access_token": token})
            assert head.status_code == status
        admin = {"Authorization": "Bearer a-token-of-the-back-end"}
        (revokes,) = re.findall(r'`POST /revoke` with `(\{"subject": "user\.7"\})`', GUIDE.text)
        json_type = {"Content-Type": "application/json"}
        revoked = await client.post("/revoke", content=revokes, headers={**admin, **json_type})
        assert revoked.status_code == 200
        head = await client.head("/events/user.7", params={"access_token": token})
        assert head.status_code == 401


async def test_the_commands_for_systemd_install_the_units(programs: Programs, tmp_path: Path) -> None:
    """They run in another root. tests/test_systemd.py checks the units with systemd."""
    install, *rest = BLOCKS["systemd"].code.splitlines(keepends=True)
    prefix = "python3 -m venv /opt/sse-broadcast && /opt/sse-broadcast/bin/pip install "
    assert install.strip() == f"{prefix}{INSTALLS.strip().partition('pip install ')[2]}"
    root, path = tmp_path / "root", tmp_path / "path"
    (root / "etc/systemd/system").mkdir(parents=True)
    path.mkdir()
    (path / "systemctl").write_text('#!/bin/sh\necho "$@"\n')
    (path / "systemctl").chmod(0o755)
    (tmp_path / "token").write_text("a-token-of-somebody\n")
    code = "".join(rest).replace("/etc/", f"{root}/etc/").replace("docs/", f"{ROOT}/docs/")
    ended = await (
        await bash(programs, code, 0, folder=tmp_path, env={"PATH": f"{path}:{os.environ['PATH']}"})
    ).ended()
    units = "sse-broadcast.socket sse-broadcast.service"
    assert ended == Ended(0, f"daemon-reload\nenable --now {units}\n".encode())
    for unit in units.split():
        installed = (root / "etc/systemd/system" / unit).read_text()
        assert installed == (ROOT / "docs/deploy/systemd" / unit).read_text()
    assert (root / "etc/sse-broadcast/token").stat().st_mode & 0o777 == 0o600
    environment = dict([(root / "etc/sse-broadcast/environment").read_text().strip().split("=")])
    assert load({}, environ=environment).config.trusted_proxies == ("127.0.0.1",)


def test_the_compose_file_has_the_described_services() -> None:
    """Its gateway is trusted, its port is on loopback only, and the server knows each variable."""
    document = yaml.safe_load(BLOCKS["compose"].code)
    (server,) = document["services"].values()
    environment = {name: str(value) for name, value in server["environment"].items()}
    assert environment["SSE_BROADCAST_TOKEN"].startswith("${SSE_BROADCAST_TOKEN:?")
    environment["SSE_BROADCAST_TOKEN"] = "a-token-of-somebody"
    assert all(name.startswith(ENV_PREFIX) for name in environment)
    assert unknown_variables(environment) == {}
    config = load({}, environ=environment).config
    (network,) = document["networks"]["default"]["ipam"]["config"]
    assert config.trusted_proxies == (network["gateway"],)
    assert ipaddress.ip_address(network["gateway"]) in ipaddress.ip_network(network["subnet"])
    assert server["ports"] == ["127.0.0.1:8000:8000"]
    assert "EXPOSE 8000\n" in (ROOT / "Dockerfile").read_text()
    whole = yaml.safe_load((ROOT / "docs/deploy/compose.yaml").read_text())["services"]["sse-broadcast"]
    assert str(whole["environment"]["SSE_BROADCAST_MAX_CONNECTIONS"]) == str(config.max_connections)
    assert (whole["mem_limit"], whole["ulimits"]) == (server["mem_limit"], server["ulimits"])
