"""The order of the modules: arrows go one way, and each has its tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sse_broadcast"

# From the bottom: a module imports only what stands before it.
NOUNS = [
    "errors",
    "event",
    "clock",
    "work_queue",
    "count",
    "suggestions",
    "json_depth",
    "reminder",
    "wire",
    "encoding",
    "cursor",
    "config",
    "settings",
    "metrics",
    "march",
    "interest",
    "policy",
]
NOUNS += ["publication", "catchup", "conflation", "subscriber", "audience", "census"]
NOUNS += ["pattern_index", "hub", "delivery"]
NOUNS += ["stream", "broadcaster", "backoff", "reconnection", "client"]
ROOMS = ["backends", "auth", "logs", "server", "cli"]
LEAVES = {
    "clock": set[str](),
    "work_queue": set[str](),
    "count": set[str](),
    "suggestions": set[str](),
    "json_depth": set[str](),
    "config": {"errors", "suggestions"},
    "settings": {"errors", "suggestions", "config"},
    "metrics": set[str](),
    "march": set[str](),
    "backoff": {"errors"},
    "reconnection": {"errors", "event", "wire", "backoff"},
    "client": {"errors", "event", "wire", "backoff", "reconnection"},
}
EXTRAS = {"jwt", "cryptography", "uvloop"}
DRIVERS = {"aiohttp", "aiohttp_sse", "click", "uvloop"}

# What the contract with a backend is written in; the nouns behind that may know the contract.
CONTRACT = "backends.base"
TERMS = NOUNS[: NOUNS.index("publication") + 1]
# And from the bottom again.
BACKENDS = ["base", "counted", "lazy_heap", "largest", "retired_ids", "history", "idempotency", "memory"]
AUTH = ["access", "secret", "bearer", "claims", "keys", "jwks", "jwt", "mint", "revocation", "verified"]
AUTH += ["authority"]
LOGS = ["formats", "flood", "gathered", "writer", "log"]

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


def allowed_to(noun: str) -> set[str]:
    if noun in LEAVES:
        return LEAVES[noun]
    before = {*NOUNS[: NOUNS.index(noun)]} - {"client"}
    if noun in TERMS:
        return before
    opened = {"backends.memory", "backends.counted"} if noun == "broadcaster" else set[str]()
    return {*before, CONTRACT, *opened}


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_imports_only_what_stands_before_it(noun: str) -> None:
    """No noun knows a room but the contract with a backend, and the broadcaster what it opens and counts."""
    assert ours(PACKAGE / f"{noun}.py") <= allowed_to(noun)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("backends/[a-z]*.py")), ids=name_of)
def test_a_backend_knows_what_is_published_and_not_who_reads_it(path: Path) -> None:
    """Nothing above a publication, no driver of the server's, and of its own room what stands before it."""
    before = {f"backends.{module}" for module in BACKENDS[: BACKENDS.index(path.stem)]}
    assert ours(path) <= {*TERMS, *before}
    assert not {name.split(".")[0] for name in imports(path)} & DRIVERS


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("auth/[a-z]*.py")), ids=name_of)
def test_credentials_know_nothing_of_requests(path: Path) -> None:
    """Of the nouns four, of its own room what stands before it, and HTTP only where keys are fetched."""
    before = {f"auth.{module}" for module in AUTH[: AUTH.index(path.stem)]}
    assert ours(path) <= {"config", "errors", "interest", "json_depth", *before}
    drivers = {"aiohttp"} if path.stem == "jwks" else set[str]()
    assert {name.split(".")[0] for name in imports(path)} & DRIVERS <= drivers


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("logs/[a-z]*.py")), ids=name_of)
def test_logs_know_nothing_of_what_is_logged(path: Path) -> None:
    """Of the nouns the configuration, of their own room what stands before it, and no driver."""
    before = {f"logs.{module}" for module in LOGS[: LOGS.index(path.stem)]}
    assert ours(path) <= {"config", *before}
    assert not {name.split(".")[0] for name in imports(path)} & DRIVERS


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_an_extra_is_imported_where_it_is_needed(path: Path) -> None:
    """Inside a function: a server that does without it need not have it."""
    tops = ast.parse(path.read_text()).body
    names = {each.name for node in tops if isinstance(node, ast.Import) for each in node.names}
    names |= {node.module or "" for node in tops if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & EXTRAS


@pytest.mark.parametrize("noun", [noun for noun in NOUNS if noun != "client"])
def test_a_noun_knows_no_driver(noun: str) -> None:
    """aiohttp, click and the loops stay in the rooms; the client is their client."""
    assert not {name.split(".")[0] for name in imports(PACKAGE / f"{noun}.py")} & DRIVERS


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != PACKAGE], ids=name_of)
def test_rooms_point_one_way(path: Path) -> None:
    """The command line knows the server and the client, the server neither; of backends both the contract."""
    room = path.relative_to(PACKAGE).parts[0]
    others = {name.split(".")[0] for name in ours(path)} - {room}
    assert "cli" not in others
    if room != "backends":
        assert {name for name in ours(path) if name.split(".")[0] == "backends"} <= {CONTRACT}
    if room == "server":
        assert "client" not in others
        assert "click" not in imports(path)


def test_only_the_sink_touches_a_transport() -> None:
    """Whoever writes to a transport obeys the rules at the head of that file."""
    for path in MODULES:
        if name_of(path) not in {"server.sink", "server.door", "server.connection"}:
            assert ".transport" not in path.read_text(), path


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_its_tests(path: Path) -> None:
    """Tests mirror modules."""
    *rooms, module = path.relative_to(PACKAGE).with_suffix("").parts
    assert ROOT.joinpath("tests", *rooms, f"test_{module}.py").exists()
