"""Plain English: docstrings, comments, help texts and pages do not start with the openers of a dialect."""

import ast
import inspect
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sse_broadcast.cli import main
from sse_broadcast.config.sources import SETTINGS
from sse_broadcast.server.openapi.document import TYPES, document
from sse_broadcast.server.openapi.security import SecuritySchemes

ROOT = Path(__file__).parent.parent

OPENERS = re.compile(r"(Give|Have|Say|Take note|Let go|Whoever)\b|See `|What (is|was|has|it|they)\b")
"""Openers that leave out who does what to what: "Give", a causative "Have", a bare reference."""

NOT_YET = (
    "README.md",
    "docs",
)
"""Folders and pages that are still to be rewritten. Remove a line with its rewrite, and never add one."""


def is_exempt(path: str) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in NOT_YET)


MODULES = sorted(
    path for path in (ROOT / "sse_broadcast").rglob("*.py") if not is_exempt(str(path.relative_to(ROOT)))
)

PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "config.example.toml", *sorted((ROOT / "docs").glob("*.md")))
    if not is_exempt(str(path.relative_to(ROOT)))
]


def strings_alone(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the docstrings, those of attributes and constants too, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield node.lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first line of each comment, without its mark."""
    before = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != before + 1:
                yield token.start[0], token.string.removeprefix("#").strip()
            before = token.start[0]


def faults(lines: Iterator[tuple[int, str]]) -> list[str]:
    return [f"{line}: {text[:60]}" for line, text in lines if OPENERS.match(text.strip())]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_comments_say_who_does_what(path: Path) -> None:
    """No docstring and no comment begins with an opener of the dialect."""
    source = path.read_text()
    assert faults(strings_alone(ast.parse(source))) == []
    assert faults(comments(source)) == []


def help_texts(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    yield name, command.help or ""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield f"{name} {parameter.opts[0]}", parameter.help or ""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from help_texts(each, f"{name} {each.name}")


def test_help_says_who_does_what() -> None:
    """Of every command, of every option, and of every setting."""
    texts = [*help_texts(main, "sse-broadcast"), *((each.name, each.sentence) for each in SETTINGS.values())]
    assert [where for where, text in texts if OPENERS.match(text)] == []
    assert len(texts) > len(SETTINGS) > 50


def test_descriptions_say_who_does_what() -> None:
    """Of every operation, parameter, header and response of the OpenAPI document."""
    found = re.findall(
        rb'"(?:summary|description)":"((?:[^"\\]|\\.)*)"', document(SecuritySchemes(secured=True))
    )
    texts = [each.decode() for each in found]
    not_yet = {inspect.getdoc(kind) for kind in TYPES if is_exempt(f"{kind.__module__.replace('.', '/')}.py")}
    assert [text for text in texts if OPENERS.match(text) and json.loads(f'"{text}"') not in not_yet] == []
    assert len(texts) > 100


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_say_who_does_what(path: Path) -> None:
    """No paragraph and no list item begins with an opener."""
    lines = enumerate(path.read_text().splitlines(), 1)
    assert faults((number, line.lstrip("#*- ")) for number, line in lines) == []


@pytest.mark.parametrize("path", NOT_YET)
def test_an_exception_names_what_is_there(path: str) -> None:
    """A folder that was moved or renamed is held to the rule at its new place."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    "text",
    [
        "Give the bytes.",
        "Have the loop call what the table says.",
        "Take note of a reader.",
        "Say why a token is not good.",
        "See `Sink`.",
        "What it asks the server for.",
        "Whoever reads it.",
    ],
)
def test_an_opener_is_found(text: str) -> None:
    """At the beginning, and not in the middle."""
    assert OPENERS.match(text)
    assert not OPENERS.match(f"Return {text}")


@pytest.mark.parametrize("text", ["Return the bytes.", "Haven't", "Given names.", "What a full queue does."])
def test_plain_words_are_no_openers(text: str) -> None:
    assert not OPENERS.match(text)
