"""Show untrusted text on a terminal: control characters appear as escapes."""

import codecs
import re
import sys

import click

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 but tab and line feed, DEL, C1, and what turns the direction of writing (UAX 9: LRE to PDI)."""


def visible(text: str) -> str:
    """Return a text with its control characters as JSON has them, with a backslash and four digits."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str) -> None:
    """Print a line on standard output; a program that reads it gets every character as it is."""
    click.echo(visible(text) if sys.stdout.isatty() else text)


def tell(text: str) -> None:
    """Print a message on standard error."""
    click.echo(f"sse-broadcast: {visible(text)}", err=True)


class VisibleBytes:
    """A stream of UTF-8 that is shown piece by piece. The beginning of a character waits for its rest."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def show(self, data: bytes) -> bytes:
        """Return what is to be printed of the next bytes; those that are no UTF-8 as escapes."""
        return visible(self._decoder.decode(data)).encode()
