"""The errors of a refused configuration, for the tests of this folder."""

from typing import Any

import msgspec
import pytest

from sse_broadcast.errors import ConfigError

PATTERN = "a channel or a pattern: 1 to 128 of A-Z a-z 0-9 . _ : @ ~ - *"


def refused(kind: type[msgspec.Struct], **said: Any) -> str:
    """Return the error of a configuration, or of one of its tables."""
    with pytest.raises(ConfigError) as caught:
        kind(**said)
    return str(caught.value)
