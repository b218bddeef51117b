"""Bearer tokens: which texts can be one (RFC 6750, 2.1)."""

import re

B64TOKEN = r"[A-Za-z0-9._~+/-]+=*"
"""What an Authorization header can carry after `Bearer`, as a regular expression."""

_TOKEN = re.compile(B64TOKEN)


def is_token(text: str) -> bool:
    """Return whether a text can be a bearer token."""
    return _TOKEN.fullmatch(text) is not None
