"""Requests that cost a server much for what they send: well-formed, refused as well as taken.

What strangers, subscribers and publishers of a few channels can ask for, one function a kind.
"""

import functools
import json
import random
from collections.abc import Callable

from tests.support.inventor import Ending, Trick

CHANNELS = "spend"
"""What the channels begin with that the spender may publish to and subscribe to: `spend.*`."""

Kind = Callable[[random.Random, str], list[bytes]]
"""Returns what one connection sends, in pieces, by a random source and the token of a caller."""


def invent(random: random.Random, *, token: str) -> Trick:
    """Make up a connection of any kind."""
    kind = random.choice(KINDS)
    pieces = kind(random, token)
    return Trick(
        pieces=tuple(pieces),
        requests=1,
        pause=random.choice((0.0, 0.002, 0.02)) if len(pieces) > 1 else 0.0,
        patience=random.choice((0.02, 0.05, 0.2)),
        ending=random.choice((Ending.FIN, Ending.RST, Ending.HALF)),
    )


def _head(method: str, target: str, token: str = "", *lines: str) -> bytes:
    shown = [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *shown, *lines, "", ""]).encode()


def _post(target: str, token: str, body: bytes, *lines: str) -> bytes:
    return _head("POST", target, token, *lines, f"Content-Length: {len(body)}") + body


def _json(target: str, token: str, body: object) -> bytes:
    return _post(target, token, json.dumps(body).encode(), "Content-Type: application/json")


def _name(random: random.Random) -> str:
    return f"{CHANNELS}.{random.randrange(10**9)}"


def _pattern(random: random.Random, *, within: str) -> str:
    stars = "".join(random.choice(("*", "**", "*o", "*a*", "x*", "*.*")) for _ in range(20))
    return (within + stars)[:128]


def _subscribes_to_many(random: random.Random, _: str) -> list[bytes]:
    """Ask for more channels than the caller may have, with no credential."""
    names = ",".join(f"{random.randrange(10**6):x}" for _ in range(2000))
    return [_head("GET", f"/events/{names}")]


def _publishes_to_many(random: random.Random, token: str) -> list[bytes]:
    """Publish to 20,000 channels: refused, whoever asks."""
    begin = random.randrange(10**9)
    names = [f"n{begin + number}" for number in range(20_000)]
    return [_json("/send", token, {"message": "", "channels": names})]


def _patterns(random: random.Random, token: str) -> list[bytes]:
    """Subscribe by ten patterns of many stars, within the grant and without it."""
    within = random.choice((f"{CHANNELS}.", "", "honest"))
    patterns = ",".join(_pattern(random, within=within) for _ in range(10))
    return [_head("GET", f"/events/{patterns}", random.choice((token, "")))]


def _earliest(random: random.Random, token: str) -> list[bytes]:
    """Ask for the whole history."""
    patterns = ",".join(f"{CHANNELS}.{random.randrange(100)}*{number}" for number in range(10))
    return [_head("GET", f"/events/{patterns}?since=earliest", token)]


def _endless_line(random: random.Random, token: str) -> list[bytes]:
    """Stream a line that never ends."""
    size = random.choice((100, 60_000, 400_000))
    line = b"%x\r\n" % size + b"x" * size + b"\r\n"
    return [_head("POST", f"/send/{_name(random)}?stream=1", token, "Transfer-Encoding: chunked"), line, line]


def _used_id(random: random.Random, token: str) -> list[bytes]:
    """Publish with an id that is used again and again, in several channels."""
    return [_post(f"/send/{CHANNELS}.{random.randrange(5)}?id=again", token, b"x")]


def _many_channels(random: random.Random, token: str) -> list[bytes]:
    """Publish an event in each of a hundred new channels, which takes the history of others."""
    lines = [json.dumps({"message": "x", "channel": _name(random)}) for _ in range(100)]
    return [_post("/send", token, "\n".join(lines).encode(), "Content-Type: application/x-ndjson")]


def _idempotency_key(random: random.Random, token: str) -> list[bytes]:
    """Publish with a new idempotency key."""
    return [_post(f"/send/{_name(random)}", token, b"x", f"Idempotency-Key: {random.randrange(10**18)}")]


def _near_misses(random: random.Random, token: str) -> list[bytes]:
    """Misspell parameters: what was meant is looked for."""
    names = (f"{random.choice(('sinse', 'lastEventIdd', 'chanel', 'heartbaet'))}{n}" for n in range(300))
    target = random.choice(("/events/a", f"/send/{CHANNELS}.a", "/nothing"))
    return [
        _head(random.choice(("GET", "POST")), f"{target}?{'=1&'.join(names)}=1", random.choice((token, "")))
    ]


def _retry(random: random.Random, token: str) -> list[bytes]:
    """Publish a `retry` of a month, or of 0."""
    return [_post(f"/send/{CHANNELS}.a?retry={random.choice((0, 86_400_000, 2_073_600_000))}", token, b"x")]


def _large_body(random: random.Random, token: str) -> list[bytes]:
    """Send a large body, of few values or of many."""
    body: object = {"message": "x" * 900_000} if random.random() < 0.5 else [[0] * 200_000]
    return [_json(f"/send/{CHANNELS}.a", random.choice((token, token, "")), body)]


def _slow_body(random: random.Random, token: str) -> list[bytes]:
    """Send a body byte by byte, and not to its end."""
    head = _head("POST", f"/send/{CHANNELS}.a", token, "Content-Length: 5000")
    return [head, *([b"x"] * random.choice((1, 10, 30)))]


def _slow_head(random: random.Random, _: str) -> list[bytes]:
    """Send a head byte by byte, and not to its end."""
    head = _head("GET", "/events/a")[:-2] + b"X: "
    return [head, *([b"x"] * random.choice((1, 10, 30)))]


def _unknown_token(random: random.Random, _: str) -> list[bytes]:
    """Show a credential that was never seen, signed or not."""
    number = random.randrange(10**18)
    return [_head("GET", "/events/a", random.choice((f"token-{number:020}", f"e30.e30.{number}")))]


KINDS: tuple[Kind, ...] = (
    _subscribes_to_many, _publishes_to_many, _patterns, _earliest, _endless_line, _used_id, _many_channels,
    _idempotency_key, _near_misses, _retry, _large_body, _slow_body, _slow_head, _unknown_token,
)  # fmt: skip


def inventing(token: str) -> Callable[[random.Random], Trick]:
    """Return what invents the connections of a caller with this token."""
    return functools.partial(invent, token=token)
