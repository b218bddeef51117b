"""What an error says, as `pytest.raises` compares it."""

import re


def exactly(text: str) -> str:
    """Return the pattern that matches this text and no more."""
    return rf"\A{re.escape(text)}\Z"
