"""Every exception that this package raises, in one tree.

`BroadcastError` is the root. Messages are in lower case and name what is wrong, where, and which value.
"""


class BroadcastError(Exception):
    """The base of all errors of this package."""


class EventError(BroadcastError, ValueError):
    """An event or a channel name that is not valid. `field` names the part that is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class EventTooLargeError(EventError):
    """An event larger than `max_event`, as data or as an encoded frame."""


class IdempotencyError(BroadcastError):
    """An idempotency key that was used before for other content."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"Idempotency-Key: {problem}")


class ClosedError(BroadcastError):
    """The broadcaster is closed: it accepts no publish and no subscriber."""


class StoreError(BroadcastError):
    """The store of the history cannot be used.

    It is another program's, newer, damaged, in use, or not ours to write: the message names its path, and
    what to do.
    """


class BackendUnavailableError(BroadcastError):
    """The backend can neither take nor give now. Of what was to be published, nothing is."""


class UncertainPublishError(BroadcastError):
    """The backend failed while it stored a publish: nobody can say whether that was published."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"{problem}; it may have been published: send it again with an Idempotency-Key, which publishes"
            " it once"
        )


class SinkClosedError(BroadcastError):
    """The connection behind a sink is closed or closing."""


class CredentialError(BroadcastError):
    """A credential that is not valid: unknown, expired, revoked, of another issuer."""


class ForbiddenError(BroadcastError):
    """A request that its caller is not allowed to make. The message names the action and the channel."""


class FullError(BroadcastError):
    """A limit of the whole server is reached: subscribed channels, or revocations."""


class ExtraError(BroadcastError):
    """An extra is needed and not installed. The message names it."""


class UnsupportedLibraryError(BroadcastError, ImportError):
    """An installed library lacks a part that is used. The message names its version, and those that work."""


class ConfigError(BroadcastError):
    """A setting that cannot be used. The message names its source and its value."""


class ListenError(BroadcastError):
    """The server cannot listen at a configured address: a port in use, an address not of this machine."""


class CertificateError(BroadcastError):
    """The TLS certificate or its key cannot be loaded."""


class OutputError(BroadcastError):
    """Standard output cannot be written: the disk is full, or the output is closed.

    `strerror` is the system's text, as in `OSError`.
    """

    def __init__(self, strerror: str) -> None:
        super().__init__(f"standard output: cannot be written: {strerror}")
        self.strerror = strerror


class ClientError(BroadcastError):
    """A request of a `Client` that failed.

    `status` is the HTTP status, or None if there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
