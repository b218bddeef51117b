"""Blocks that the server writes into a text stream, as patterns of whole bytes."""

import re


def opening(*, heartbeat: str = "4", id: str = r"[0-9a-f]{8}-\d+") -> re.Pattern[bytes]:
    """Return the first bytes of a stream without a loss.

    Its groups are `retry` and the id. `heartbeat` and `id` are patterns.
    """
    return re.compile(
        rf': \nretry: (\d+)\nevent: \$open\ndata: {{"heartbeat": {heartbeat}}}\nid: ({id})\n\n'.encode()
    )


def opening_after_loss(loss: str, id: str) -> re.Pattern[bytes]:
    """Return the first bytes of a stream with a loss. `loss` is the data of its `$reset`."""
    said = re.escape(f"event: $reset\ndata: {loss}\nid: {id}\n\n")
    open_block = re.escape(f'event: $open\ndata: {{"heartbeat": 4}}\nid: {id}\n\n')
    return re.compile(rf": \nretry: (\d+)\n{said}{open_block}".encode())


def close_block(reason: str, id: str | None) -> re.Pattern[bytes]:
    """Return the block that ends or refuses a stream. Its group is `retry`."""
    last = "" if id is None else f"id: {re.escape(id)}\n"
    return re.compile(rf'event: \$close\nretry: (\d+)\ndata: {{"reason": "{reason}"}}\n{last}\n'.encode())
