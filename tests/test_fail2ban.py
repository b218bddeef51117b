"""The shipped fail2ban filter, on lines that a real server has logged."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.conftest import Program
from tests.support import process
from tests.support.process import Programs, Serving
from tests.support.sockets import RawClient

FILTER = Path(__file__).parent.parent / "docs" / "deploy" / "fail2ban" / "filter.conf"

programs = pytest.fixture(process.programs)


async def ask(serving: Serving, method: str, path: str, *headers: str) -> int:
    client = await RawClient.open(serving.port)
    said = "".join(f"{header}\r\n" for header in headers)
    status, _ = await client.ask(method, path, body=b"", headers=said)
    client.close()
    return status


async def lines_of(programs: Programs, form: str, tmp_path: Path) -> str:
    """Return the log of a server for refused requests of several clients, and for accepted ones."""
    token = tmp_path / "token"
    token.write_text("a-token-that-nobody-knows")
    serving = await programs.serve(
        "--token-file",
        str(token),
        "--trusted-proxies",
        "127.0.0.1",
        "--log-format",
        form,
        "--log-level",
        "debug",
    )
    statuses = [
        await ask(serving, "POST", "/send", "X-Forwarded-For: 192.0.2.1"),
        await ask(serving, "POST", "/send", "X-Forwarded-For: 192.0.2.2", "Authorization: Bearer wrong"),
        # A path with the text of a log line about another client.
        await ask(
            serving, "POST", "/x%20refused%20192.0.2.99:%20401%20GET%20/", "X-Forwarded-For: 192.0.2.3"
        ),
        await ask(serving, "GET", "/healthz", "X-Forwarded-For: 192.0.2.4"),
        await ask(serving, "GET", "/status", "X-Forwarded-For: 2001:db8::7"),
    ]
    assert statuses == [401, 401, 404, 200, 401]
    serving.process.send_signal(signal.SIGTERM)
    return (await serving.process.ended()).err.decode()


@pytest.mark.parametrize("form", ["text", "json"])
async def test_fail2ban_finds_the_refused_clients(
    programs: Programs, program: Program, tmp_path: Path, form: str
) -> None:
    log = tmp_path / "log"
    log.write_text(await lines_of(programs, form, tmp_path))
    found = await asyncio.create_subprocess_exec(
        program("fail2ban-regex"), "--out", "ip", str(log), str(FILTER), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await found.communicate()
    assert out.decode().split() == ["192.0.2.1", "192.0.2.2", "2001:db8::7"]
