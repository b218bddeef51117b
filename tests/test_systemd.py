"""The units of `docs/deploy/systemd`: checked by systemd, and with the server."""

import re
import signal
from pathlib import Path

import pytest

from sse_broadcast.config.schema import Config
from tests.conftest import Program
from tests.support import process
from tests.support.process import SCRIPT, Ended, Programs
from tests.support.supervision import Notices, Supervisor, tcp_socket

programs = pytest.fixture(process.programs)

FOLDER = Path(__file__).parents[1] / "docs" / "deploy" / "systemd"
SERVICE = FOLDER / "sse-broadcast.service"
SOCKET = FOLDER / "sse-broadcast.socket"

EXPOSURE = 20
"""The maximum exposure of `systemd-analyze security`, in tenths. Up to 20 it is called OK."""


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the settings of a unit by name. A repeated one has several values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def units(tmp_path: Path) -> tuple[Path, Path]:
    for unit in (SERVICE, SOCKET):
        text = unit.read_text().replace("/opt/sse-broadcast/bin/sse-broadcast", str(SCRIPT))
        (tmp_path / unit.name).write_text(text)
    return tmp_path / SERVICE.name, tmp_path / SOCKET.name


async def test_systemd_finds_no_error(programs: Programs, program: Program, units: tuple[Path, Path]) -> None:
    verify = await programs.start(program("systemd-analyze"), "verify", *map(str, units))
    assert await verify.ended() == Ended(0)


async def test_systemd_calls_the_service_hardened(
    programs: Programs, program: Program, units: tuple[Path, Path]
) -> None:
    command = ("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(units[0]))
    security = await programs.start(program("systemd-analyze"), *command)
    ended = await security.ended()
    assert ended.code == 0, ended.out.decode()


def test_the_units_fit_each_other_and_the_server() -> None:
    """The socket is that of the service, and the time to stop is enough."""
    service, config = settings(SERVICE), Config()
    assert service["Requires"] == [SOCKET.name]
    assert SOCKET.stem == SERVICE.stem
    (patience,) = service["TimeoutStopSec"]
    assert float(patience) > config.drain_delay + config.drain_timeout + config.shutdown_timeout
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


@pytest.mark.parametrize("unit", [SERVICE, SOCKET], ids=lambda unit: unit.suffix)
def test_a_unit_has_a_description(unit: Path) -> None:
    first, second, *_ = unit.read_text().splitlines()
    assert all(re.fullmatch(r"# .{40,}", line) for line in (first, second))


async def test_the_server_runs_as_in_the_units(programs: Programs, tmp_path: Path) -> None:
    """It has a socket by name, a token in a file and a watchdog: it gets ready, and stops with 0."""
    token = tmp_path / "token"
    token.write_text("a-token-of-somebody\n")
    (name,) = settings(SOCKET)["FileDescriptorName"]
    (variable,) = settings(SERVICE)["Environment"]
    (watchdog,) = settings(SERVICE)["WatchdogSec"]
    with (
        Notices(str(tmp_path / "notify")) as notices,
        Supervisor(programs, tcp_socket(), names=[name]) as supervisor,
    ):
        env = {
            "NOTIFY_SOCKET": notices.address,
            "WATCHDOG_USEC": f"{watchdog}000000",
            variable.partition("=")[0]: str(token),
        }
        server = await supervisor.start(env=env)
        url = f"http://127.0.0.1:{supervisor.port}"
        assert await notices.next() == ["READY=1", f"STATUS=listens on {url}"]
        assert await notices.next() == ["WATCHDOG=1"]
        assert await (await programs.cli("health", "--url", url)).ended() == Ended(0)
        server.send_signal(signal.SIGHUP)
        assert (await notices.next())[0] == "RELOADING=1"
        assert (await notices.next())[0] == "READY=1"
        server.send_signal(signal.SIGTERM)
        assert (await notices.next())[0] == "STOPPING=1"
        assert (await server.ended()).code == 0
