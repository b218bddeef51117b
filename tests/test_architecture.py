"""The order of the modules: imports go one way, and each module has its tests."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sse_broadcast"

GROUND = (
    "errors",
    "event",
    "clock",
    "quantity",
    "unix_address",
    "json_depth",
    "reminder",
    "timeouts",
    "work_queue",
    "wire",
    "encoding",
    "cursor",
    "metrics",
    "version",
)
"""Ground modules: every module may import them."""

ORDER = (
    *GROUND,
    "channels",
    "config.suggestions",
    "config.values",
    "config.schema",
    "config.sources",
    "config.policy",
    "publication",
    "backends.base",
    "backends.instrumented",
    "backends.memory.lazy_heap",
    "backends.memory.largest",
    "backends.memory.retired_ids",
    "backends.memory.weights",
    "backends.memory.position_index",
    "backends.memory.publisher_share",
    "backends.memory.channel_log",
    "backends.memory.channel_index",
    "backends.memory.custom_ids",
    "backends.memory.watermarks",
    "backends.memory.history",
    "backends.memory.idempotency",
    "backends.memory.backend",
    "backends.store",
    "backends.tiered",
    "backends.directory",
    "backends.sqlite.schema",
    "backends.sqlite.file",
    "backends.sqlite.operations",
    "backends.sqlite.tables",
    "backends.sqlite.terms",
    "backends.sqlite.pages",
    "backends.sqlite.writer",
    "backends.sqlite.store",
    "backends.sqlite.maintenance",
    "backends.registry",
    "fanout.writers",
    "fanout.conflation",
    "fanout.system_events",
    "fanout.replay",
    "fanout.subscriber",
    "fanout.group",
    "fanout.outbox",
    "fanout.pattern_index",
    "fanout.hub",
    "fanout.backlog",
    "fanout.idle",
    "fanout.dispatcher",
    "stream",
    "broadcaster",
    "backoff",
    "reconnection",
    "auth.bearer_token",
    "client",
    "bench",
    "doctor",
    "auth",
    "logs",
    "server.process",
    "server.transport.aiohttp_internals",
    "server.http",
    "server.transport",
    "server.access",
    "server.streams",
    "server.services",
    "server.endpoints",
    "server.openapi",
    "server.assembly",
    "server.reload",
    "server.routing",
    "server.app",
    "server.runner",
    "cli",
)
"""From the ground up: a module imports only modules before it, or in its own folder."""

CORE = (
    "wire",
    "encoding",
    "config",
    "channels",
    "publication",
    "backends",
    "fanout",
    "stream",
    "broadcaster",
)
"""The core: modules that import no network library and no command line."""

# What a folder may import besides itself, where that is less than all modules before it.
ONLY = {
    "fanout": (*GROUND, "config.schema", "channels", "publication", "backends.base"),
    "backends": (*GROUND, "config.schema", "config.policy", "channels", "publication"),
    "auth": ("errors", "json_depth", "clock", "config.values", "config.schema", "channels"),
    "logs": ("clock", "config.schema"),
    "client": (
        "errors",
        "event",
        "wire",
        "channels",
        "unix_address",
        "backoff",
        "reconnection",
        "auth.bearer_token",
    ),
    "bench": ("errors", "quantity", "unix_address", "wire"),
    "doctor": ("errors", "event", "quantity", "wire"),
    "reconnection": ("event", "wire", "backoff"),
    "backoff": ("errors",),
}

EXTRAS = {"jwt", "cryptography", "hdrh", "httptools", "matplotlib", "uvloop"}
DRIVERS = {"aiohttp", "aiohttp_sse", "click", "uvloop"}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in {"__init__.py", "__main__.py"}
}


def imported(path: Path) -> set[str]:
    """Return all modules that a file imports, at any place in it, and of this package the exact module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole.removeprefix("sse_broadcast.") in MODULES
                found.add(whole if is_module else node.module or "")
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def ours(name: str) -> set[str]:
    return {
        each.removeprefix("sse_broadcast.") for each in IMPORTS[name] if each.startswith("sse_broadcast.")
    }


def within(name: str, place: str) -> bool:
    """Return whether a module is this one, or in its folder."""
    return name == place or name.startswith(f"{place}.")


def rank(name: str) -> int:
    return next(index for index, place in enumerate(ORDER) if within(name, place))


def forbidden_imports(name: str) -> Iterator[str]:
    """Yield the imports that a module must not have."""
    for other in ours(name):
        if rank(other) > rank(name):
            yield f"{name} imports {other}, which stands above it"
        for folder, allowed in ONLY.items():
            if within(name, folder) and not any(within(other, place) for place in (*allowed, folder)):
                yield f"{name} imports {other}: {folder} does not know it"


def test_every_module_has_a_place_in_the_order() -> None:
    """A new file or folder at the top is a decision."""
    assert [name for name in MODULES if not any(within(name, place) for place in ORDER)] == []
    assert [place for place in ORDER if not any(within(name, place) for name in MODULES)] == []


def test_imports_follow_the_order() -> None:
    assert [line for name in MODULES for line in forbidden_imports(name)] == []


def test_no_two_modules_import_each_other() -> None:
    left = {name: ours(name) & MODULES.keys() for name in MODULES}
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_the_server_imports_the_broadcaster_and_no_backend() -> None:
    """It imports only the contract of backends, and of the fan-out only the parts of a stream."""
    for name in MODULES:
        if within(name, "server"):
            assert {other for other in ours(name) if within(other, "backends")} <= {"backends.base"}, name
            assert "client" not in ours(name), name


def drivers(name: str) -> set[str]:
    return {each.split(".")[0] for each in IMPORTS[name]} & DRIVERS


def test_the_core_imports_no_driver() -> None:
    for name in MODULES:
        if any(within(name, place) for place in (*CORE, *GROUND, "logs")):
            assert not drivers(name), name
        if within(name, "auth"):
            assert drivers(name) <= ({"aiohttp"} if name == "auth.jwks" else set()), name
        if within(name, "server"):
            assert "click" not in drivers(name), name


def test_an_extra_is_imported_where_it_is_needed() -> None:
    """The import is in a function: a server without the feature need not have the extra."""
    for path in MODULES.values():
        tops = ast.parse(path.read_text()).body
        names = {each.name for node in tops if isinstance(node, ast.Import) for each in node.names}
        names |= {node.module or "" for node in tops if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & EXTRAS, path


def test_only_the_sink_and_the_transport_folder_use_a_transport() -> None:
    """Other code would break the rules at the head of the sink's file."""
    allowed = ("server.streams.sink", "server.transport")
    others = [name for name in MODULES if not any(within(name, place) for place in allowed)]
    assert [name for name in others if ".transport" in code_of(MODULES[name])] == []


def code_of(path: Path) -> str:
    """Return the code of a file without its imports, which name the folder `transport`."""
    return "\n".join(
        line for line in path.read_text().splitlines() if "sse_broadcast.server.transport" not in line
    )


INTERNALS = "server.transport.aiohttp_internals"

LIBRARIES = ("aiohttp", "aiohttp_sse", "yarl")
"""Libraries whose private names are used in one module only."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_imports(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported from a private module of a library, or by a private name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for path in paths:
            first, *rest = path.split(".")
            if first in LIBRARIES and any(map(is_private, rest)):
                yield path


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each private attribute, also in a `getattr`, with the name of its object, or ""."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.value.id if isinstance(node.value, ast.Name) else "", node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "attr" in node.func.id:
            match node.args:
                case [owner, ast.Constant(value=str(name)), *_] if is_private(name):
                    yield owner.id if isinstance(owner, ast.Name) else "", name


def names_of(tree: ast.AST) -> set[str]:
    """Return the private names that a module defines in its classes or on `self`."""
    made = {attr for owner, attr in attributes(tree) if owner in {"self", "cls"}}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.Name):
            made.add(node.id)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            made |= set(ast.literal_eval(node.value))
    return made


def imported_elsewhere(tree: ast.AST) -> set[str]:
    """Return the names in a module that are modules of other libraries."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    return {name for name in names if name.split(".")[0] not in LIBRARIES}


def private_attributes(tree: ast.AST) -> Iterator[str]:
    """Yield private attributes that belong to a library.

    No object of the same module has them, and they are in no module of another library.
    """
    made, elsewhere = names_of(tree), imported_elsewhere(tree)
    for owner, attr in attributes(tree):
        if owner not in {"self", "cls", *elsewhere} and attr not in made:
            yield f"{owner}.{attr}"


def inherited_names(kind: type) -> set[str]:
    """Return the private names that a class inherits from a class of these libraries."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.split(".")[0] in LIBRARIES:
            names |= set(filter(is_private, vars(base)))
            source = ast.parse(textwrap.dedent(inspect.getsource(base)))
            names |= {attr for owner, attr in attributes(source) if owner == "self"}
    return names


def inherited_attributes(module: object, tree: ast.AST) -> Iterator[str]:
    """Yield the private names of a library's class that a subclass in a module reads or sets on itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and isinstance(kind := getattr(module, node.name, None), type):
            said = {attr for owner, attr in attributes(node) if owner in {"self", "cls", ""}}
            said |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            said |= {each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef)}
            yield from (f"{node.name}.{name}" for name in sorted(said & inherited_names(kind)))


def test_private_names_of_aiohttp_are_in_one_module() -> None:
    """A new version may change them. That module explains them, and checks them when it is imported."""
    found = []
    for name, path in MODULES.items():
        if name == INTERNALS:
            continue
        tree = ast.parse(path.read_text())
        found += [f"{name}: {each}" for each in private_imports(tree)]
        found += [f"{name}: {each}" for each in private_attributes(tree)]
        if {each.split(".")[0] for each in IMPORTS[name]} & {*LIBRARIES}:
            module = importlib.import_module(f"sse_broadcast.{name}")
            found += [f"{name}: {each}" for each in inherited_attributes(module, tree)]
    assert found == []


def test_a_private_name_of_aiohttp_is_found() -> None:
    """The test above relies on it, for every way to access one."""
    path = MODULES[INTERNALS]
    tree, module = ast.parse(path.read_text()), importlib.import_module(f"sse_broadcast.{INTERNALS}")
    assert set(private_imports(tree)) == {"yarl._parse", "yarl._url"}
    assert {"request._version", "request._cache", "request._match_info", "message._replace"} <= set(
        private_attributes(tree)
    )
    inside = ast.parse("class RequestProtocol:\n  def f(self): return self._waiter, super()._messages")
    assert list(inherited_attributes(module, inside)) == [
        "RequestProtocol._messages",
        "RequestProtocol._waiter",
    ]


def public_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines, without those of type variables, loggers and click commands."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(decorator_list=decorators) if any(
                ast.unparse(each).endswith((".command()", ".group()")) for each in decorators
            ):
                continue
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.Assign(targets=targets):
                names = [each.id for each in targets if isinstance(each, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = []
        yield from (name for name in names if len(name) > 1 and name[0] != "_" and name != "logger")


def test_a_public_name_is_defined_in_one_module() -> None:
    """A reader who meets a name knows which one it is."""
    defined: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in set(public_names(ast.parse(path.read_text()))):
            defined.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in defined.items() if len(paths) > 1} == {}


def test_every_module_has_its_tests() -> None:
    missing = []
    for name in MODULES:
        *folders, module = name.split(".")
        if not ROOT.joinpath("tests", *folders, f"test_{module}.py").exists():
            missing.append(name)
    assert missing == []
