"""What operators do with a file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sse_broadcast.backends.sqlite import maintenance
from sse_broadcast.backends.sqlite.file import StoreFile
from sse_broadcast.backends.sqlite.maintenance import Summary
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config, Durability
from sse_broadcast.errors import StoreError
from tests.backends.contract import Case
from tests.backends.sqlite.cases import tiered


async def opened(path: Path, **settings: object) -> Case:
    config = Config(**settings)  # type: ignore[arg-type]
    case = Case(ChannelPolicies(config))
    case.backend = tiered(path, config, case.policies, case.deliver, case.clock)
    await case.backend.start()
    return case


async def filled(path: Path) -> None:
    case = await opened(path)
    await case.publish("a b", "é\0\n", type="t", id="mine", retry=700, key="k")
    case.clock.now += 5
    await case.publish("a", '{"n":1}', json=True)
    await case.publish("b", "x")
    await case.backend.aclose()


def lines_of(path: Path) -> list[bytes]:
    with maintenance.reading(path) as db:
        return list(maintenance.exported(db))


async def test_events_are_exported_and_imported_as_they_are(tmp_path: Path) -> None:
    """Every field, in order, with their times; the ids of ours are new."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    await filled(old)
    lines = lines_of(old)
    assert lines[0] == (
        b'{"channels":["a","b"],"data":"\xc3\xa9\\u0000\\n","time":1700000000.0,"event":"t","id":"mine","key":"k",'
        b'"retry":700}\n'
    )
    assert lines[1] == b'{"channels":["a"],"data":"{\\"n\\":1}","time":1700000005.0,"json":true}\n'
    assert list(maintenance.import_lines(new, [lines[0], b"\n", *lines[1:]])) == [1, 3]
    assert lines_of(new) == lines
    case = await opened(new)
    assert (await case.since("earliest", "a", "b")).positions == [1, 2, 3]
    assert (await case.since("mine", "a")).positions == [2]
    await case.backend.aclose()


async def test_an_import_stands_behind_what_is_there(tmp_path: Path) -> None:
    """Who followed before is given it."""
    path = tmp_path / "a.db"
    case = await opened(path)
    last = (await case.publish("a", "before")).id
    await case.backend.aclose()
    assert list(maintenance.import_lines(path, [b'{"channels":["a"],"data":"after","time":1.0}'])) == [1]
    case = await opened(path)
    (position,) = (await case.since(last, "a")).positions
    assert position > 1
    await case.backend.aclose()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nonsense", "line 2: JSON is malformed"),
        (b'{"channels":["a/b"],"data":"x","time":1.0}', "line 2: channel: must not contain"),
        (
            b'{"channels":["a"],"data":"x","time":1.0,"more":1}',
            "line 2: Object contains unknown field `more`",
        ),
        (b'{"channels":["a"],"data":"x","time":1.0,"id":"\\n"}', "line 2: id: must not contain LF"),
    ],
)
def test_a_bad_line_imports_nothing(tmp_path: Path, line: bytes, said: str) -> None:
    """It is named, and the file is as it was."""
    path = tmp_path / "a.db"
    good = b'{"channels":["a"],"data":"x","time":1.0}'
    with pytest.raises(StoreError, match=said) as error:
        list(maintenance.import_lines(path, [good, line]))
    assert str(error.value).startswith(f"{path}: nothing was imported: ")
    assert maintenance.check_file(path).events == 0


async def test_a_file_is_checked_while_a_server_has_it(tmp_path: Path) -> None:
    """So is it exported; what would change it is refused."""
    path = tmp_path / "a.db"
    case = await opened(path)
    await case.publish("a b")
    assert maintenance.check_file(path) == Summary(1, 2, StoreFile(path, Durability.FULL).bytes, 1)
    assert len(lines_of(path)) == 1
    for change in (lambda: maintenance.compact_file(path), lambda: list(maintenance.import_lines(path, []))):
        with pytest.raises(StoreError, match=f"is in use by process {os.getpid()}"):
            change()
    await case.backend.aclose()


async def test_a_compacted_file_is_smaller(tmp_path: Path) -> None:
    """It holds what it held."""
    path = tmp_path / "a.db"
    case = await opened(path)
    for _ in range(20):
        await case.publish("a", "x" * 50_000)
    await case.publish("b", "kept")
    await case.backend.clear("a")
    await case.backend.aclose()
    before, after = maintenance.compact_file(path)
    assert after <= before
    assert after < 200_000
    assert [b"kept" in line for line in lines_of(path)] == [True]


async def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """With what to do; an export of it ends there."""
    path = tmp_path / "a.db"
    case = await opened(path)
    for _ in range(20):
        await case.publish("a", "x" * 20_000)
    await case.backend.aclose()
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(os.urandom(4096 * 40))
    with pytest.raises(
        StoreError, match=r"is damaged \(.+\); restore a backup, or move it away to begin anew"
    ):
        maintenance.check_file(path)


@pytest.mark.parametrize("act", [maintenance.check_file, lines_of])
def test_a_file_that_is_not_there_is_not_made(tmp_path: Path, act: Callable[[Path], object]) -> None:
    """A mistyped name is told."""
    path = tmp_path / "a.db"
    with pytest.raises(StoreError, match="there is no such file"):
        act(path)
    assert not path.exists()
