"""Pages of the documentation: their blocks of code, headings and links."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- run: (?P<name>[\w-]+) -->\n *)?```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code. `name` is what its mark, `<!-- run: NAME -->`, says; "" without one."""

    name: str
    language: str
    code: str

    def at(self, port: int) -> str:
        """Return the code for a server at another port."""
        return self.code.replace("localhost:8000", f"localhost:{port}").replace(
            '"localhost", 8000', f'"localhost", {port}'
        )


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its path in the repository, and its text."""

    path: str
    text: str

    @property
    def every_block(self) -> tuple[Block, ...]:
        """All fenced blocks, in their order."""
        return tuple(
            Block(found["name"] or "", found["language"], found["code"])
            for found in _BLOCK.finditer(self.text)
        )

    @property
    def blocks(self) -> Mapping[str, Block]:
        """The blocks that are run, by their names."""
        return {block.name: block for block in self.every_block if block.name}

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def headings(self) -> tuple[tuple[int, str], ...]:
        """Each heading with its level."""
        return tuple((len(marks), title) for marks, title in _HEADING.findall(self.prose))

    @property
    def anchors(self) -> frozenset[str]:
        """The fragments that link to a heading, as GitHub makes them."""
        return frozenset(anchor(title) for _, title in self.headings)

    @property
    def links(self) -> tuple[str, ...]:
        """The targets of all links."""
        return tuple(_LINK.findall(self.prose))

    def section(self, title: str) -> str:
        """Return the text below a heading, up to the next of its level or above."""
        found = re.search(rf"^(#+) {re.escape(title)}$", self.text, re.MULTILINE)
        assert found is not None, f"{self.path}: no heading {title!r}"
        rest = self.text[found.end() :]
        after = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
        return rest[: after.start()] if after else rest


def anchor(title: str) -> str:
    """Return the fragment of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def page(path: str) -> Page:
    """Read a page of the repository."""
    return Page(path, (ROOT / path).read_text())
