"""Problems: errors as RFC 9457 documents, and the table of their statuses."""

import http
from collections.abc import Mapping

import msgspec
from aiohttp import web

from sse_broadcast.errors import (
    BackendUnavailableError,
    BroadcastError,
    ClosedError,
    CredentialError,
    EventError,
    EventTooLargeError,
    ExtraError,
    ForbiddenError,
    FullError,
    IdempotencyError,
    UncertainPublishError,
)
from sse_broadcast.server.http.refused_stream import RefusalReason

PROBLEM_TYPE = "application/problem+json"

RETRY_AFTER = "5"
"""Default of the Retry-After header, in seconds."""

STATUSES: tuple[tuple[type[BroadcastError], int], ...] = (
    (EventTooLargeError, 413),
    (EventError, 422),
    (IdempotencyError, 422),
    (CredentialError, 401),
    (ForbiddenError, 403),
    (ExtraError, 501),
    (ClosedError, 503),
    (FullError, 503),
    (BackendUnavailableError, 503),
    (UncertainPublishError, 503),
)

REASONS: Mapping[type[BroadcastError], RefusalReason] = {
    ClosedError: RefusalReason.DRAIN,
    FullError: RefusalReason.FULL,
    BackendUnavailableError: RefusalReason.BACKEND,
}

TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
"""RFC 9110's phrases, where Python's differ between versions."""


class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """An error answer to a request. `detail` says what is wrong, where, and which value.

    `closes` closes the connection after the answer, where the start of the next request is unknown. `more`
    has further members of the document. `reason` is set where a subscriber should reconnect later. `instead`
    is then the response that tells it so; the problem is still counted and logged.
    """

    def __init__(  # noqa: PLR0913
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
        more: Mapping[str, object] | None = None,
        reason: RefusalReason | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.closes = closes
        self.more = dict(more or {})
        self.reason = reason
        self.instead: web.Response | None = None
        if status in {429, 503}:
            self.headers.setdefault("Retry-After", RETRY_AFTER)


def given_several_times(where: str, count: int, *, name: str = "") -> Problem:
    """Return the problem of a parameter or a header that may appear only once."""
    what = f"{where}: {name}" if name else f"{where}:"
    return Problem(400, f"{what} is given {count} times")


def problem_of(error: BroadcastError) -> Problem:
    """Return the problem for an error of the package. An error that no client can cause is raised again."""
    return Problem(status_of(error), str(error), reason=REASONS.get(type(error)))


def status_of(error: BroadcastError) -> int:
    """Return the status for an error of the package. An error that no client can cause is raised again."""
    if isinstance(error, EventError) and error.field in {"channel", "channels", "events", "since"}:
        return 400  # part of the URL, not of the event
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return status
    raise error


def body(status: int, detail: str, **more: object) -> bytes:
    """Return a problem document as a line of JSON."""
    title = TITLES.get(status) or http.HTTPStatus(status).phrase
    return json_line({"title": title, "status": status, "detail": detail, **more})


def json_line(content: object) -> bytes:
    """Encode an answer as JSON with a line end, so that a shell's prompt starts on its own line."""
    return msgspec.json.encode(content) + b"\n"


def answer(problem: Problem) -> web.Response:
    """Return the response for a problem."""
    response = web.Response(
        status=problem.status,
        body=body(problem.status, problem.detail, **problem.more),
        headers=problem.headers,
        content_type=PROBLEM_TYPE,
    )
    if problem.closes:
        response.force_close()
    return response
