"""What a test does while events are published."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.publication import Draft, Receipt


def before_publishing(
    broadcaster: Broadcaster,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Sequence[Draft]], Awaitable[None]],
) -> None:
    """Have something done before each publish from now on."""
    publish_all = broadcaster.publish_all

    async def act_and_publish(
        drafts: Sequence[Draft], token: IdempotencyKey | None = None, *, publisher: str = ""
    ) -> Receipt:
        await act(drafts)
        return await publish_all(drafts, token, publisher=publisher)

    monkeypatch.setattr(broadcaster, "publish_all", act_and_publish)
