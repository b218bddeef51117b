"""Show untrusted text on a terminal: control characters appear as escapes."""

import codecs
import re
import sys

import click

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 except tab and line feed, DEL, C1, and the controls of text direction (UAX 9: LRE to PDI)."""


def visible(text: str) -> str:
    """Return a text with its control characters as JSON escapes: a backslash, "u" and four digits."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str) -> None:
    """Print a line on standard output. Control characters are escaped on a terminal only."""
    click.echo(visible(text) if sys.stdout.isatty() else text)


def errors_are_read() -> bool:
    """Return whether standard error is a terminal, where somebody reads along."""
    return sys.stderr is not None and sys.stderr.isatty()


def tell(text: str) -> None:
    """Print a message on standard error, with the program's name in front."""
    click.echo(f"sse-broadcast: {visible(text)}", err=True)


class VisibleBytes:
    """An incremental decoder of UTF-8 for a terminal. An incomplete character waits for its rest."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def show(self, data: bytes) -> bytes:
        """Return the next bytes with control characters and invalid UTF-8 as escapes."""
        return visible(self._decoder.decode(data)).encode()
