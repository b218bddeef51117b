"""Log lines about requests: refusals, malformed requests, pages of other origins."""

import logging
import re
from collections.abc import Mapping

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError
from typing_extensions import override

from sse_broadcast.auth.principal import Principal
from sse_broadcast.logs.rate_limit import RateLimitFilter
from sse_broadcast.publication import Receipt
from sse_broadcast.quantity import Quantity

logger = logging.getLogger("sse_broadcast.requests")

publishing = logging.getLogger("sse_broadcast.published")

refusals = logging.getLogger("sse_broadcast.refused")

FOR_INTRUDERS = frozenset({401, 403, 421})
"""Statuses that are logged at INFO: the client was not allowed in."""

# The address comes first, then the status. Text from the request comes later, so that no client can make a
# filter such as fail2ban's read another address.
REFUSED = "refused %(address)s: %(status)d %(method)s %(path)s: %(detail)s"

CORS_SETTING = "cors_origins"

REFUSED_PAGE = REFUSED + "; it is a page of %(origin)s, which is not in cors_origins"

KEPT_FROM = (
    "kept from %(address)s: the browser hides the answer to %(method)s %(path)s from a page of %(origin)s,"
    " which is not in cors_origins"
)

QUOTE = re.compile(r"(?<!\w)(b|bytearray\(b)?[\"'].*", re.DOTALL)
"""The part of a parser message that quotes the request. It may contain a token."""

KNOWN_HEADER_FAULT = re.compile(r"(Missing|Duplicate) '[A-Za-z-]{1,40}' header [a-z ]+\.")
"""Parser messages that quote only the name of a standard header."""


class OneLine(logging.Filter):
    """Shortens aiohttp's log of a malformed request to one line, without its traceback.

    The line has nothing of the request but its address.
    """

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            _tell(record, MALFORMED, {"address": _address(record), "reason": fault_of(error)})
        elif isinstance(error, web.RequestPayloadError):
            _tell(record, BROKEN, {"reason": _unquoted(str(error))})
        return True


MALFORMED = "Error handling request from %(address)s: %(reason)s"

BROKEN = "Error reading a body: %(reason)s"


def _tell(record: logging.LogRecord, message: str, facts: Mapping[str, object]) -> None:
    record.levelno, record.levelname = logging.INFO, "INFO"
    record.msg, record.args = message, facts
    record.exc_info = record.exc_text = None


def _address(record: logging.LogRecord) -> object:
    """Return the address in aiohttp's log record of a malformed request."""
    return record.args[0] if isinstance(record.args, tuple) and record.args else "unknown"


def fault_of(error: HttpProcessingError) -> str:
    """Return the parser's reason for refusing a request, without any part of the request."""
    kind = type(error).__name__
    if isinstance(error, InvalidURLError):
        return kind  # its message is the URL
    said = error.message
    return f"{kind}: {said if KNOWN_HEADER_FAULT.fullmatch(said) else _unquoted(said)}"


def _unquoted(said: str) -> str:
    return " ".join(QUOTE.sub("", said).split()).rstrip(":")[:100]


def log_refusal(
    request: web.Request, status: int, detail: str, *, address: str | None, origin: str | None
) -> None:
    """Log a refused request: at INFO if the client was not allowed in, else at DEBUG.

    `address` is None for a UNIX socket. `origin` is set for a page that CORS does not allow.
    """
    level = logging.INFO if status in FOR_INTRUDERS else logging.DEBUG
    logger = refusal_logger()
    if logger.isEnabledFor(level):
        facts = {**_asked(request, address), "status": status, "detail": detail}
        if origin is not None:
            facts["origin"] = origin[:80]
        says_why = origin is None or CORS_SETTING in detail
        logger.log(level, REFUSED if says_why else REFUSED_PAGE, facts)


def log_foreign_page(request: web.Request, *, address: str | None, origin: str) -> None:
    """Log that a browser will hide the answer from the page that asked."""
    refusal_logger().info(KEPT_FROM, {**_asked(request, address), "origin": origin[:80]})


def _asked(request: web.Request, address: str | None) -> dict[str, object]:
    # Without the query, which may contain a token.
    return {"address": address or "unix", "method": request.method, "path": ascii(request.path[:80])[1:-1]}


def refusal_logger() -> logging.Logger:
    """Return the logger of refusals, with a rate limit: clients can cause any number of them."""
    if not refusals.filters:
        refusals.addFilter(RateLimitFilter())
    return refusals


def http_logger() -> logging.Logger:
    """Return the logger of aiohttp's handlers, with one line per malformed request and a rate limit."""
    if not logger.filters:
        logger.addFilter(OneLine())
        logger.addFilter(RateLimitFilter())
    return logger


def tell_published(receipt: Receipt, principal: Principal, *data: bytes) -> None:
    """Log a publish at DEBUG: who published where and how many bytes, but never the data."""
    if publishing.isEnabledFor(logging.DEBUG):
        kind, name, _ = principal.bearer
        publishing.debug(
            "published %(id)s in %(channels)s, by %(caller)s: %(events)s of %(bytes)s for %(clients)s",
            {
                "id": receipt.id,
                "channels": ",".join(receipt.channels),
                "caller": "anyone" if name is None else f"{kind} {name}",
                "events": Quantity(receipt.count, "event"),
                "bytes": Quantity(sum(map(len, data)), "byte"),
                "clients": Quantity(receipt.clients, "client"),
            },
        )
