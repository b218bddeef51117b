"""Secrets from files and environment variables, read and never shown."""

import hashlib
import os
import secrets
from pathlib import Path

from sse_broadcast.errors import ConfigError

MAX_FILE = 65_536
"""Bytes of a file of secrets or keys."""


class KeyedDigest:
    """Digests of secrets under a key of its own, by which they are known again and never shown.

    How long it takes to find one tells nothing of a secret: nobody outside knows the key.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, secret: str) -> bytes:
        """Return the 32 bytes that stand for a secret."""
        return hashlib.blake2b(secret.encode(errors="surrogatepass"), key=self._key, digest_size=32).digest()


def read_bytes(path: str, *, setting: str) -> bytes:
    """Return what is in a file. Raises `ConfigError` naming the setting."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{setting}: {path!r} cannot be read: {reason}") from None
    if len(data) > MAX_FILE:
        raise ConfigError(f"{setting}: {path!r} has more than {MAX_FILE} bytes")
    return data


def read_secret_text(path: str, *, setting: str) -> str:
    """Return the text in a file, without the line end that editors put there. Raises `ConfigError`."""
    data = read_bytes(path, setting=setting)
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{setting}: {path!r} is not UTF-8 at byte {error.start}") from None


def read_variable(name: str, *, setting: str) -> str:
    """Return what an environment variable holds. Raises `ConfigError` for one that is not set."""
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(f"{setting}: the environment has no {name!r}")
    return value
