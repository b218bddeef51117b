"""The order of the modules: arrows go one way, and each has its tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sse_broadcast"

# From the bottom: a module imports only what stands before it.
NOUNS = ["errors", "event", "wire", "config", "metrics", "publication", "subscriber", "audience"]
NOUNS += ["hub", "delivery", "stream", "broadcaster", "client"]
ROOMS = ["server", "cli"]
LEAVES = {"config": {"errors"}, "metrics": set[str](), "client": {"errors", "event", "wire"}}
DRIVERS = {"aiohttp", "aiohttp_sse", "click", "uvloop"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in {"__init__.py", "__main__.py"})


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found |= (
                {f"{module}.{alias.name}" for alias in node.names} if module == "sse_broadcast" else {module}
            )
    return found


def ours(path: Path) -> set[str]:
    prefix = "sse_broadcast."
    return {name.removeprefix(prefix) for name in imports(path) if name.startswith(prefix)}


def test_every_module_has_a_place() -> None:
    """A new file at the top, or a new room, is a decision and not an accident."""
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert tops == {*NOUNS, *ROOMS}


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_imports_only_what_stands_before_it(noun: str) -> None:
    """No noun knows a room, and none knows a noun above it."""
    allowed = LEAVES.get(noun, {before for before in NOUNS[: NOUNS.index(noun)] if before != "client"})
    assert ours(PACKAGE / f"{noun}.py") <= allowed


@pytest.mark.parametrize("noun", [noun for noun in NOUNS if noun != "client"])
def test_a_noun_knows_no_driver(noun: str) -> None:
    """aiohttp, click and the loops stay in the rooms; the client is their client."""
    assert not {name.split(".")[0] for name in imports(PACKAGE / f"{noun}.py")} & DRIVERS


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != PACKAGE], ids=name_of)
def test_rooms_point_one_way(path: Path) -> None:
    """The command line knows the server and the client; the server knows neither."""
    room = path.parent.name
    others = {name.split(".")[0] for name in ours(path)} - {room}
    assert "cli" not in others
    if room == "server":
        assert "client" not in others
        assert "click" not in imports(path)


def test_only_the_sink_touches_a_transport() -> None:
    """Whoever writes to a transport obeys the rules at the head of that file."""
    for path in MODULES:
        if name_of(path) not in {"server.sink", "server.door"}:
            assert ".transport" not in path.read_text(), path


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_its_tests(path: Path) -> None:
    """Tests mirror modules."""
    *rooms, module = path.relative_to(PACKAGE).with_suffix("").parts
    assert ROOT.joinpath("tests", *rooms, f"test_{module}.py").exists()
