"""Target of a run: the requests that subscribe to and publish on it, for this server and for others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from sse_broadcast.bench.http_connection import PeerAddress, encode_request
from sse_broadcast.errors import ClientError
from sse_broadcast.unix_address import unix_path
from sse_broadcast.wire import CONTENT_TYPE

CHANNEL = "{channel}"
MESSAGE = "{message}"
"""Placeholders in the URLs and in the body for another server."""

FORM_TYPE = "application/x-www-form-urlencoded"
TEXT_TYPE = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run subscribes and publishes.

    Without `publish_url`, `url` is the root of a server such as this one. With it, `url` is what subscribers
    ask for, and both may have `{channel}` in them; `publish_body` has `{message}` in it. `run` makes the
    channels' names the run's own.
    """

    url: str
    run: str
    publish_url: str = ""
    publish_body: str = MESSAGE
    headers: Mapping[str, str] = field(default_factory=dict)
    publish_headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if MESSAGE not in self.publish_body:
            raise ClientError(f"--publish-body: needs {MESSAGE} in it, where the message goes")

    def channel(self, number: int) -> str:
        """Return the name of a channel."""
        return f"bench-{self.run}-{number}"

    @property
    def publish_address(self) -> str:
        """The URL whose server is published to."""
        return self.publish_url or self.url

    def subscribe_request(self, number: int, address: PeerAddress) -> bytes:
        """Return the request of a subscriber of a channel."""
        target = self._of(self.url, number) if self.publish_url else f"/events/{self.channel(number)}"
        headers = {"Accept": CONTENT_TYPE, "Cache-Control": "no-store", **self.headers}
        return encode_request("GET", self._rooted(target), address, headers)

    def publish_request(self, number: int, message: str, address: PeerAddress) -> bytes:
        """Return the request that publishes a message on a channel."""
        headers = {"Content-Type": TEXT_TYPE, **self.headers, **self.publish_headers}
        if not self.publish_url:
            target = self._rooted(f"/send/{self.channel(number)}")
            return encode_request("POST", target, address, headers, message.encode())
        kind = next(value for name, value in headers.items() if name.lower() == "content-type")
        said = quote(message, safe="") if kind.startswith(FORM_TYPE) else message
        body = self.publish_body.replace(CHANNEL, self.channel(number)).replace(MESSAGE, said)
        return encode_request("POST", self._of(self.publish_url, number), address, headers, body.encode())

    def _rooted(self, path: str) -> str:
        """Put a path of ours behind that of the URL, for a server that is mounted below another."""
        if self.publish_url or unix_path(self.url):
            return path
        return urlsplit(self.url).path.rstrip("/") + path

    def _of(self, url: str, number: int) -> str:
        parts = urlsplit(url.replace(CHANNEL, quote(self.channel(number), safe="")))
        return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
