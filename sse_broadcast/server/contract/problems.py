"""The errors of the contract: one answer for each status, which the operations point to."""

import http
from collections.abc import Mapping

from sse_broadcast.server.answers import ProblemDetails
from sse_broadcast.server.contract.fields import TEXT, kind
from sse_broadcast.server.contract.words import Answer, Header, Media, Ref
from sse_broadcast.server.problem import CONTENT_TYPE, TITLES

WHEN: Mapping[int, str] = {
    400: "A channel, a parameter or a body that cannot be; bytes that are not UTF-8 or (told as text) HTTP.",
    401: "No credential where one is needed, or one that is not good.",
    403: "The credential does not allow it, or the page that asks is a foreign one.",
    404: "Nothing is there, or nothing that this listener serves.",
    405: "Another method is taken there.",
    408: "The body did not arrive in time.",
    413: "The body, one event or the batch is too large.",
    414: "The request line is too long; `POST /events` takes a long list of channels in its body.",
    415: "A coding, a type or a charset of the body that is not taken.",
    417: "An expectation other than `100-continue`.",
    421: "The Host is not this server's (DNS rebinding).",
    422: "JSON of the wrong shape, an event that cannot be, or a key that published something else.",
    429: "Over a rate, or over a limit of connections.",
    431: "The head of the request is too large.",
    501: "The server was installed without what this needs.",
    503: "Shutting down, or full.",
}

_CHALLENGE = "The credential that is asked for, and what is wrong with the one that came (RFC 6750)."
_COME_BACK = Header("Seconds after which to come back.", {"type": "integer", "minimum": 0}, required=True)
_ALLOW = Header("The methods that are taken.", TEXT, required=True)

HEADERS: Mapping[int, Mapping[str, Header]] = {
    401: {"WWW-Authenticate": Header(_CHALLENGE, TEXT, required=True)},
    403: {"WWW-Authenticate": Header(_CHALLENGE, TEXT)},
    405: {"Allow": _ALLOW},
    429: {"Retry-After": _COME_BACK},
    503: {"Retry-After": _COME_BACK},
}

ANYWHERE = (400, 414, 417, 429, 431, 503)
"""What a request may be answered with whatever it asks for: it cannot be read, or is one too many."""

GUARDED = (*ANYWHERE, 401, 403, 404, 421)
"""And where not everyone may come in."""


def problems(*statuses: int) -> Mapping[str, Ref]:
    """Give the answers of these statuses, as what points to them."""
    return {str(status): Ref(f"#/components/responses/{_name(status)}") for status in sorted(statuses)}


def responses() -> Mapping[str, Answer]:
    """Give the answers that are pointed to, by their names."""
    return {_name(status): _answer(status) for status in WHEN}


def _answer(status: int) -> Answer:
    content = {CONTENT_TYPE: Media(kind(ProblemDetails))}
    if status == 400:
        content["text/plain"] = Media(TEXT)
    return Answer(WHEN[status], HEADERS.get(status, {}), content)


def _name(status: int) -> str:
    return (TITLES.get(status) or http.HTTPStatus(status).phrase).replace(" ", "")
