"""Runs the SSE clients of PyPI, each in its own thread. The commands and reports are those of driver.mjs."""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import httpx
import httpx_sse
import requests
import requests_sse
import sseclient
from aiohttp_sse_client2 import client as aiohttp_sse

FIRST_WAIT = timedelta(seconds=0.1)
"""How long a client waits before it reconnects, until the server sends `retry`."""

_output = threading.Lock()


def say(key: str, saw: str, data: str, kind: str = "", id: str = "") -> None:
    line = json.dumps({"key": key, "saw": saw, "type": kind, "data": data, "id": id})
    with _output:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@dataclass(slots=True)
class RunningClient:
    """A client that runs until `stopped` is set."""

    key: str
    url: str
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def wanted(self) -> bool:
        """Whether it should go on."""
        return not self.stopped.is_set()

    def see(self, data: str, kind: str | None, id: str | None) -> None:
        if self.wanted:
            say(self.key, "event", data, kind or "message", id or "")


def headers_after(last_id: str) -> dict[str, str]:
    """Return request headers that resume after an id, if there is one."""
    return {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}


def read_with_sseclient(client: RunningClient) -> None:
    """Read with sseclient-py and requests as its README does, in a loop that resumes."""
    last_id, wait = "", FIRST_WAIT.total_seconds()
    while client.wanted:
        with (
            contextlib.suppress(requests.RequestException),
            requests.get(client.url, headers=headers_after(last_id), stream=True, timeout=30) as response,
        ):
            response.raise_for_status()
            for event in sseclient.SSEClient(iter(response)).events():
                last_id = event.id or last_id
                wait = int(event.retry) / 1000 if event.retry else wait
                client.see(event.data, event.event, event.id)
        time.sleep(wait)


def read_with_httpx(client: RunningClient) -> None:
    """Read with httpx-sse in a loop that resumes as its README does."""
    last_id, wait = "", FIRST_WAIT.total_seconds()
    with httpx.Client(verify=False) as http:  # else each loads all certificates there are
        while client.wanted:
            with (
                contextlib.suppress(httpx.TransportError),
                httpx_sse.connect_sse(http, "GET", client.url, headers=headers_after(last_id)) as source,
            ):
                for event in source.iter_sse():
                    last_id = event.id
                    wait = wait if event.retry is None else event.retry / 1000
                    client.see(event.data, event.event, event.id)
            time.sleep(wait)


def read_with_requests(client: RunningClient) -> None:
    """Read line by line with requests alone, in the usual hand-written loop."""
    last_id, wait = "", FIRST_WAIT.total_seconds()
    while client.wanted:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with (
            contextlib.suppress(requests.RequestException),
            requests.get(client.url, headers=headers, stream=True, timeout=30) as response,
        ):
            response.raise_for_status()
            kind, data = "", []
            for line in response.iter_lines():
                name, _, value = line.decode().partition(":")
                value = value.removeprefix(" ")
                if name == "id":
                    last_id = value
                elif name == "retry" and value.isdigit():
                    wait = int(value) / 1000
                elif name == "event":
                    kind = value
                elif name == "data":
                    data.append(value)
                elif not line:
                    client.see("\n".join(data), kind, last_id)
                    kind, data = "", []
        time.sleep(wait)


def read_with_requests_sse(client: RunningClient) -> None:
    """Read with requests-sse, which reconnects by itself."""
    with requests_sse.EventSource(client.url, reconnection_time=FIRST_WAIT, timeout=30) as source:
        for event in source:
            if not client.wanted:
                return
            client.see(event.data or "", event.type, event.last_event_id)


def read_with_aiohttp(client: RunningClient) -> None:
    """Read with aiohttp-sse-client2, which reconnects by itself."""

    async def read() -> None:
        async with aiohttp_sse.EventSource(client.url, reconnection_time=FIRST_WAIT) as source:
            async for event in source:
                if not client.wanted:
                    return
                client.see(event.data, event.type, event.last_event_id)

    asyncio.run(read())


CLIENTS: dict[str, Callable[[RunningClient], None]] = {
    "sseclient-py": read_with_sseclient,
    "httpx-sse": read_with_httpx,
    "requests": read_with_requests,
    "requests-sse": read_with_requests_sse,
    "aiohttp-sse-client2": read_with_aiohttp,
}


def run(name: str, client: RunningClient) -> None:
    """Run a client until it gives up or is stopped."""
    error = ""
    try:
        CLIENTS[name](client)
    except Exception as raised:  # noqa: BLE001 - a client's exception is what its user gets
        error = repr(raised)
    if client.wanted:
        say(client.key, "end", error)


def main() -> None:
    """Run commands until standard input ends. The threads end with the process."""
    clients: dict[str, RunningClient] = {}
    for line in sys.stdin:
        command = json.loads(line)
        if "close" in command:
            clients.pop(command["close"]).stopped.set()
            continue
        client = clients[command["open"]] = RunningClient(command["open"], command["url"])
        threading.Thread(target=run, args=(command["client"], client), daemon=True).start()


if __name__ == "__main__":
    main()
