"""The command line: a file per command."""

import click

import sse_broadcast
from sse_broadcast.cli.dismiss import dismiss
from sse_broadcast.cli.health import health
from sse_broadcast.cli.publish import publish
from sse_broadcast.cli.reload import reload
from sse_broadcast.cli.serve import serve
from sse_broadcast.cli.status import status
from sse_broadcast.cli.subscribe import subscribe
from sse_broadcast.cli.token import token


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 the server refused or could not be reached; 2 bad usage or setting; "
    "3 cannot listen; 4 certificate; 5 stopped by a second signal; 130 Ctrl-C.",
)
@click.version_option(sse_broadcast.__version__, prog_name="sse-broadcast")
def main() -> None:
    """Push events to browsers: a Server-Sent-Events broadcast server.

    \b
    Three terminals to see it work:
      sse-broadcast serve
      sse-broadcast subscribe          (or: curl -N localhost:8000/events)
      sse-broadcast publish hello      (or: curl -d hello localhost:8000/send)
    """  # noqa: D301 - click wants the character itself


for command in (serve, publish, subscribe, status, dismiss, reload, health, token):
    main.add_command(command)
