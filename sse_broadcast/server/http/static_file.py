"""Static files of the package: held in memory with their compressed form, and known by an ETag."""

import gzip
import hashlib
from collections.abc import Mapping

from aiohttp import hdrs, web


class StaticFile:
    """A body that is the same for every request, with its headers."""

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._plain = body
        # Without a time in its head, so that the same file has the same bytes on every node.
        self._gzipped = gzip.compress(body, 9, mtime=0)
        self._tag = hashlib.sha256(body).hexdigest()[:32]
        self._headers = dict(headers)

    @property
    def transferred_bytes(self) -> int:
        """How many bytes a browser is sent as the body."""
        return len(self._gzipped)

    def answer(self, request: web.Request) -> web.Response:
        """Return the file, or 304 to a client that has it (RFC 9110, 13.1.2)."""
        zipped = _takes_gzip(request)
        tag = f"{self._tag}-gzip" if zipped else self._tag
        headers = {
            **self._headers,
            hdrs.ETAG: f'"{tag}"',
            hdrs.CACHE_CONTROL: "no-cache",  # ask each time: another version of the server may have come
            hdrs.VARY: ", ".join(filter(None, (self._headers.get(hdrs.VARY), hdrs.ACCEPT_ENCODING))),
        }
        if self._is_held(request):
            headers.pop(hdrs.CONTENT_TYPE, None)
            return web.Response(status=304, headers=headers)
        if zipped:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=self._gzipped if zipped else self._plain, headers=headers)

    def _is_held(self, request: web.Request) -> bool:
        known = {self._tag, f"{self._tag}-gzip", "*"}
        return any(tag.value in known for tag in request.if_none_match or ())


def _takes_gzip(request: web.Request) -> bool:
    """Return whether a request accepts gzip; a weight of 0 refuses it (RFC 9110, 12.5.3)."""
    for accepted in ",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, ())).split(","):
        coding, _, weight = accepted.partition(";")
        if coding.strip().lower() == "gzip":
            return weight.replace(" ", "").lower() not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
