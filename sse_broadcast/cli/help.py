"""Help texts: options in sections, and colour on a terminal."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import click

NO_COLOR = "NO_COLOR"
"""The variable that turns colour off everywhere, whatever its value (no-color.org)."""


NARROW = 60
"""Columns of a terminal, below which options and their texts do not stand side by side."""


def wants_no_color() -> bool:
    """Return whether the user wants no colour; on what is no terminal there is none anyway."""
    return bool(os.environ.get(NO_COLOR)) or os.environ.get("TERM") == "dumb"


class StyledFormatter(click.HelpFormatter):
    """Writes headings in bold and what is typed in colour. click removes both where no terminal reads."""

    def write_heading(self, heading: str) -> None:
        """Write a heading."""
        super().write_heading(click.style(heading, bold=True))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write options or commands, each with its text."""
        if self.width < NARROW:
            col_max = 4  # each text below its option: beside it there is no room
        styled = [(click.style(first, fg="cyan"), second) for first, second in rows]
        super().write_dl(styled, col_max, col_spacing)


class StyledContext(click.Context):
    """A context whose help is styled."""

    formatter_class = StyledFormatter


class StyledCommand(click.Command):
    """A command whose help is styled, with its options in sections where there are any.

    `sections` maps a heading to the names of its parameters; what is in none is under `Options`.
    """

    context_class = StyledContext

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - as click has it
        sections: Mapping[str, Iterable[str]] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = {heading: frozenset(names) for heading, names in (sections or {}).items()}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        rows = [
            (parameter.name, record)
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None
        ]
        grouped = {name for names in self.sections.values() for name in names}
        parts = {
            heading: [row for name, row in rows if name in names] for heading, names in self.sections.items()
        }
        parts["Options"] = [row for name, row in rows if name not in grouped]
        for heading, some in parts.items():
            if some:
                with formatter.section(heading):
                    formatter.write_dl(some)


class StyledGroup(click.Group):
    """A group of commands whose help is styled."""

    context_class = StyledContext
    command_class = StyledCommand
