"""Log lines about requests: refusals, malformed requests, pages of foreign origins."""

import logging
import re
from collections.abc import Mapping

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError

from sse_broadcast.auth.principal import Principal
from sse_broadcast.logs.rate_limit import RateLimitFilter
from sse_broadcast.publication import Receipt
from sse_broadcast.quantity import Quantity

logger = logging.getLogger("sse_broadcast.requests")

publishing = logging.getLogger("sse_broadcast.published")

refusals = logging.getLogger("sse_broadcast.refused")

FOR_INTRUDERS = frozenset({401, 403, 421})
"""Statuses that are logged at the level info: what someone is told who may not come in."""

# The address stands first, and the status behind it: whatever a request says of itself comes later, so that
# nobody can make a filter such as fail2ban's take it for somebody else's.
REFUSED = "refused %(address)s: %(status)d %(method)s %(path)s: %(detail)s"

CORS_SETTING = "cors_origins"

REFUSED_PAGE = REFUSED + "; it is a page of %(origin)s, which cors_origins does not name"

KEPT_FROM = (
    "kept from %(address)s: %(method)s %(path)s is asked for by a page of %(origin)s, whose browser keeps"
    " the answer from it: cors_origins does not name it"
)

QUOTE = re.compile(r"(?<!\w)(b|bytearray\(b)?[\"'].*", re.DOTALL)
"""Where a message of aiohttp's parser begins to quote the request, which may have a token in it."""

KNOWN_HEADER_FAULT = re.compile(r"(Missing|Duplicate) '[A-Za-z-]{1,40}' header [a-z ]+\.")
"""What it says of a header that it knows by name."""


class OneLine(logging.Filter):
    """Tells of a request that aiohttp's parser refused in one line: a client's fault is no traceback.

    Nothing of the request is in it but the address it came from.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
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
    """Return the address in what aiohttp says of a request that could not be read."""
    return record.args[0] if isinstance(record.args, tuple) and record.args else "unknown"


def fault_of(error: HttpProcessingError) -> str:
    """Return what the parser found wrong with a request, without a word of the request."""
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
    """Log a request that is refused: at info who may not come in, at debug all others.

    `address` is the client's, None of a UNIX socket's; `origin` is there for a page that CORS shuts out.
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
    """Log a request that is answered, and whose answer the browser keeps from the page that asked."""
    refusal_logger().info(KEPT_FROM, {**_asked(request, address), "origin": origin[:80]})


def _asked(request: web.Request, address: str | None) -> dict[str, object]:
    # Without the query, which may have a token in it.
    return {"address": address or "unix", "method": request.method, "path": ascii(request.path[:80])[1:-1]}


def refusal_logger() -> logging.Logger:
    """Return the logger of refusals: what clients can cause is few lines, however often."""
    if not refusals.filters:
        refusals.addFilter(RateLimitFilter())
    return refusals


def http_logger() -> logging.Logger:
    """Return the logger for aiohttp's request handlers: clients can cause few lines, however often."""
    if not logger.filters:
        logger.addFilter(OneLine())
        logger.addFilter(RateLimitFilter())
    return logger


def tell_published(receipt: Receipt, principal: Principal, *data: bytes) -> None:
    """Log a publish, if everything is logged: by whom, where, and how many bytes, of which it shows none."""
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
