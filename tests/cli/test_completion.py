"""`sse-broadcast completion`."""

from pathlib import Path

import pytest

from tests.conftest import Program
from tests.support import process
from tests.support.process import SCRIPT, Programs

programs = pytest.fixture(process.programs)

COMPLETE = """
source "$1"
PATH="$2:$PATH"
COMP_WORDS=(sse-broadcast $3) COMP_CWORD=$4
_sse_broadcast_completion sse-broadcast
printf "%s\\n" "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_each_shell_has_a_script(programs: Programs, shell: str) -> None:
    ended = await programs.run("completion", shell)
    assert (ended.code, ended.err) == (0, b"")
    assert f"_SSE_BROADCAST_COMPLETE={shell}_complete".encode() in ended.out


@pytest.mark.parametrize(
    ("typed", "word", "offered"),
    [
        ("pu", 1, ["publish"]),
        ("publish --re", 2, ["--retry", "--retry-for"]),
        ("completion f", 2, ["fish"]),
        ("token m", 2, ["mint"]),
        ("subscribe --format j", 3, ["json"]),
    ],
)
async def test_bash_completes_with_it(
    programs: Programs, program: Program, tmp_path: Path, typed: str, word: int, offered: list[str]
) -> None:
    script = tmp_path / "completion"
    script.write_bytes((await programs.run("completion", "bash")).out)
    bash = await programs.start(
        "bash", "--norc", "-c", COMPLETE, "bash", str(script), str(SCRIPT.parent), typed, str(word)
    )
    ended = await bash.ended()
    assert sorted(ended.out.decode().split()) == offered


async def test_another_shell_is_bad_usage(programs: Programs) -> None:
    ended = await programs.run("completion", "csh")
    assert ended.code == 2
    assert b"'csh' is not one of 'bash', 'zsh', 'fish'" in ended.err
