"""What schemathesis must be told beside the contract; it loads this by SCHEMATHESIS_HOOKS."""

import json
import re
import uuid
from typing import Any

import schemathesis
from schemathesis.core import NotSet
from schemathesis.core.failures import AcceptedNegativeData, Failure

from tests.support.contract import Operation

Case = schemathesis.Case[Any]

NDJSON = "application/x-ndjson"
OWN_ID = re.compile(r"[0-9a-f]{8}-[0-9]+")
VISIBLE = re.compile(r"[\x20-\x7e\xa0-\xff]*")
"""What a header can carry."""

BEGINNING = re.compile(r"(earliest|last|[0-9]{1,9}(ms|s|m|h|d)|[0-9a-f]{8}-[0-9]{1,19})?")


@schemathesis.serializer(NDJSON)
def write_line(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Return the one line of a body."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.deserializer(NDJSON)
def read_lines(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> list[Any]:
    """Return the lines of a stream."""
    return [json.loads(line) for line in response.content.splitlines() if line]


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Keep requests to the rules that concern two things at once: OpenAPI has no words for them."""
    query: dict[str, Any] = case.query or {}
    headers: Any = case.headers or {}
    for name in [name for name, value in headers.items() if not _is_latin_1(value)]:
        del headers[name]  # no client can send it
    if case.media_type == "application/json" and query.get("stream") == "1":
        del query["stream"]  # the lines would be text, whatever they look like
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.path.startswith("/events"):
        _begin_somewhere(query)
        _begin_somewhere(case.body if isinstance(case.body, dict) else {})
        if not VISIBLE.fullmatch(str(headers.get("Last-Event-ID", ""))):
            del headers["Last-Event-ID"]
    elif case.path == "/subscribers":
        _page_in_one_order(query)
    elif case.path.startswith("/send"):
        _say_it_once(case, query)
        _publish_anew(query, headers)
        _say_something(case, query)


def _is_latin_1(value: object) -> bool:
    return all(ord(character) < 0x100 for character in str(value))


def _begin_somewhere(said: dict[str, Any]) -> None:
    # A publisher's id is a place to begin only while its event is held. The token of every request is in its
    # header.
    if not BEGINNING.fullmatch(str(said.get("since", ""))):
        del said["since"]
    said.pop("access_token", None)


def _page_in_one_order(query: dict[str, Any]) -> None:
    # What comes first by something has no next page.
    if "sort" in query:
        query.pop("after", None)


def _say_something(case: Case, query: dict[str, Any]) -> None:
    # An event without a body is one that has a type, say.
    nothing = isinstance(case.body, NotSet) or case.body == ""
    if nothing and query.get("stream") != "1" and query.keys().isdisjoint({"event", "id", "key", "retry"}):
        query["event"] = "empty"
        case.query = query


def _say_it_once(case: Case, query: dict[str, Any]) -> None:
    # A body that is JSON says everything itself, the channels too if it says any.
    if case.media_type in {NDJSON, "application/json"}:
        for name in ("event", "id", "key", "retry"):
            query.pop(name, None)
        if "channel" in str(case.body):
            query.pop("channel", None)


def _publish_anew(query: dict[str, Any], headers: Any) -> None:
    # What is published anew has a key of its own; of an answer's id nothing can be published anew.
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = str(uuid.uuid4())
    if OWN_ID.fullmatch(str(query.get("id"))):
        del query["id"]
    if query.get("stream") == "1":
        query.pop("id", None)
        headers.pop("Idempotency-Key", None)


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: Case,
    response: schemathesis.Response,
) -> bool:
    """Drop the failure to refuse what was bad as it was made up, and as it was sent is good.

    A list of one is sent as its one item, a number as its digits; and parameters that nobody knows are
    ignored where nothing is published, which the contract says.
    """
    if not isinstance(failure, AcceptedNegativeData):
        return True
    operation = Operation(case.operation.schema.raw_schema, case.path, case.method.lower())
    sent = response.request
    assert sent.url is not None
    headers = {name: _text(value) for name, value in sent.headers.items()}
    body = None if sent.body is None else _text(sent.body)
    if case.path == "/events":
        body = _as_a_query_says_it(body)
    return not operation.describes(sent.url, headers, body)


def _as_a_query_says_it(body: str | None) -> str | None:
    # What a body says is read as if a query had said it: a number by its digits, a list item by item.
    try:
        members = json.loads(body or "")
    except ValueError:
        return body
    if not isinstance(members, dict):
        return body
    return json.dumps({name: _plain(value) for name, value in members.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return _plain(value[0]) if len(value) == 1 else [_plain(each) for each in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 != 0:
        return value
    return str(int(value))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
