"""Private names of aiohttp and yarl, and the error for a missing one."""

import importlib.metadata
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from packaging.requirements import Requirement

from sse_broadcast.errors import UnsupportedLibraryError
from sse_broadcast.server.transport.aiohttp_internals import SUPPORTED, RequestProtocol, require

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_a_missing_name_stops_the_import() -> None:
    """The `ImportError` has the installed version and the supported ones."""
    installed = importlib.metadata.version("aiohttp")
    with pytest.raises(UnsupportedLibraryError) as caught:
        require("aiohttp", web.RequestHandler, "_moved_elsewhere")
    assert str(caught.value) == (
        f"aiohttp {installed} has no RequestHandler._moved_elsewhere: aiohttp{SUPPORTED['aiohttp']} works"
    )
    assert isinstance(caught.value, ImportError)


def test_a_name_missing_in_a_module_is_named_with_it() -> None:
    with pytest.raises(UnsupportedLibraryError, match=r"^yarl \S+ has no yarl\._url\._gone: yarl"):
        require("yarl", SimpleNamespace(__name__="yarl._url"), "_gone")


def test_an_existing_name_is_returned() -> None:
    """It belongs to a class, a module or aiohttp's request, whose instances have it in a list."""
    assert require("aiohttp", web.RequestHandler, "_messages") is web.RequestHandler.__dict__["_messages"]
    assert require("aiohttp", web.BaseRequest, "_version") is None


def test_the_supported_versions_are_those_required() -> None:
    """The error has the range that an installer would use."""
    required = map(Requirement, tomllib.loads(PROJECT.read_text())["project"]["dependencies"])
    found = {each.name: each.specifier for each in required if each.name in SUPPORTED}
    assert found == {name: Requirement(name + versions).specifier for name, versions in SUPPORTED.items()}
    for name, specifier in found.items():
        assert specifier.contains(importlib.metadata.version(name))


def test_an_alias_is_the_slot_itself() -> None:
    """It is as fast to read as the private name, and both share their value."""
    for alias, name in {
        "request_count": "_request_count",
        "queued": "_messages",
        "current_request": "_current_request",
        "next_request": "_waiter",
        "keepalive_timer": "_keepalive_handle",
        "handler_task": "_task_handler",
    }.items():
        assert RequestProtocol.__dict__[alias] is web.RequestHandler.__dict__[name]
