"""GET / and GET /client.js: what browsers are given."""

from sse_broadcast.server.openapi.model import TEXT_SCHEMA, Media, Operation, Response
from sse_broadcast.server.openapi.operations import ANYWHERE, problems, read_operations

_CONSOLE = Operation(
    "console",
    "The console, or in short what can be asked for",
    tags=["console"],
    responses={
        "200": Response(
            "A page to whoever accepts `text/html`, a text to others.",
            content={"text/html": Media(TEXT_SCHEMA), "text/plain": Media(TEXT_SCHEMA)},
        ),
        **problems(*ANYWHERE, 404),
    },
)

_CLIENT = Operation(
    "clientModule",
    "A module for pages: one stream for all tabs of a browser",
    tags=["subscribe"],
    responses={
        "200": Response("The module.", content={"text/javascript": Media(TEXT_SCHEMA)}),
        **problems(*ANYWHERE, 404),
    },
)

CONSOLE_PATHS = {"/": read_operations(_CONSOLE), "/client.js": read_operations(_CLIENT)}
