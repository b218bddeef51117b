"""Verified: signed tokens that were good, so that one that comes back is not verified again."""

from collections import OrderedDict

from sse_broadcast.auth.access import Access
from sse_broadcast.auth.secret import Digests

MOST = 4096
"""Tokens that are remembered: of one more, that which was not seen for longest is forgotten."""


class Verified:
    """What the bearers of verified tokens may do, by digests of the tokens.

    It knows nothing of time and of revocation, which whoever finds something here asks again. `most` are
    remembered, and none beyond the keys that they were verified with: `forget` all when those change.
    """

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._digests = Digests()
        self._held: OrderedDict[bytes, Access] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, token: str) -> Access | None:
        """Give what the bearer of a token may do, or None for a token that is not here."""
        digest = self._digests.of(token)
        access = self._held.get(digest)
        if access is not None:
            self._held.move_to_end(digest)
        return access

    def add(self, token: str, access: Access) -> None:
        """Remember a token that was verified just now."""
        self._held[self._digests.of(token)] = access
        if len(self._held) > self._most:
            self._held.popitem(last=False)

    def forget(self) -> None:
        """Forget all of them."""
        self._held.clear()
