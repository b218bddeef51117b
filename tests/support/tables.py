"""Tables of the documents, as tests have them."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    first, *others = (f"| {' | '.join(map(str, cells))} |\n" for cells in (head, *rows))
    return "".join((first, f"|{'---|' * len(head)}\n", *others))
