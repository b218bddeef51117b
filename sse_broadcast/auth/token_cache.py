"""Cache of verified tokens, so that each token is verified once."""

from collections import OrderedDict

from sse_broadcast.auth.principal import Principal
from sse_broadcast.auth.secret_sources import KeyedDigest
from sse_broadcast.channels import ANY

MAX_CACHED_TOKENS = 4096
"""Maximum number of cached tokens. The least recently used one goes first."""

MAX_CACHE_BYTES = 16_777_216
"""Maximum bytes of their principals: a token of 8 KB may name 1,500 channels."""

TOKEN_COST = 1200
"""Bytes of a cached token without the patterns of its grants."""

PATTERN_COST = 64
"""Bytes of a pattern without its characters."""

OF_MATCHER = 700
"""Bytes of the compiled matcher for a pattern with a star, built at first use."""


class VerifiedTokenCache:
    """The principals of verified tokens, by digests of the tokens.

    The cache does not check expiry and revocation: its caller must. It holds at most `most` tokens of
    `most_bytes` in total. Call `forget` when the keys change.
    """

    def __init__(self, *, most: int = MAX_CACHED_TOKENS, most_bytes: int = MAX_CACHE_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._digests = KeyedDigest()
        self._held: OrderedDict[bytes, Principal] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, token: str) -> Principal | None:
        """Return the principal of a token, or None if it is not cached."""
        digest = self._digests.of(token)
        principal = self._held.get(digest)
        if principal is not None:
            self._held.move_to_end(digest)
        return principal

    def add(self, token: str, principal: Principal) -> None:
        """Cache a token that was just verified."""
        digest = self._digests.of(token)
        self._drop(self._held.pop(digest, None))
        self._held[digest] = principal
        self._bytes += size_of(principal)
        while len(self._held) > self._most or (self._bytes > self._most_bytes and self._held):
            self._drop(self._held.popitem(last=False)[1])

    def forget(self) -> None:
        """Empty the cache."""
        self._held.clear()
        self._bytes = 0

    def _drop(self, principal: Principal | None) -> None:
        if principal is not None:
            self._bytes -= size_of(principal)


def size_of(principal: Principal) -> int:
    """Return the approximate bytes of a principal."""
    names = [name for patterns in principal.grants.values() for name in patterns]
    texts = (principal.subject or "", principal.id or "", *names)
    starred = sum(ANY in name for name in names)
    return TOKEN_COST + PATTERN_COST * len(names) + OF_MATCHER * starred + sum(map(len, texts))
