"""Cache of verified tokens, so that a token that comes again is not verified again."""

from collections import OrderedDict

from sse_broadcast.auth.principal import Principal
from sse_broadcast.auth.secret_sources import KeyedDigest
from sse_broadcast.channels import ANY

MAX_CACHED_TOKENS = 4096
"""Tokens that are remembered: of one more, that which was not seen for longest is forgotten."""

MAX_CACHE_BYTES = 16_777_216
"""Bytes of what they may do, likewise: a token of 8 KB may name 1,500 channels."""

TOKEN_COST = 1200
"""Bytes that a token takes beside the patterns of its grants."""

PATTERN_COST = 64
"""Bytes that each of those takes beside its characters."""

OF_MATCHER = 700
"""Bytes of what matches one that has a star, made when it is first asked."""


class VerifiedTokenCache:
    """What the bearers of verified tokens may do, by digests of the tokens.

    It knows nothing of time and of revocation, which whoever finds something here asks again. `most` are
    remembered, of `most_bytes` together, and none beyond the keys that they were verified with: `forget` all
    when those change.
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
        """Return what the bearer of a token may do, or None for a token that is not here."""
        digest = self._digests.of(token)
        principal = self._held.get(digest)
        if principal is not None:
            self._held.move_to_end(digest)
        return principal

    def add(self, token: str, principal: Principal) -> None:
        """Remember a token that was verified just now."""
        digest = self._digests.of(token)
        self._drop(self._held.pop(digest, None))
        self._held[digest] = principal
        self._bytes += size_of(principal)
        while len(self._held) > self._most or (self._bytes > self._most_bytes and self._held):
            self._drop(self._held.popitem(last=False)[1])

    def forget(self) -> None:
        """Forget all of them."""
        self._held.clear()
        self._bytes = 0

    def _drop(self, principal: Principal | None) -> None:
        if principal is not None:
            self._bytes -= size_of(principal)


def size_of(principal: Principal) -> int:
    """Return the bytes that a token's access takes, about."""
    names = [name for patterns in principal.grants.values() for name in patterns]
    texts = (principal.subject or "", principal.id or "", *names)
    starred = sum(ANY in name for name in names)
    return TOKEN_COST + PATTERN_COST * len(names) + OF_MATCHER * starred + sum(map(len, texts))
