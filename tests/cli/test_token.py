"""`sse-broadcast token`."""

import calendar
import re
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.auth.principal import EVERYTHING, Action, Grants, Principal
from sse_broadcast.config.schema import Config
from tests.support import process
from tests.support.certificates import write_certificate
from tests.support.process import Ended, Programs
from tests.support.signing import OTHER_SECRET, SECRET, jwk, jwks, public_file, token

programs = pytest.fixture(process.programs)

TOKEN = "correct-horse-battery"
ENV = {"SSE_BROADCAST_TOKEN_SECRET": SECRET}

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
MADE = re.compile(rb"id: ([0-9a-f]{24})\nexpires: (" + TIME.encode() + rb")\n")


async def mint(programs: Programs, *arguments: str, env: dict[str, str] = ENV) -> bytes:
    """Issue a token, and return it with its line end."""
    ended = await programs.run("token", "mint", *arguments, env=env)
    assert (ended.code, MADE.fullmatch(ended.err) is not None) == (0, True), ended
    return ended.out


def without_time(ended: Ended) -> Ended:
    return Ended(ended.code, re.sub(rf"{TIME}, in -?\d+ s".encode(), b"TIME", ended.out), ended.err)


async def test_an_issued_token_can_be_inspected(programs: Programs) -> None:
    """Only the token is on standard output, so that it can be stored or piped."""
    made = await programs.run(
        "token", "mint", "--subject", "robot", "--subscribe", "orders.*", "--subscribe", "news",
        "--publish", "logs", "--lifetime", "10m", env=ENV,
    )  # fmt: skip
    said = MADE.fullmatch(made.err)
    assert said is not None
    assert re.fullmatch(rb"[\w-]+\.[\w-]+\.[\w-]+\n", made.out)
    checked = await programs.run("token", "check", env=ENV, stdin=made.out)
    assert said[2] in checked.out
    assert without_time(checked) == Ended(
        0,
        b"subject: robot\nid: " + said[1] + b"\nexpires: TIME\n"
        b"publish: logs\nsubscribe: news, orders.*\ninspect: nothing\nadmin: nothing\n",
    )


@pytest.mark.parametrize(
    ("arguments", "seconds"), [(["--lifetime", "90s"], 90), (["--lifetime", "1h"], 3600), ([], 3600)]
)
async def test_a_token_has_the_given_lifetime(programs: Programs, arguments: list[str], seconds: int) -> None:
    before = int(time.time())
    made = await programs.run("token", "mint", "--inspect", "*", *arguments, env=ENV)
    said = MADE.fullmatch(made.err)
    assert said is not None
    expires = time.strptime(said[2].decode(), "%Y-%m-%dT%H:%M:%SZ")
    assert before + seconds <= calendar.timegm(expires) <= time.time() + seconds


async def test_settings_are_those_of_the_server(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "server.toml").write_text(f'token_secret_file = "{tmp_path}/secret"\ntoken_lifetime = 60\n')
    config = ("--config", f"{tmp_path}/server.toml")
    made = await mint(programs, "--inspect", "a", *config, env={})
    assert (await programs.run("token", "check", *config, stdin=made)).code == 0
    assert (
        await programs.run("token", "check", env={"SSE_BROADCAST_CONFIG": config[1]}, stdin=made)
    ).code == 0
    longer = await programs.run("token", "mint", "--inspect", "a", "--lifetime", "61s", *config)
    assert longer == Ended(2, err=b"sse-broadcast: --lifetime: 61 s is more than token_lifetime, 60 s\n")


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        ([], 2, "Error: --subscribe, --publish, --inspect: give at least one of them."),
        (["--subscribe", "a/b"], 2, "Invalid value for '--subscribe': channel: must not contain '/': 'a/b'"),
        (["--inspect", ""], 2, "Invalid value for '--inspect': channel: must be 1 to 128 characters: ''"),
        (["--admin", "a"], 2, "Error: No such option '--admin'."),
        (["--publish", "a", "--lifetime", "10"], 2, "'10' is not a time such as 90s, 10m or 8h"),
        (["--publish", "a", "--lifetime", "0s"], 2, "'0s' is not a time such as 90s, 10m or 8h"),
        (["--publish", "a", "--lifetime", ""], 2, "'' is not a time such as 90s, 10m or 8h"),
        (["--publish", "a", "--lifetime", "-1s"], 2, "'-1s' is not a time such as 90s, 10m or 8h"),
        (["--publish", "a", "--lifetime", "2h"], 2, "--lifetime: 7200 s is more than token_lifetime, 3600 s"),
        (["--publish", "a", "--subject", ""], 1, "subject: must be 1 to 255 characters, not 0"),
    ],
)
async def test_an_impossible_token_is_refused(
    programs: Programs, arguments: list[str], code: int, problem: str
) -> None:
    ended = await programs.run("token", "mint", *arguments, env=ENV)
    assert (ended.code, ended.out) == (code, b"")
    assert ended.err.decode().rstrip().endswith(problem)


async def test_without_a_secret_no_token_is_issued(programs: Programs) -> None:
    """No server would accept it."""
    assert await programs.run("token", "mint", "--publish", "a") == Ended(
        2,
        err=b"sse-broadcast: token_secret: is not set, set SSE_BROADCAST_TOKEN_SECRET "
        b"or give --config FILE\n",
    )


async def test_a_static_token_can_be_inspected(programs: Programs, tmp_path: Path) -> None:
    """It has no id, and does not expire."""
    (tmp_path / "server.toml").write_text(
        f'[[caller]]\nname = "page"\ntoken = "{TOKEN}"\nsubscribe = ["news"]\nadmin = ["*"]\n'
    )
    (tmp_path / "page.token").write_text(f"{TOKEN}\n")
    where = ("--config", f"{tmp_path}/server.toml", "--file", f"{tmp_path}/page.token")
    assert await programs.run("token", "check", *where) == Ended(
        0,
        b"subject: page\nid: none\nexpires: never\n"
        b"publish: nothing\nsubscribe: news\ninspect: nothing\nadmin: *\n",
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--action", "subscribe", "--channel", "orders.17"], None),
        (["--action", "subscribe", "--channel", "orders.*"], None),
        (["--action", "subscribe", "--channel", "news"], "subscribe 'news': the token does not allow it"),
        (["--action", "subscribe"], "subscribe '*': the token does not allow it"),
        (["--action", "publish", "--channel", "a.b"], "publish 'a.b': the token does not allow it"),
        (["--action", "inspect"], None),
        (["--action", "admin"], "admin '*': the token does not allow it"),
    ],
)
async def test_one_permission_is_answered_by_the_exit_code(
    programs: Programs, arguments: list[str], problem: str | None
) -> None:
    """The answer is printed too. Without a channel it is about the whole server."""
    grants: Grants = {Action.SUBSCRIBE: ("orders.*",), Action.INSPECT: ("*",)}
    authenticator = Authenticator(Config(token_secret=SECRET))
    made = authenticator.issue(grants, subject="a", lifetime=60.0, by=Principal(EVERYTHING)).token
    ended = await programs.run("token", "check", *arguments, env=ENV, stdin=made.encode())
    if problem is None:
        asked = f"{arguments[1]} {arguments[3] if len(arguments) > 2 else '*'!r}"
        assert (ended.code, ended.err) == (0, b"")
        assert ended.out.decode().endswith(f"\n{asked}: allowed\n")
    else:
        assert (ended.code, ended.err.decode()) == (1, f"sse-broadcast: {problem}\n")


async def test_an_expired_token_is_refused(programs: Programs) -> None:
    """The error has the time."""
    made = await mint(programs, "--inspect", "*", "--lifetime", "1ms")
    ended = await programs.run("token", "check", env=ENV, stdin=made)
    assert (ended.code, ended.out) == (1, b"")
    assert re.fullmatch(rf"sse-broadcast: token: expired at {TIME}\n", ended.err.decode())


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"", "token: none is given"),
        (b"\n", "token: none is given"),
        (b"garbage\n", "token: is not known"),
        (b"a.b.c", "token: is not valid: Invalid header padding"),
        (b"\xff\xfe", "token: contains a character that is not ASCII"),
        (b"x" * 100_000, "token: is longer than 8192 characters"),
        (token("RS256").encode(), "token: is signed with an unknown key"),
    ],
)
async def test_a_malformed_token_is_refused(programs: Programs, said: bytes, problem: str) -> None:
    """The error has the reason and nothing of the token."""
    ended = await programs.run("token", "check", env=ENV, stdin=said)
    assert ended == Ended(1, err=f"sse-broadcast: {problem}\n".encode())


async def test_a_token_of_another_server_is_refused(programs: Programs) -> None:
    made = await mint(programs, "--inspect", "*")
    ended = await programs.run("token", "check", env={"SSE_BROADCAST_TOKEN_SECRET": OTHER_SECRET}, stdin=made)
    assert ended == Ended(1, err=b"sse-broadcast: token: its signature is wrong\n")


@pytest.mark.parametrize(
    ("arguments", "env", "problem"),
    [
        (["--channel", "a"], ENV, "Error: --channel: needs --action."),
        (["--action", "delete"], ENV, "'delete' is not one of 'publish', 'subscribe', 'inspect', 'admin'."),
        (["--action", "publish", "--channel", "a/b"], ENV, "channel: must not contain '/': 'a/b'"),
        (["--file", "/none"], ENV, "--file: /none: cannot be read: No such file or directory"),
        ([], {}, "token: the server has no credentials configured, so it accepts no token"),
        ([], {"SSE_BROADCAST_TOKEN_SECRET": "x"}, "token_secret: must have at least 32 bytes, not 1"),
        (["--config", "/none"], ENV, "/none: cannot be read: No such file or directory"),
    ],
)
async def test_an_unknown_permission_is_refused(
    programs: Programs, arguments: list[str], env: dict[str, str], problem: str
) -> None:
    ended = await programs.run("token", "check", *arguments, env=env, stdin=b"garbage")
    assert (ended.code, ended.out) == (2, b"")
    assert ended.err.decode().rstrip().endswith(problem)


async def test_a_token_cannot_be_an_argument(programs: Programs) -> None:
    """Every user of the machine could read it."""
    assert (await programs.run("token", "check", TOKEN, env=ENV)).code == 2


async def test_a_signed_token_is_checked_by_the_key_of_its_issuer(programs: Programs, tmp_path: Path) -> None:
    claims = {"sub": "ann", "exp": time.time() + 60, "grants": {"publish": ["a"]}}
    env = {"SSE_BROADCAST_JWT_KEY_FILE": public_file(tmp_path, "EdDSA")}
    good = await programs.run("token", "check", env=env, stdin=token("EdDSA", claims).encode())
    assert without_time(good) == Ended(
        0,
        b"subject: ann\nid: none\nexpires: TIME\npublish: a\nsubscribe: nothing\ninspect: nothing\n"
        b"admin: nothing\n",
    )
    other = {**claims, "aud": "somebody"}
    bad = await programs.run("token", "check", env=env, stdin=token("EdDSA", other).encode())
    assert bad == Ended(1, err=b"sse-broadcast: token: is for another audience: 'somebody' (aud)\n")


AUTHORITY = trustme.CA()


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[str]:
    """Publish keys over TLS, and yield their URL."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=jwks(jwk("EdDSA", kid="a")))

    app = web.Application()
    app.router.add_get("/jwks", answer)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*write_certificate(AUTHORITY, tmp_path))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://127.0.0.1:{site.port}/jwks"
    await runner.cleanup()


async def test_keys_are_fetched_from_a_trusted_server_only(
    programs: Programs, issuer: str, tmp_path: Path
) -> None:
    """A server with an untrusted certificate gives no keys, and the error has that reason."""
    AUTHORITY.cert_pem.write_to_path(f"{tmp_path}/ca.pem")
    claims = {"sub": "ann", "exp": time.time() + 60, "grants": {}}
    text = token("EdDSA", claims, header={"kid": "a"}).encode()
    env = {"SSE_BROADCAST_JWT_JWKS": issuer}
    trusting = {**env, "SSL_CERT_FILE": f"{tmp_path}/ca.pem"}
    assert (await programs.run("token", "check", env=trusting, stdin=text)).code == 0
    ended = await programs.run("token", "check", env=env, stdin=text)
    warning, refusal, end = ended.err.decode().split("\n")
    assert warning.startswith(f"jwt_jwks: '{issuer}' cannot be read: ")
    assert "certificate verify failed" in warning
    assert (ended.code, refusal, end) == (
        1,
        "sse-broadcast: token: is signed with an unknown key",
        "",
    )
