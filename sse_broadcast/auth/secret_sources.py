"""Secret sources: files and environment variables that hold secrets."""

import hashlib
import os
import secrets
from pathlib import Path

from sse_broadcast.errors import ConfigError

MAX_FILE = 65_536
"""Maximum bytes of a file of secrets or keys."""


class KeyedDigest:
    """Digests of secrets under a random key of this process."""

    def __init__(self) -> None:
        # A look-up by digest leaks nothing through its duration: the key is secret, so nobody can compute the
        # digest of a guess.
        self._key = secrets.token_bytes(32)

    def of(self, secret: str) -> bytes:
        """Return the digest of a secret, 32 bytes."""
        return hashlib.blake2b(secret.encode(errors="surrogatepass"), key=self._key, digest_size=32).digest()


def read_bytes(path: str, *, setting: str) -> bytes:
    """Return the content of a file. Raises `ConfigError` naming the setting, also above `MAX_FILE` bytes."""
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
    """Return the text of a file without its last line end. Raises `ConfigError`."""
    data = read_bytes(path, setting=setting)
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{setting}: {path!r} is not UTF-8 at byte {error.start}") from None


def read_variable(name: str, *, setting: str) -> str:
    """Return the value of an environment variable. Raises `ConfigError` if it is not set."""
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(f"{setting}: the environment variable {name!r} is not set")
    return value
