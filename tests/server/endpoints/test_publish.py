"""POST /send: what becomes an event, and what is refused."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from sse_broadcast.backends.memory import idempotency
from sse_broadcast.config.schema import CallerRule
from sse_broadcast.event import Event
from sse_broadcast.publication import Draft
from sse_broadcast.server.services import BATCH_LOCK
from tests.conftest import Caplog, LiveServer, Patch, Serve
from tests.support.asking import bearer
from tests.support.credentials import caller, static
from tests.support.publishing import before_publishing
from tests.support.sockets import LEAVING, RawClient, until

JSON = "Content-Type: application/json\r\n"
NDJSON = "Content-Type: application/x-ndjson\r\n"
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"

MISSING = "message: is missing; send text as message, or any JSON as data"
MEMBERS = "message, data, event, id, retry, key, channel, channels"
PARAMETERS = "channel, event, id, key, retry, stream"
OF_EVENT_SOURCE = "event: 'open' is reserved: browsers fire EventSource events of this name"
LINES, STREAM = "application/x-ndjson", "/send?stream=1"
SPACED = b'{"b" : [1.50, null,  "\\u00e9"], "a": 1}'
MANY = ",".join(f"c{n}" for n in range(101))
OUR_TYPE = "event: types that begin with $ are reserved for the server: '$close'"
RETRY = "retry: must be"
TYPE = "Content-Type: "
CUT = "is not JSON: Input data was truncated"
SURROGATE = "has a lone surrogate, which no event can carry"
A_SPACE = "channel: must not contain ' ': 'b b'"
NAMED_ALREADY = "channel: the URL of the request already names the channels"
EMPTY = "body: is empty; send the message, or ?event=TYPE for an event without one"
A_FORM = (
    "body: is a form whose fields are the members of an event; send them as JSON, with"
    " Content-Type: application/json"
)
A_MULTIPART = (
    "Content-Type: 'multipart/form-data' is a form, not an event; send JSON, or the message as the body"
)


def key(text: str) -> str:
    return f"Idempotency-Key: {text}\r\n"


@pytest.mark.parametrize(
    ("path", "headers", "body", "event"),
    [
        ("/send", "", b"hello", Event("hello")),
        ("/send", FORM, b"a=1&b=2", Event("a=1&b=2")),
        ("/send?event=message", "", b"", Event("")),
        ("/send?event=t", FORM, b"", Event("", "t")),
        ("/send?id=order-7", "", b"", Event("", id="order-7")),
        ("/send?key=k", "", b"", Event("")),
        ("/send?retry=500", "", b"", Event("", retry=500)),
        ("/send", "", b"a\r\nb\rc\nd\n", Event("a\nb\nc\nd\n")),
        ("/send", "", b"\0", Event("\0")),
        ("/send", "", "\ufeffmark and \U0001f600".encode(), Event("\ufeffmark and \U0001f600")),
        ("/send", "", b'{"message": "x"}', Event('{"message": "x"}')),
        ("/send?event=price&retry=500", "", b"x", Event("x", "price", retry=500)),
        ("/send?event=%C3%A9t%C3%A9", "", b"x", Event("x", "\u00e9t\u00e9")),
        ("/send", JSON, b'{"message": "a\\nb", "event": "t"}', Event("a\nb", "t")),
        ("/send", JSON, b'{"message": "x", "retry": 700}', Event("x", retry=700)),
        ("/send?retry=3600000", "", b"x", Event("x", retry=3_600_000)),
        ("/send?id=order-7", "", b"x", Event("x", id="order-7")),
        ("/send?key=k%20k", "", b"x", Event("x")),
        ("/send?stream=0", "", b"x", Event("x")),
        ("/send", JSON, b'{"message": ""}', Event("")),
        ("/send", JSON, b'{"message": "x", "id": "order-7", "key": "k"}', Event("x", id="order-7")),
        ("/send", JSON, b'{"data": "text"}', Event("text")),
        ("/send", JSON, b'{"data": %b}' % SPACED, Event('{"b":[1.50,null,"\\u00e9"],"a":1}')),
        ("/send", JSON, b'{"data": null}', Event("null")),
        ("/send", "Content-Type: application/json; charset=utf-8\r\n", b'{"message": "x"}', Event("x")),
    ],
)
async def test_a_body_becomes_an_event(
    server: LiveServer, path: str, headers: str, body: bytes, event: Event
) -> None:
    subscriber, publisher = await server.subscriber(), await server.connect()
    status, answer = await publisher.ask("POST", path, body=body, headers=headers)
    assert status == 200, answer
    (received,) = await subscriber.events(1)
    assert (received.data, received.type) == (event.data, event.type)
    assert event.retry is None or received.retry == event.retry
    assert event.id is None or received.id == event.id
    assert received.id == json.loads(answer)["id"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_the_response_has_the_number_of_subscribers(
    server: LiveServer, client: RawClient, method: str
) -> None:
    """PUT works too: `curl -T` sends it."""
    status, answer = await client.ask(method, "/send", body=b"hello\n")
    assert (status, answer.decode()) == (
        200,
        (
            f'{{"status":"sent","clients":0,"message":"hello\\n","id":"{server.broadcaster.cursor}",'
            '"channel":"default","channels":["default"]}\n'
        ),
    )


LONGEST_SHOWN = {
    "x": 65_534,
    "\u00e9": 32_767,
    "\u20ac": 21_844,
    "\U0001f600": 16_383,
    "\x01": 10_922,
    '"': 32_767,
}
"""Maximum number of each character in a message that the response repeats: 64 KiB as JSON with quotes."""


@pytest.mark.parametrize("character", LONGEST_SHOWN)
async def test_the_response_omits_a_long_message(
    server: LiveServer, client: RawClient, character: str
) -> None:
    """The limit is 64 KiB as JSON, where a control character takes six bytes. The rest is as usual."""
    for more, shown in ((0, True), (1, False)):
        message = character * (LONGEST_SHOWN[character] + more)
        status, answer = await client.ask("POST", "/send/a,b", body=message.encode(), headers=key(str(more)))
        said = {"status": "sent", "clients": 0, "message": message, "id": server.broadcaster.cursor}
        said |= {"channel": "a", "channels": ["a", "b"]}
        if not shown:
            del said["message"]
        assert (status, json.loads(answer)) == (200, said)
        assert len(answer) < 66_000
        again = await client.ask("POST", "/send/a,b", body=message.encode(), headers=key(str(more)))
        assert again == (status, answer)


async def test_the_response_to_a_message_of_control_characters_is_short(
    server: LiveServer, client: RawClient
) -> None:
    """The longest message would take six mebibytes as JSON."""
    status, answer = await client.ask("POST", "/send", body=b"\x01" * 1_000_000)
    id = server.broadcaster.cursor
    assert (status, answer.decode()) == (
        200,
        f'{{"status":"sent","clients":0,"id":"{id}","channel":"default","channels":["default"]}}\n',
    )


async def test_the_response_to_a_batch_has_its_counts(server: LiveServer) -> None:
    """It has the id of the last event, and counts each subscriber once."""
    clients = {
        "/events/a": 1,
        "/events/b,a": 2,
        "/events/c": 2,
        "/events/*?event=t": 3,
        "/events/b?event=no": 3,
    }
    body = b'[{"message":"1"},{"message":"2","channels":["a","b"]},{"message":"3","event":"t","channel":"b"}]'
    publisher = await server.connect()
    for path, count in clients.items():
        await (subscriber := await server.connect()).subscribe(path=path)
        await subscriber.chunk()
        assert await publisher.ask("POST", "/send", body=body, headers=JSON) == (
            200,
            f'{{"status":"sent","count":3,"clients":{count},"id":"{server.broadcaster.cursor}"}}\n'.encode(),
        )


@pytest.mark.parametrize(
    ("path", "headers", "body", "channels"),
    [
        ("/send", "", b"x", ["default"]),
        ("/send/a", "", b"x", ["a"]),
        ("/send/b,a", "", b"x", ["b", "a"]),
        ("/send/b,a,b", "", b"x", ["b", "a"]),
        ("/send?channel=b&channel=a", "", b"x", ["b", "a"]),
        ("/send/c?channel=b&channel=c", "", b"x", ["c", "b"]),
        ("/send/b%2Ca", "", b"x", ["b", "a"]),
        ("/send/a", JSON, b'{"message":"x"}', ["a"]),
        ("/send?channel=a", JSON, b'{"message":"x"}', ["a"]),
        ("/send", JSON, b'{"message":"x","channel":"a"}', ["a"]),
        ("/send", JSON, b'{"message":"x","channels":["b","a","b"]}', ["b", "a"]),
        ("/send/" + ",".join(f"c{n}" for n in range(100)), "", b"x", [f"c{n}" for n in range(100)]),
    ],
)
async def test_a_publish_to_several_channels_has_one_id(
    server: LiveServer, client: RawClient, path: str, headers: str, body: bytes, channels: list[str]
) -> None:
    """The response lists the channels in the publisher's order without duplicates."""
    status, answer = await client.ask("POST", path, body=body, headers=headers)
    said = json.dumps(channels, separators=(",", ":"))
    assert (status, answer.decode()) == (
        200,
        (
            f'{{"status":"sent","clients":0,"message":"x","id":"{server.broadcaster.cursor}",'
            f'"channel":"{channels[0]}","channels":{said}}}\n'
        ),
    )
    assert server.broadcaster.cursor.endswith("-1")
    assert {state.channel for state in server.broadcaster.channels(limit=200)} == set(channels)


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/send?id=mine", "", b"x"),
        ("/send", JSON, b'{"message":"x","id":"mine"}'),
        ("/send", JSON, b'[{"message":"a"},{"message":"x","id":"mine"}]'),
        ("/send", NDJSON, b'{"message":"x","id":"mine"}\n'),
    ],
)
async def test_subscribers_resume_from_a_publishers_own_id(
    server: LiveServer, path: str, headers: str, body: bytes
) -> None:
    """Subscribers receive it unchanged. If several events have it, the oldest counts."""
    subscriber, publisher = await server.connect(), await server.connect()
    await publisher.ask("POST", "/send?id=other", body=b"an older one")
    await subscriber.subscribe(path="/events?since=last")
    await subscriber.events(1)
    status, answer = await publisher.ask("POST", path, body=body, headers=headers)
    assert (status, json.loads(answer)["id"]) == (200, "mine")
    await publisher.ask("POST", "/send", body=b"after")
    again = await server.subscriber(headers="Last-Event-ID: mine\r\n")
    assert [event.data for event in await again.events(1)] == ["after"]
    await publisher.ask("POST", "/send?id=mine", body=b"used again")
    again = await server.subscriber(headers="Last-Event-ID: mine\r\n")
    assert [event.data for event in await again.events(2)] == ["after", "used again"]


async def test_a_subscription_can_begin_at_the_id_of_the_response(server: LiveServer) -> None:
    publisher, subscriber = await server.connect(), await server.connect()
    id = json.loads((await publisher.ask("POST", "/send/a", body=b"x"))[1])["id"]
    await publisher.ask("POST", "/send/a", body=b"next")
    await subscriber.subscribe(path=f"/events/a?since={id}")
    assert [event.data for event in await subscriber.events(1)] == ["next"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b' [{"message":"1"}, {"message":"2","event":"t"}, {"data":{"a": 3},"retry":900}]'),
        (NDJSON, b'{"message":"1"}\n\n{"message":"2","event":"t"}\r\n{"data":{"a": 3},"retry":900}'),
    ],
)
async def test_the_events_of_a_batch_are_delivered_in_order(
    server: LiveServer, headers: str, body: bytes
) -> None:
    subscriber, publisher = await server.live(), await server.connect()
    assert (await publisher.ask("POST", "/send", body=body, headers=headers))[0] == 200
    epoch = server.broadcaster.cursor.partition("-")[0]
    frames = (
        f"data: 1\nid: {epoch}-1\n\nevent: t\ndata: 2\nid: {epoch}-2\n\n"
        f'retry: 900\ndata: {{"a":3}}\nid: {epoch}-3\n\n'
    )
    assert await subscriber.chunk() + await subscriber.chunk() + await subscriber.chunk() == frames.encode()


@pytest.mark.parametrize(
    ("headers", "body", "status", "detail"),
    [
        (JSON, b"[]", 422, "batch: is empty"),
        (NDJSON, b"\n\r\n \n", 422, "batch: is empty"),
        (JSON, b"[" + b",".join([b'{"message":"x"}'] * 4) + b"]", 413, "batch: more than 3 events"),
        (NDJSON, b'{"message":"x"}\n' * 4, 413, "batch: more than 3 events"),
        (JSON, b'[{"message":"x"},{"message":"y"},{}]', 422, f"item 3: {MISSING}"),
        (NDJSON, b'{"message":"x"}\r\n\r\n{}\r\n', 422, f"line 3: {MISSING}"),
        (JSON, b'[{"message":"x"},{"message":"y","channel":"b b"}]', 400, f"item 2: {A_SPACE}"),
        (NDJSON, b'{"message":"x"}\n{"message":"y","event":"open"}\n', 422, f"line 2: {OF_EVENT_SOURCE}"),
        (JSON, b'[{"message":"x"},{"data":["\\ud800"]}]', 422, f"body: {SURROGATE}"),
        (NDJSON, b'{"message":"x"}\n{"data":["\\ud800"]}', 422, f"line 2: body: {SURROGATE}"),
    ],
)
async def test_a_bad_event_keeps_its_batch_from_being_published(
    serve: Serve, headers: str, body: bytes, status: int, detail: str
) -> None:
    """The error names the item or the line. The connection stays open."""
    server, client = await serve.connected(max_batch=3)
    assert await client.refused("POST", "/send", body=body, headers=headers) == (status, detail)
    assert server.broadcaster.counts.published == 0
    assert (await client.ask("POST", "/send", body=b'{"message":"x"}\n' * 3, headers=NDJSON))[0] == 200


@pytest.mark.parametrize(("headers", "most"), [("", 10_096), (JSON, 20_000), (NDJSON, 20_000)])
async def test_a_batch_may_be_larger_than_an_event(serve: Serve, headers: str, most: int) -> None:
    """`max_body` applies to JSON only: a text body is one event. A body is refused by its Content-Length."""
    server = await serve(max_event=1000, max_body=20_000)
    for size, status in ((most, {400, 413}), (most + 1, {413})):
        client = await server.connect()
        answered, answer = await client.ask("POST", "/send", body=b"x" * size, headers=headers)
        assert answered in status
        assert (json.loads(answer)["detail"] == f"body: more than {most} bytes") == (size > most)


@pytest.mark.parametrize("headers", [JSON, NDJSON])
@pytest.mark.parametrize("parameter", ["event", "id", "key", "retry"])
async def test_query_parameters_that_json_has_are_refused(
    server: LiveServer, client: RawClient, headers: str, parameter: str
) -> None:
    path, body = f"/send?{parameter}=7", b'{"message":"x"}'
    status, answer = await client.ask("POST", path, body=body, headers=headers)
    assert status == 400
    kind = headers.removeprefix("Content-Type: ").rstrip()
    assert json.loads(answer)["detail"] == f"{parameter}: must be in the body, not in the query, for {kind}"
    assert server.broadcaster.counts.published == 0


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "detail"),
    [
        ("/send", "", b"\xff", 400, "body: is not UTF-8 at byte 0"),
        ("/send", JSON, b'{"message":', 400, f"body: {CUT}"),
        ("/send", JSON, b"null", 422, "must be a JSON object, not null"),
        ("/send", JSON, b'{"message": "x", "x": 1}', 422, f"x: unknown member; {MEMBERS} are known"),
        ("/send/a", JSON, b'{"message": "x", "channel": "a"}', 422, NAMED_ALREADY),
        ("/send?channel=a", JSON, b'[{"message": "x", "channels": ["a"]}]', 422, f"item 1: {NAMED_ALREADY}"),
        ("/send/b%20b", JSON, b"[{", 400, A_SPACE),
        ("/send/a?channel=", NDJSON, b"{}", 400, "channel: must be 1 to 128 characters: ''"),
        ("/send?event=", "", b"x", 422, "event: must not be empty"),
        ("/send?event=a%0Db", "", b"x", 422, "event: must not contain CR: 'a\\rb'"),
        ("/send?event=%24close", "", b"x", 422, OUR_TYPE),
        ("/send?event=%ff", "", b"x", 400, "query: is not UTF-8 in 'event'"),
        ("/send?retry=soon", "", b"x", 400, "retry: must be a number of milliseconds, not 'soon'"),
        ("/send?retry=9999999999999", "", b"x", 422, f"{RETRY} 0 to 2147483647 milliseconds, not 2147483648"),
        ("/send?retry=499", "", b"x", 422, "retry: must be 500 to 3600000 milliseconds, not 499"),
        ("/send?retry=-1", "", b"x", 400, "retry: must be a number of milliseconds, not '-1'"),
        ("/send?event=open", "", b"x", 422, OF_EVENT_SOURCE),
        ("/send?event=error", "", b"x", 422, OF_EVENT_SOURCE.replace("open", "error", 1)),
        ("/send?evnt=price", "", b"x", 400, "evnt: unknown parameter; did you mean event?"),
        ("/send?topic=a", "", b"x", 400, "topic: unknown parameter; did you mean channel?"),
        ("/send?lastEventId=t", "", b"x", 400, "lastEventId: unknown parameter; did you mean id?"),
        ("/send?x=1", "", b"x", 400, f"x: unknown parameter; {PARAMETERS} are known"),
        ("/send?message=hi", "", b"x", 400, f"message: unknown parameter; {PARAMETERS} are known"),
        ("/send?access_token=t", "", b"x", 400, f"access_token: unknown parameter; {PARAMETERS} are known"),
        ("/send", "", b"", 422, EMPTY),
        ("/send/a", "Content-Type: text/plain\r\n", b"", 422, EMPTY),
        ("/send?channel=a", FORM, b"", 422, EMPTY),
        ("/send", FORM, b"message=%C3%A9&event=n", 422, A_FORM),
        ("/send", FORM, b"topic=orders&data=%7B%22a%22%3A1%7D", 422, A_FORM),
        ("/send", f"{FORM[:-2]}; charset=UTF-8\r\n", b"message=hi", 422, A_FORM),
        ("/send?event=n", FORM, b"data=", 422, A_FORM),
        ("/send", FORM, b"message=a&message=b&private=on&topic=x&type=y&id=1&retry=5&key=k", 422, A_FORM),
        ("/send", "Content-Type: multipart/form-data; boundary=x\r\n", b"--x--", 415, A_MULTIPART),
        ("/send/a", f"{TYPE}Multipart/Mixed\r\n", b"x", 415, A_MULTIPART.replace("form-data", "mixed")),
        ("/send?stream=1", "Content-Type: multipart/form-data; boundary=x\r\n", b"--x--", 415, A_MULTIPART),
        ("/send?id=", "", b"x", 422, "id: must be 1 to 128 characters: ''"),
        ("/send?id=" + "7" * 129, "", b"x", 422, f"id: must be 1 to 128 characters: '{'7' * 80}'"),
        ("/send?id=a%0Ab", "", b"x", 422, "id: must not contain LF: 'a\\nb'"),
        ("/send?id=caf%C3%A9", "", b"x", 422, "id: must not contain '\\xe9': 'caf\\xe9'"),
        ("/send?id=earliest", "", b"x", 422, "id: 'earliest' has a meaning for `since`"),
        ("/send?id=0123abcd-7", "", b"x", 422, "id: '0123abcd-7' has the form of the server's own ids"),
        ("/send?key=", "", b"x", 422, "key: must be 1 to 128 characters: ''"),
        ("/send?id=a&id=b", "", b"x", 400, "id: is given 2 times"),
        ("/send?retry=", "", b"x", 400, "retry: must be a number of milliseconds, not ''"),
        ("/send?retry=%C2%B2", "", b"x", 400, "retry: must be a number of milliseconds, not '\\xb2'"),
        ("/send?stream=yes", "", b"x", 400, "stream: must be 1, not 'yes'"),
        ("/send?channel=a,b", "", b"x", 400, "channel: must not contain ',': 'a,b'"),
        ("/send?channel=", "", b"x", 400, "channel: must be 1 to 128 characters: ''"),
        ("/send/a,,b", "", b"x", 400, "channel: must be 1 to 128 characters: ''"),
        ("/send/orders.*", "", b"x", 400, "channel: must not contain '*': 'orders.*'"),
        ("/send/a%20b", "", b"x", 400, "channel: must not contain ' ': 'a b'"),
        (
            "/send/%2e%2e",
            "",
            b"x",
            400,
            "channel: must not be '..', which clients resolve as a folder in a path",
        ),
        ("/send/%ff", "", b"x", 400, "path: is not UTF-8: '/send/%ff'"),
        (f"/send/{MANY}", "", b"x", 400, "channels: 101 given, at most 100 allowed"),
        ("/send", "Idempotency-Key: a\r\n" * 2, b"x", 400, "Idempotency-Key: is given 2 times"),
        (
            "/send",
            "Content-Encoding: gzip\r\n",
            b"x",
            415,
            "Content-Encoding: 'gzip' is not supported; send the body uncompressed",
        ),
        ("/send", "Expect: a-miracle\r\n", b"x", 417, "Expect: 'a-miracle' is not supported"),
    ],
)
async def test_an_invalid_event_is_refused(
    server: LiveServer, client: RawClient, path: str, headers: str, body: bytes, status: int, detail: str
) -> None:
    """The error names the fault, the place and the value. Nothing is published."""
    answered, answer = await client.ask("POST", path, body=body, headers=headers)
    assert (answered, json.loads(answer)["detail"]) == (status, detail)
    assert json.loads(answer)["status"] == status
    assert server.broadcaster.counts.published == 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (FORM, b"message=hi&price=1"),
        (FORM, b"message"),
        (FORM, b"message=hi&"),
        (FORM, b"event=t&id=7"),
        (FORM, b"messages=hi"),
        (FORM, b"Message=hi"),
        (FORM, b"hello message=hi"),
        (FORM, b"message=\xc3\xa9&\xc3\xa9=1"),
        (FORM, b'{"message": "x"}'),
        (FORM, b"&".join([b"message=hi"] * 33)),
        ("", b"message=hi"),
        ("Content-Type: text/plain\r\n", b"message=hi&event=n"),
    ],
)
async def test_text_that_resembles_a_form_is_a_message(server: LiveServer, headers: str, body: bytes) -> None:
    """`curl -d` declares any text as a form, so text that may be meant as text is published."""
    subscriber, publisher = await server.subscriber(), await server.connect()
    status, answer = await publisher.ask("POST", "/send", body=body, headers=headers)
    assert status == 200, answer
    assert [event.data for event in await subscriber.events(1)] == [body.decode()]


LATIN = ("iso-8859-1", "ISO-8859-1", '"iso-8859-1"', "latin1")


@pytest.mark.parametrize(
    ("kind", "path", "body"),
    [
        ("text/plain", "/send", b"caf\xe9 \xa4\r\n\xff"),
        ("application/x-www-form-urlencoded", "/send", b"caf\xe9 \xa4\r\n\xff"),
        ("application/json", "/send", b'{"message": "caf\xe9 \xa4\\r\\n\xff"}'),
        ("application/json", "/send", b'[{"data": "caf\xe9 \xa4\\r\\n\xff"}]'),
        ("application/x-ndjson", "/send", b'{"message": "caf\xe9 \xa4\\r\\n\xff"}\n'),
        ("application/x-ndjson", "/send?stream=1", b'{"message": "caf\xe9 \xa4\\r\\n\xff"}\n'),
    ],
)
@pytest.mark.parametrize("charset", LATIN)
async def test_a_body_is_decoded_by_its_charset(
    server: LiveServer, charset: str, kind: str, path: str, body: bytes
) -> None:
    """Spring's RestClient declares ISO-8859-1 for every String. It is not decoded as windows-1252."""
    subscriber, publisher = await server.subscriber(), await server.connect()
    headers = f"Content-Type: {kind}; charset={charset}\r\n"
    status, answer = await publisher.ask("POST", path, body=body, headers=headers)
    assert status == 200, answer
    assert [event.data for event in await subscriber.events(1)] == ["caf\u00e9 \u00a4\n\u00ff"]


async def test_the_response_has_the_decoded_message(client: RawClient) -> None:
    headers = "Content-Type: text/plain;charset=ISO-8859-1\r\n"
    status, answer = await client.ask("POST", "/send", body=b"\xe9", headers=headers)
    assert (status, json.loads(answer)["message"]) == (200, "\u00e9")


@pytest.mark.parametrize("charset", ["us-ascii", "US-ASCII", "ascii"])
@pytest.mark.parametrize(
    ("kind", "path", "body", "detail"),
    [
        ("text/plain", "/send", b"abc\xe9", "body: is not US-ASCII at byte 3"),
        ("text/plain", "/send", "\u00e9".encode(), "body: is not US-ASCII at byte 0"),
        ("application/json", "/send", b'{"message":"\xe9"}', "body: is not US-ASCII at byte 12"),
        (LINES, "/send", b'{"message":"a"}\n{"message":"\xe9"}', "body: is not US-ASCII at byte 28"),
        ("text/plain", "/send?stream=1", b"abc\n\xe9\n", "line 2: body: is not US-ASCII at byte 0"),
        (LINES, STREAM, b'{"message":"a"}\n{"message":"\xe9"}\n', "line 2: body: is not US-ASCII at byte 12"),
    ],
)
async def test_a_body_declared_as_ascii_that_is_not_is_refused(
    server: LiveServer, client: RawClient, charset: str, kind: str, path: str, body: bytes, detail: str
) -> None:
    """The error names the byte. Earlier lines of a line stream are published. ASCII is accepted."""
    detail += ", though its charset says so" + "; 1 published" * ("stream" in path)
    headers = f"Content-Type: {kind}; charset={charset}\r\n"
    assert await client.refused("POST", path, body=body, headers=headers) == (400, detail)
    assert server.broadcaster.counts.published == ("stream" in path)
    good = await server.connect()
    assert (await good.ask("POST", path, body=b'{"message":"x"}', headers=headers))[0] == 200


@pytest.mark.parametrize(
    ("charset", "said"),
    [
        ("utf-16", "utf-16"),
        ("UTF-16LE", "UTF-16LE"),
        ("windows-1252", "windows-1252"),
        ("iso-8859-15", "iso-8859-15"),
        ("rot13", "rot13"),
        ("utf-8-sig", "utf-8-sig"),
        ("x" * 100, "x" * 80),
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/x-ndjson"])
@pytest.mark.parametrize("path", ["/send", "/send?stream=1"])
async def test_another_charset_is_refused(
    server: LiveServer, client: RawClient, path: str, kind: str, charset: str, said: str
) -> None:
    headers = f"Content-Type: {kind}; charset={charset}\r\n"
    status, answer = await client.ask("POST", path, body=b'{"message":"x"}', headers=headers)
    detail = f"Content-Type: charset '{said}' is not supported; use utf-8, iso-8859-1 or us-ascii"
    assert (status, json.loads(answer)["detail"]) == (415, detail)
    assert server.broadcaster.counts.published == 0


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", '"utf-8"'])
async def test_utf8_may_be_declared(client: RawClient, charset: str) -> None:
    headers = f"Content-Type: text/plain; charset={charset}\r\n"
    body = "\u20ac".encode()
    status, answer = await client.ask("POST", "/send", body=body, headers=headers)
    assert (status, json.loads(answer)["message"]) == (200, "\u20ac")
    assert (await client.ask("POST", "/send", body=b"\xe9", headers=headers))[0] == 400


@pytest.mark.parametrize(
    ("headers", "body", "place"),
    [
        (JSON, b'{"data":%s}', ""),
        (JSON, b'{"id":"x","data":%s}', ""),
        (JSON, b'[{"message":"x"},{"data":%s}]', "item 2: "),
        (NDJSON, b'{"message":"x"}\n{"data":%s}', "line 2: "),
    ],
)
async def test_json_that_is_nested_too_deeply_is_refused(
    server: LiveServer, client: RawClient, headers: str, body: bytes, place: str
) -> None:
    """The nesting is deeper than a parser allows, in a member of an event or in any other."""
    deep = body % (b"[" * 100_000 + b"]" * 100_000)
    found = await client.refused("POST", "/send", body=deep, headers=headers)
    assert found == (422, f"{place}body: is nested more than 64 deep")
    assert server.broadcaster.counts.published == 0


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/send", JSON, b'{"data":"\xff"}'),
        ("/send", JSON, b'{"data":{"a":"\xff"}}'),
        ("/send", JSON, b'[{"data":"\xff"}]'),
        ("/send", NDJSON, b'{"data":"\xff"}\n'),
        ("/send?stream=1", NDJSON, b'{"data":"\xff"}\n'),
    ],
)
async def test_a_value_that_is_not_utf8_is_refused(
    server: LiveServer, client: RawClient, path: str, headers: str, body: bytes
) -> None:
    """It may be a text, or be nested in other JSON."""
    status, answer = await client.ask("POST", path, body=body, headers=headers)
    assert (status, "is not UTF-8" in json.loads(answer)["detail"]) == (400, True)
    assert server.broadcaster.counts.published == 0


NEWLINES = ((b"\n" * 137, 200), (b"\n" * 138, 413))


@pytest.mark.parametrize(
    ("body", "status"),
    [*((b"x" * size, 200 if size < 960 else 413) for size in (959, 960, 1001, 20_000)), *NEWLINES],
)
async def test_the_size_of_an_event_is_limited(serve: Serve, body: bytes, status: int) -> None:
    server, client = await serve.connected(max_event=1000)
    assert (await client.ask("POST", "/send", body=body))[0] == status
    assert server.broadcaster.counts.published == (status == 200)


@pytest.mark.both_loops
async def test_a_chunked_body_is_limited_as_it_arrives(serve: Serve) -> None:
    """It is refused once it is too long, and not read to its end."""
    _, client = await serve.connected(max_event=1000)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    assert await client.refusal() == (413, "body: more than 10096 bytes")


async def test_json_escapes_do_not_make_an_event_too_large(serve: Serve) -> None:
    _, client = await serve.connected(max_event=1000)
    body = b'{"message": "' + b"\\u0041" * 950 + b'"}'
    assert (await client.ask("POST", "/send", body=body, headers=JSON))[0] == 200


@pytest.mark.both_loops
async def test_a_body_that_stalls_gets_408(serve: Serve) -> None:
    """aiohttp has no timeout for bodies."""
    server, client = await serve.connected(body_timeout=0.1)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
    assert await client.refusal() == (408, "body: did not arrive within 0.1 s")
    assert server.broadcaster.counts.published == 0


@pytest.mark.both_loops
async def test_a_publisher_that_disconnects_within_its_body_publishes_nothing(
    server: LiveServer, client: RawClient
) -> None:
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
    client.close()
    async with asyncio.timeout(30):
        while server.connections:
            await asyncio.sleep(0.002)
    assert server.broadcaster.counts.published == 0


@pytest.mark.both_loops
async def test_expect_100_continue_is_answered(client: RawClient) -> None:
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"hello")
    assert (await client.answer())[0] == 200


@pytest.mark.both_loops
async def test_a_connection_serves_many_publishes(client: RawClient) -> None:
    """Keep-alive survives an error in between."""
    statuses: list[Any] = [
        (await client.ask("POST", "/send", body=body))[0] for body in (b"a", b"\xff", b"b")
    ]
    assert statuses == [200, 400, 200]


ONCE: list[tuple[str, bytes, str]] = [
    ("", b"x", "/send"),
    ("", b"x", "/send/a,b?event=t&id=mine&retry=700&key=k"),
    (JSON, b'{"data":{"a":1}}', "/send?channel=a"),
    (JSON, b'[{"message":"a"},{"message":"b"}]', "/send/a"),
    (NDJSON, b'{"message":"a"}\n{"message":"b","channel":"c"}\n', "/send"),
]


@pytest.mark.parametrize(("headers", "body", "path"), ONCE)
async def test_an_idempotency_key_publishes_once(
    server: LiveServer, headers: str, body: bytes, path: str
) -> None:
    """The second response equals the first byte for byte, even if there are new subscribers.

    A batch counts as one publish.
    """
    client = await server.connect()
    first = await client.ask("POST", path, body=body, headers=headers + key("k"))
    assert first[0] == 200
    published = server.broadcaster.counts.published
    await (await server.connect()).subscribe(path="/events/*")
    await server.broadcaster.broadcast("between")
    other = await server.connect()
    assert await other.ask("PUT", path, body=body, headers=headers + key("k")) == first
    assert server.broadcaster.counts.published == published + 1


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/send", "", b"y"),
        ("/send?event=message", "", b""),
        ("/send?event=t", "", b"x"),
        ("/send?channel=a", "", b"x"),
        ("/send", NDJSON, b'{"message":"x"}'),
        ("/send", JSON, b'{"message":"x"}'),
    ],
)
async def test_an_idempotency_key_belongs_to_one_body(
    server: LiveServer, client: RawClient, path: str, headers: str, body: bytes
) -> None:
    """Type and query are part of the body. Another body is a 422, and nothing is published."""
    first = await client.ask("POST", "/send", body=b"x", headers=key("k"))
    assert await client.ask("POST", path, body=body, headers=headers + key("k")) == (
        422,
        (
            b'{"title":"Unprocessable Content","status":422,'
            b'"detail":"Idempotency-Key: it was used before, to publish something else"}\n'
        ),
    )
    assert server.broadcaster.counts.published == 1
    assert await client.ask("POST", "/send", body=b"x", headers=key("k")) == first


async def test_an_idempotency_key_belongs_to_one_path(server: LiveServer, client: RawClient) -> None:
    for path, text in (
        *((path, "k") for path in ("/send", "/send/a", "/send/a,b")),
        ("/send", "K"),
        ("/send", "k k"),
    ):
        assert (await client.ask("POST", path, body=b"x", headers=key(text)))[0] == 200
    assert server.broadcaster.counts.published == 5


async def test_an_anonymous_idempotency_key_belongs_to_its_address(serve: Serve) -> None:
    """For IPv6 that is the /64, as for limits.

    Nobody gets another's response or a conflict with another's key.
    """
    server, client = await serve.connected(trusted_proxies=("127.0.0.1",), anonymous_publish=("*",))

    async def publish(address: str, body: bytes) -> tuple[int, bytes]:
        headers = f"X-Forwarded-For: {address}\r\n{key('k')}"
        return await client.ask("POST", "/send", body=body, headers=headers)

    first = await publish("192.0.2.1", b"one")
    other = await publish("192.0.2.2", b"two")
    assert (first[0], other[0], server.broadcaster.counts.published) == (200, 200, 2)
    assert await publish("192.0.2.1", b"one") == first
    assert await publish("192.0.2.2", b"two") == other
    assert (await publish("2001:db8::1", b"three"))[0] == 200
    assert (await publish("2001:db8::2", b"four"))[0] == 422
    assert server.broadcaster.counts.published == 3


async def test_a_publisher_of_many_channels_and_keys_evicts_only_its_own(
    serve: Serve, monkeypatch: Patch, caplog: Caplog
) -> None:
    """The event is counted, and logged once a minute."""
    monkeypatch.setattr(idempotency, "MAX_KEYS", 10)
    callers = tuple(CallerRule(name=name, token=name * 16, publish=("*",)) for name in ("shop", "flood"))
    server, client = await serve.connected(caller=callers, anonymous_subscribe=("*",), history_channels=10)

    async def publish(caller: str, channel: str, text: str) -> tuple[int, bytes]:
        headers = f"Authorization: Bearer {caller * 16}\r\n{key(text)}"
        return await client.ask("POST", f"/send/{channel}", body=b"x", headers=headers)

    order = await publish("shop", "orders", "order-7")
    for number in range(30):
        assert (await publish("flood", f"x.{number}", f"{number}"))[0] == 200
    assert await publish("shop", "orders", "order-7") == order
    assert server.broadcaster.counts.published == 31
    assert server.broadcaster.channel("orders").events == 1
    assert server.broadcaster.metrics.shares_reached == {"history_channels": 21, "idempotency_keys": 21}
    reported = [
        record.getMessage() for record in caplog.records if "which has the most" in record.getMessage()
    ]
    assert reported == [
        f"{share}: limit reached; removing the oldest entries of caller flood, which has the most"
        for share in ("history_channels", "idempotency_keys")
    ]


async def test_a_refused_publish_does_not_use_up_its_key(serve: Serve) -> None:
    server, client = await serve.connected(max_event=1000)
    for path, headers, body, status in (
        ("/send", "", b"\xff", 400),
        ("/send", JSON, b"{}", 422),
        ("/send", NDJSON, b'{"message":"x"}\n{}', 422),
        ("/send", "", b"x" * 1001, 413),
        ("/send?event=$x", "", b"x", 422),
        ("/send", "", b"at last", 200),
    ):
        assert (await client.ask("POST", path, body=body, headers=headers + key("k")))[0] == status
    assert server.broadcaster.counts.published == 1


async def test_an_idempotency_key_expires_after_its_window(serve: Serve) -> None:
    server, client = await serve.connected(idempotency_window=0.05)
    async with asyncio.timeout(30):
        while server.broadcaster.counts.published < 2:
            assert (await client.ask("POST", "/send", body=b"x", headers=key("k")))[0] == 200


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"k", 200),
        (b"6f9619ff-8b86-d011-b42d-00cf4fc964ff", 200),
        (b'"quoted"', 200),
        (b"x" * 255, 200),
        (b"x" * 256, 400),
        (b"", 400),
        (b"caf\xc3\xa9", 400),
        (b"\xff", 400),
        (b"a\tb", 400),
    ],
)
async def test_an_idempotency_key_has_visible_characters_only(
    server: LiveServer, client: RawClient, text: bytes, status: int
) -> None:
    await client.send(
        b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nIdempotency-Key: " + text + b"\r\n\r\nx"
    )
    answered, answer = await client.answer()
    assert answered == status
    assert status == 200 or json.loads(answer)["detail"].startswith(
        "Idempotency-Key: must be 1 to 255 visible characters: '"
    )
    assert server.broadcaster.counts.published == (status == 200)


@pytest.mark.parametrize("body", [b"xx", b"xy"])
async def test_the_first_complete_body_uses_the_key(server: LiveServer, body: bytes) -> None:
    """The second request arrives while the first body is still being sent. One of them is published."""
    slow, fast = await server.connect(), await server.connect()
    await slow.send(f"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n{key('k')}\r\nx".encode())
    first = await fast.ask("POST", "/send", body=body, headers=key("k"))
    assert first[0] == 200
    await slow.send(b"x")
    second = await slow.answer()
    assert second == first if body == b"xx" else second[0] == 422
    assert server.broadcaster.counts.published == 1


async def test_concurrent_requests_with_one_key_publish_once(server: LiveServer) -> None:
    clients = [await server.connect() for _ in range(20)]
    answers = await asyncio.gather(
        *(client.ask("POST", "/send", body=b"x", headers=key("k")) for client in clients)
    )
    assert len(set(answers)) == 1
    assert server.broadcaster.counts.published == 1


@pytest.mark.both_loops
async def test_a_publisher_that_disconnects_after_its_body_has_published_all_or_nothing(
    server: LiveServer,
) -> None:
    """A retry with the same key gets the result, and publishes nothing twice."""
    for number in range(20):
        client = await server.connect()
        await client.send(
            f"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n{key(str(number))}\r\nx".encode()
        )
        client.half_close()
    await until(lambda: server.connections == 0)
    again = await server.connect()
    for number in range(20):
        assert (await again.ask("POST", "/send", body=b"x", headers=key(str(number))))[0] == 200
    assert server.broadcaster.counts.published == 20


def batch(name: str, size: int = 50) -> bytes:
    """Return a batch whose events have the batch's name and their number."""
    return json.dumps([{"message": text} for text in said(name, size=size)]).encode()


def said(*names: str, size: int = 50) -> list[str]:
    """Return the data of these batches, in order."""
    return [f"{name}{number}" for name in names for number in range(size)]


async def data_of(server: LiveServer, count: int) -> list[str]:
    """Return the data of all events in the history."""
    subscriber = await server.subscriber("/events?since=earliest&format=json")
    return [json.loads(event.data)["data"] for event in await subscriber.events(count)]


async def queued(server: LiveServer, count: int) -> None:
    """Wait until this number of batches wait for the lock."""
    await until(lambda: len(server.app[BATCH_LOCK]) == count)


async def take_turns(server: LiveServer, *names: str) -> list[RawClient]:
    """Return publishers whose batches wait, in this order, for the lock, which is held."""
    await server.app[BATCH_LOCK].acquire()
    publishers = [await server.connect() for _ in names]
    for place, (name, publisher) in enumerate(zip(names, publishers, strict=True), 1):
        await publisher.request("POST", "/send", body=batch(name), headers=JSON)
        await queued(server, place)
    return publishers


async def test_batches_are_published_one_after_the_other(server: LiveServer) -> None:
    """Each is complete, in the order of arrival, and has its response."""
    publishers = await take_turns(server, "a", "b", "c")
    assert server.broadcaster.counts.published == 0
    server.app[BATCH_LOCK].release()
    epoch = server.broadcaster.cursor.partition("-")[0]
    for publisher, last in zip(publishers, (50, 100, 150), strict=True):
        body = f'{{"status":"sent","count":50,"clients":0,"id":"{epoch}-{last}"}}\n'
        assert await publisher.answer() == (200, body.encode())
    assert await data_of(server, 150) == said("a", "b", "c")
    assert not server.app[BATCH_LOCK].locked()


async def test_callers_take_turns_with_their_batches_and_an_operator_waits_for_none(serve: Serve) -> None:
    """A caller that has sent three delays the next caller by one."""
    callers = [
        caller("ada", publish=("*",)),
        caller("bob", publish=("*",)),
        caller("op", admin=("*",), publish=("*",)),
    ]
    server = await serve(caller=tuple(callers), anonymous_subscribe=("*",))
    await server.app[BATCH_LOCK].acquire()
    waiting = []
    for place, (name, label) in enumerate((("ada", "a"), ("ada", "b"), ("ada", "c"), ("bob", "d")), 1):
        publisher = await server.connect()
        headers = JSON + bearer(static(name))
        await publisher.request("POST", "/send", body=batch(label, size=1), headers=headers)
        await queued(server, place)
        waiting.append(publisher)
    operator = await server.connect()
    headers = JSON + bearer(static("op"))
    assert (await operator.ask("POST", "/send", body=batch("first", size=1), headers=headers))[0] == 200
    server.app[BATCH_LOCK].release()
    assert {(await publisher.answer())[0] for publisher in waiting} == {200}
    assert await data_of(server, 5) == ["first0", "a0", "d0", "b0", "c0"]


async def test_two_batches_take_two_iterations_of_the_event_loop(
    server: LiveServer, monkeypatch: Patch
) -> None:
    """Subscribers are served in between, however many batches arrive at once."""
    found = set[int]()
    now = 0

    async def note(_: Sequence[Draft]) -> None:
        found.add(now)

    async def count() -> None:
        nonlocal now
        while True:
            now += 1
            await asyncio.sleep(0)

    before_publishing(server.broadcaster, monkeypatch, note)
    names = "abcdefghij"
    publishers = [await server.connect() for _ in names]
    for publisher in publishers:
        assert (await publisher.ask("GET", "/status"))[0] == 200
    counting = asyncio.ensure_future(count())
    for name, publisher in zip(names, publishers, strict=True):
        await publisher.request("POST", "/send", body=batch(name), headers=JSON)
    assert {(await publisher.answer())[0] for publisher in publishers} == {200}
    counting.cancel()
    assert len(found) == len(names)
    seen = await data_of(server, 50 * len(names))
    assert seen == said(*(text[0] for text in seen[::50]))
    assert {text[0] for text in seen} == set(names)


async def test_a_single_event_does_not_wait_for_batches(server: LiveServer) -> None:
    (publisher,) = await take_turns(server, "a")
    other = await server.connect()
    for path, headers in (("/send", ""), ("/send", JSON), ("/send?stream=1", ""), ("/send?stream=1", NDJSON)):
        assert (await other.ask("POST", path, body=b'{"message":"x"}', headers=headers))[0] == 200
    assert server.broadcaster.counts.published == 4
    server.app[BATCH_LOCK].release()
    assert (await publisher.answer())[0] == 200


async def test_a_bad_batch_releases_the_lock(server: LiveServer) -> None:
    await server.app[BATCH_LOCK].acquire()
    bad, good = await server.connect(), await server.connect()
    await bad.request("POST", "/send", body=b'[{"message":"x"},{}]', headers=JSON)
    await queued(server, 1)
    await good.request("POST", "/send", body=batch("a"), headers=JSON)
    await queued(server, 2)
    server.app[BATCH_LOCK].release()
    assert [(await client.answer())[0] for client in (bad, good)] == [422, 200]
    assert await data_of(server, 50) == said("a")


async def test_waiting_batches_with_one_key_publish_once(server: LiveServer) -> None:
    await server.app[BATCH_LOCK].acquire()
    clients = [await server.connect() for _ in range(3)]
    for place, client in enumerate(clients, 1):
        await client.request("POST", "/send", body=batch("a"), headers=JSON + key("k"))
        await queued(server, place)
    server.app[BATCH_LOCK].release()
    assert len({await client.answer() for client in clients}) == 1
    assert await data_of(server, 50) == said("a")
    assert server.broadcaster.counts.published == 50


@pytest.mark.both_loops
@pytest.mark.parametrize("how", LEAVING)
async def test_a_publisher_that_disconnects_while_its_batch_waits_publishes_nothing(
    server: LiveServer, caplog: Caplog, how: str
) -> None:
    first, gone, last = await take_turns(server, "a", "b", "c")
    LEAVING[how](gone)
    await until(lambda: server.connections == 2)
    server.app[BATCH_LOCK].release()
    assert [(await publisher.answer())[0] for publisher in (first, last)] == [200, 200]
    assert await data_of(server, 100) == said("a", "c")
    assert not server.app[BATCH_LOCK].locked()
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
@pytest.mark.parametrize("how", LEAVING)
async def test_a_batch_that_waits_for_its_commit_delays_no_other_batch(
    server: LiveServer, monkeypatch: Patch, how: str
) -> None:
    """Its publisher may disconnect meanwhile."""
    asked = list[str]()

    async def hold_the_first(drafts: Sequence[Draft]) -> None:
        asked.append(drafts[0].event.data)
        if asked == ["b0"]:
            await asyncio.Event().wait()

    before_publishing(server.broadcaster, monkeypatch, hold_the_first)
    gone, last = await take_turns(server, "b", "c")
    server.app[BATCH_LOCK].release()
    assert (await last.answer())[0] == 200
    LEAVING[how](gone)
    assert await data_of(server, 50) == said("c")
    assert asked == ["b0", "c0"]
    assert not server.app[BATCH_LOCK].locked()


@pytest.mark.both_loops
@pytest.mark.parametrize("how", LEAVING)
async def test_batches_of_disconnected_publishers_are_complete_or_absent(
    server: LiveServer, how: str
) -> None:
    """The time of the disconnect does not matter. The next batch is published."""
    publishers = [await server.connect() for _ in range(20)]
    for publisher in publishers:
        assert (await publisher.ask("GET", "/status"))[0] == 200
    for number, publisher in enumerate(publishers):
        await publisher.request("POST", "/send", body=batch(f"{number}."), headers=JSON)
        for _ in range(number % 5):
            await asyncio.sleep(0)
        LEAVING[how](publisher)
    await until(lambda: server.connections == 0)
    last = await server.connect()
    assert (await last.ask("POST", "/send", body=batch("last."), headers=JSON))[0] == 200
    seen = await data_of(server, server.broadcaster.counts.published)
    assert seen == said(*(text[:-1] for text in seen[::50]))
    assert seen[-50:] == said("last.")


async def test_a_batch_that_waits_when_the_drain_begins_is_refused(server: LiveServer) -> None:
    publishers = await take_turns(server, "a", "b")
    await server.broadcaster.close(timeout=5)
    server.app[BATCH_LOCK].release()
    assert [(await publisher.answer())[0] for publisher in publishers] == [503, 503]
    assert server.broadcaster.counts.published == 0
