"""Stores by key: each is in the table of SECURITY.md, or no client can fill it."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sse_broadcast"
SECURITY = ROOT / "docs" / "SECURITY.md"

NO_SERVER = ("bench", "cli", "client", "doctor", "reconnection", "backoff")
"""What runs at the other end of a connection."""

MEMOS = {"lru_cache", "cache", "cached_property"}

CONTAINERS = {"dict", "set", "OrderedDict", "defaultdict", "Counter", "ChainMap"}
CONTAINERS |= {"WeakValueDictionary", "WeakKeyDictionary", "WeakSet", "MultiDict", "CIMultiDict"}

CHANGES = {"add", "update", "setdefault", "pop", "popitem", "clear", "discard", "remove"}
"""Methods that are called only on a container that changes."""


def name_of(node: ast.AST) -> str:
    """Return the last part of a name: `lru_cache` of `functools.lru_cache(maxsize=1)`."""
    match node:
        case ast.Call(func=func) | ast.Subscript(value=func):
            return name_of(func)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def is_container(node: ast.AST | None) -> bool:
    """Return whether an expression makes a dict or a set, once or for each object."""
    match node:
        case ast.Dict() | ast.DictComp() | ast.Set() | ast.SetComp():
            return True
        case ast.IfExp(body=body, orelse=orelse):
            return is_container(body) or is_container(orelse)
        case ast.BoolOp(values=values):
            return any(map(is_container, values))
        case ast.Call():
            return makes_container(node)
    return False


def makes_container(call: ast.Call) -> bool:
    """Return whether a call returns one: `dict()`, `dict.fromkeys()`, `field(default_factory=dict)`."""
    match call:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="dict"), attr="fromkeys")):
            return True
        case ast.Call(func=ast.Name(id="field"), keywords=keywords):
            made = (each.value for each in keywords if each.arg == "default_factory")
            return any(name_of(kind) in CONTAINERS for kind in made)
    return name_of(call) in CONTAINERS


class Stores(ast.NodeVisitor):
    """Finds the stores of a module: caches of functions, and dicts and sets of modules and objects."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.found: set[str] = set()
        self._scope = [module]
        self._changed = set(_changed(tree))
        self.visit(tree)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if MEMOS & set(map(name_of, node.decorator_list)):
            self._find(node.name)
        self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node)

    def visit_Call(self, node: ast.Call) -> None:
        # functools.lru_cache(...)(function), and cache(function)
        if name_of(node.func) in MEMOS and not isinstance(node.func, ast.Name | ast.Attribute):
            self._find("lru_cache()")
        elif name_of(node.func) == "cache" and isinstance(node.func, ast.Name | ast.Attribute) and node.args:
            self._find("cache()")
        elif name_of(node.func) == "MemoryStore":
            self._find("MemoryStore")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assigned(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._assigned(node.target, node.value)
        self.generic_visit(node)

    def _inside(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope.append(node.name)
        self.generic_visit(node)
        self._scope.pop()

    def _assigned(self, target: ast.AST, value: ast.AST | None) -> None:
        if not is_container(value):
            return
        match target:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                self.found.add(".".join([*self._scope[:-1], name]))
            case ast.Attribute(attr=name):
                self._find(name)
            case ast.Subscript(value=ast.Name(id="app"), slice=key):
                self._find(f"app[{name_of(key)}]")
            case ast.Name(id=name) if len(self._scope) == 1 and name in self._changed:
                self._find(name)
            case ast.Name(id=name) if self._scope[-1][:1].isupper():
                self._find(name)

    def _find(self, name: str) -> None:
        self.found.add(".".join([*self._scope, name]))


def _changed(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module changes."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in CHANGES:
                yield name


def stores() -> set[str]:
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in NO_SERVER:
            found |= Stores(".".join(parts), ast.parse(path.read_text())).found
    return found


FILLED_BY_NOBODY: Mapping[str, str] = {
    "auth.principal.Principal.grants": "of the configuration, or of a token whose bytes count",
    "auth.static_tokens.StaticTokens._known": "of the configuration",
    "backends.sqlite.terms.Terms._by_epoch": "the 1,000 last starts",
    "clock._second": "the current second",
    "metrics.Metrics.backend_calls": "verbs of the backend",
    "metrics.Metrics.backend_errors": "verbs of the backend",
    "metrics.Metrics.channels": "of the configuration",
    "metrics.Metrics.closed_by": "reasons",
    "metrics.Metrics.dropped_by": "reasons",
    "metrics.Metrics.opened_by": "kinds of subscribers",
    "metrics.Metrics.refused_connections": "reasons",
    "metrics.Metrics.refused_requests": "statuses and endpoints",
    "metrics.Metrics.resets_by": "reasons",
    "metrics.Metrics.shares_reached": "shares",
    "metrics.Metrics.timeouts": "causes",
    "reminder.Reminder._logged": "words of the code",
    "server.access.shares.Shares._streams": "kinds of callers",
    "server.endpoints.console.client_file": "the package's own file",
    "server.endpoints.console.page_file": "the package's own files",
    "server.http.problem.Problem.headers": "one answer, gone with it",
    "server.http.problem.Problem.more": "one answer, gone with it",
    "server.http.static_file.StaticFile._headers": "headers of the package's own files",
    "server.openapi.document._schemas": "the document, made once",
    "server.openapi.model.Media.examples": "the document, made once",
    "server.openapi.model.Operation.responses": "the document, made once",
    "server.openapi.model.Parameter.examples": "the document, made once",
    "server.openapi.model.Response.content": "the document, made once",
    "server.openapi.model.Response.headers": "the document, made once",
    "server.reload.Reloader._tasks": "one reload at a time, and one that waits",
    "server.streams.head._dated": "the current second",
}
"""Stores that no client can fill, with the reason."""


def rows() -> list[list[str]]:
    _, _, behind = SECURITY.read_text().partition("\n**What is kept at all, and how much?**")
    lines = behind.partition("\nHeld by\n")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]


def in_table() -> set[str]:
    return {name for row in rows() for name in re.findall(r"`([\w.\[\]()]+)`", row[-1])}


def test_every_store_is_in_the_table_or_cannot_be_filled() -> None:
    """Every entry of both exists. A new cache, dict or set must be reviewed first."""
    found = stores()
    assert found - in_table() - FILLED_BY_NOBODY.keys() == set()
    assert FILLED_BY_NOBODY.keys() - found == set()
    assert in_table() & FILLED_BY_NOBODY.keys() == set()
    gone = in_table() - found
    assert gone == {name for name in gone if PACKAGE.joinpath(*name.split(".")).with_suffix(".py").exists()}


def test_each_row_has_its_content_and_its_limit() -> None:
    """These are the key, the limit, the place, and what happens beyond the limit."""
    assert {len(row) for row in rows()} == {6}
    assert not [row[0] for row in rows() if not (row[0] and row[1] and row[2] and row[5])]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("@functools.lru_cache(maxsize=9)\ndef f(x): ...", {"m.f"}),
        ("@cache\ndef f(x): ...", {"m.f"}),
        ("class A:\n    @functools.cached_property\n    def f(self): ...", {"m.A.f"}),
        ("def f():\n    return functools.lru_cache(maxsize=9)(g)", {"m.f.lru_cache()"}),
        ("def f():\n    return functools.cache(g)", {"m.f.cache()"}),
        ("class A:\n    def __init__(self):\n        self.b: dict[str, int] = {}", {"m.A.b"}),
        ("class A:\n    def f(self):\n        self.b = c = collections.OrderedDict[str, int]()", {"m.A.b"}),
        ("class A:\n    b: dict[str, int] = field(default_factory=dict)", {"m.A.b"}),
        ("class A:\n    def f(self):\n        self.b = c or set()", {"m.A.b"}),
        ("class A:\n    def f(self):\n        self.b[1] = {}\n        self.c = [1]", set()),
        ("B = {}\ndef f(x):\n    B[x] = 1", {"m.B"}),
        ("B = set()\ndef f(x):\n    B.add(x)", {"m.B"}),
        ("B = {1: 2}\ndef f(x):\n    b = {}\n    b[1] = B[x]", set()),
        ("def f(app):\n    app[KEY] = set()", {"m.f.app[KEY]"}),
        ("def f(x):\n    x.y = {}", {"m.f.y"}),
        ("def f(x):\n    store = MemoryStore(options={})", {"m.f.MemoryStore"}),
    ],
)
def test_a_store_is_found(source: str, found: set[str]) -> None:
    assert Stores("m", ast.parse(source)).found == found
