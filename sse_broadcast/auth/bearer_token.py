"""Bearer tokens: the texts that are valid as one (RFC 6750, 2.1)."""

import re

B64TOKEN = r"[A-Za-z0-9._~+/-]+=*"
"""A regular expression for the text after `Bearer` in an Authorization header."""

_TOKEN = re.compile(B64TOKEN)


def is_token(text: str) -> bool:
    """Return whether a text has the characters of a bearer token."""
    return _TOKEN.fullmatch(text) is not None
