"""The version."""

import re

import sse_broadcast
from sse_broadcast import version


def test_the_package_has_the_version() -> None:
    """`sse_broadcast.__version__` is three numbers, possibly with a pre-release (PEP 440)."""
    assert sse_broadcast.__version__ == version.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version.__version__)
