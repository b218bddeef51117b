"""Help texts: sections and colour."""

import click
import pytest
from click.testing import CliRunner

from sse_broadcast.cli import main
from sse_broadcast.cli.help import StyledCommand, wants_no_color
from sse_broadcast.cli.serve import SECTIONS, serve


@click.command(cls=StyledCommand, sections={"First": ("b",), "Empty": ("z",)})
@click.option("--a", help="Says a.")
@click.option("--b", help="Says b.")
def sample(**_: object) -> None:
    """Do nothing."""


def test_options_are_in_their_sections() -> None:
    """What is in no section is among the options, and a section without any is left out."""
    assert CliRunner().invoke(sample, ["--help"]).output == (
        "Usage: sample [OPTIONS]\n\n  Do nothing.\n\n"
        "First:\n  --b TEXT  Says b.\n\n"
        "Options:\n  --a TEXT  Says a.\n  --help    Show this message and exit.\n"
    )


def test_every_option_of_serve_is_in_one_section() -> None:
    placed = [name for names in SECTIONS.values() for name in names]
    assert len(placed) == len(set(placed))
    assert {parameter.name for parameter in serve.params} == set(placed)


@pytest.mark.parametrize("command", [[], ["serve"], ["publish"], ["token"], ["token", "mint"]])
def test_a_terminal_has_colour_and_a_file_has_none(command: list[str]) -> None:
    coloured = CliRunner().invoke(main, [*command, "--help"], color=True).output
    plain = CliRunner().invoke(main, [*command, "--help"]).output
    assert "\x1b[1mOptions\x1b[0m:" in coloured
    assert "\x1b" not in plain
    assert click.unstyle(coloured) == plain


@pytest.mark.parametrize("command", [[], ["serve"], ["token", "mint"]])
def test_no_color_is_heeded_on_a_terminal(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in CliRunner().invoke(main, [*command, "--help"], color=True).output


@pytest.mark.parametrize(
    ("name", "value", "wanted"), [("NO_COLOR", "0", True), ("NO_COLOR", "", False), ("TERM", "dumb", True)]
)
def test_what_turns_colour_off(monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: bool) -> None:  # noqa: FBT001
    """Any value of NO_COLOR but an empty one (no-color.org)."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, value)
    assert wants_no_color() is wanted


@pytest.mark.parametrize("columns", [30, 40, 60])
def test_a_narrow_terminal_is_not_overrun_by_text(columns: int) -> None:
    """Long names of options may be, but no sentence is."""
    shown = CliRunner().invoke(main, ["status", "--help"], terminal_width=columns).output
    for line in shown.splitlines():
        assert len(line) <= columns or line.startswith("  --") or "sse-broadcast" in line, line
