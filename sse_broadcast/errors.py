"""Every exception this package raises, in one tree.

`BroadcastError` is the root: catching it catches all of them, and nothing else.
Messages are lower case and name what is wrong, where, and which value.
"""


class BroadcastError(Exception):
    """The root of the tree."""


class EventError(BroadcastError, ValueError):
    """An event, or a channel name, that may not be said (`field` names the part that is wrong)."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class EventTooLargeError(EventError):
    """An event of more bytes than `max_event`, as data or as an encoded frame."""


class IdempotencyError(BroadcastError):
    """An idempotency key that was used before, to publish something else."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"Idempotency-Key: {problem}")


class ClosedError(BroadcastError):
    """The broadcaster has been closed: nothing is published or subscribed any more."""


class SinkClosedError(BroadcastError):
    """The connection behind a sink is gone, or going."""


class CredentialError(BroadcastError):
    """A credential that is not good: unknown, expired, revoked, of another issuer. The message says which."""


class ForbiddenError(BroadcastError):
    """A caller that may not do what it asks for; the message names the action and the channel."""


class FullError(BroadcastError):
    """As many different channels are followed, or revocations held, as the server takes."""


class ExtraError(BroadcastError):
    """Something that needs an extra which is not installed; the message names it."""


class UnsupportedLibraryError(BroadcastError, ImportError):
    """An installed library lacks what we use of it; the message names its version, and those that work."""


class ConfigError(BroadcastError):
    """A setting that cannot be used; the message names where it came from and its value."""


class ListenError(BroadcastError):
    """The server cannot listen where it was told to (a port in use, an address not here)."""


class CertificateError(BroadcastError):
    """The TLS certificate or its key cannot be loaded."""


class OutputError(BroadcastError):
    """What a command has to say cannot be written: a disk that is full, an output that is closed.

    `strerror` is what the system says of it, as with an `OSError`.
    """

    def __init__(self, strerror: str) -> None:
        super().__init__(f"standard output: cannot be written to: {strerror}")
        self.strerror = strerror


class ClientError(BroadcastError):
    """The server answered a `Client` with something it cannot go on from.

    `status` is the HTTP status, or None when there was no answer at all.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
