"""The requests of a run, for this server and for others."""

import socket
from typing import Any

import pytest

from sse_broadcast.bench.http_connection import PeerAddress
from sse_broadcast.bench.target import Target
from sse_broadcast.errors import ClientError

ADDRESS = PeerAddress(socket.AF_INET, ("127.0.0.1", 8000), "push.example.com:8000", "push.example.com", None)
AGENT = b"Host: push.example.com:8000\r\nUser-Agent: sse-broadcast bench\r\n"
STREAM = b"Accept: text/event-stream\r\nCache-Control: no-store\r\n"


def target(url: str, **said: Any) -> Target:
    return Target(url, "abc", **said)


def test_this_server_is_asked_for_a_channel_of_the_run() -> None:
    here = target("http://push.example.com:8000", headers={"Authorization": "Bearer x"})
    assert here.subscribe_request(3, ADDRESS) == (
        b"GET /events/bench-abc-3 HTTP/1.1\r\n" + AGENT + STREAM + b"Authorization: Bearer x\r\n\r\n"
    )
    assert here.publish_request(3, "hello", ADDRESS) == (
        b"POST /send/bench-abc-3 HTTP/1.1\r\n" + AGENT + b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Authorization: Bearer x\r\nContent-Length: 5\r\n\r\nhello"
    )


def test_a_server_below_a_path_is_asked_there() -> None:
    request = target("http://push.example.com/push/").subscribe_request(0, ADDRESS)
    assert request.startswith(b"GET /push/events/bench-abc-0 HTTP/1.1\r\n")


def test_another_server_is_asked_as_it_wants() -> None:
    mercure = target(
        "http://x/.well-known/mercure?topic={channel}",
        publish_url="http://x/.well-known/mercure",
        publish_body="topic={channel}&data={message}",
        publish_headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    request = mercure.subscribe_request(1, ADDRESS)
    assert request.startswith(b"GET /.well-known/mercure?topic=bench-abc-1 HTTP/1.1\r\n")
    published = mercure.publish_request(1, "a b&c", ADDRESS)
    assert published.startswith(b"POST /.well-known/mercure HTTP/1.1\r\n")
    assert published.endswith(b"\r\n\r\ntopic=bench-abc-1&data=a%20b%26c")


def test_a_json_body_keeps_its_braces() -> None:
    other = target(
        "http://x/{channel}", publish_url="http://x/api", publish_body='{"c":"{channel}","d":"{message}"}'
    )
    assert other.publish_request(0, "hi", ADDRESS).endswith(b'\r\n\r\n{"c":"bench-abc-0","d":"hi"}')


def test_a_body_without_a_place_for_the_message_is_refused() -> None:
    with pytest.raises(ClientError, match=r"--publish-body: needs \{message\} in it"):
        target("http://x", publish_url="http://x", publish_body="hello")
