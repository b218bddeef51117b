"""The command line: a file per command."""

import gc
from typing import Any

import click

from sse_broadcast.cli.bench import bench
from sse_broadcast.cli.common import fail
from sse_broadcast.cli.completion import completion
from sse_broadcast.cli.disconnect import disconnect
from sse_broadcast.cli.doctor import doctor
from sse_broadcast.cli.health import health
from sse_broadcast.cli.help import StyledGroup, wants_no_color
from sse_broadcast.cli.publish import publish
from sse_broadcast.cli.reload import reload
from sse_broadcast.cli.serve import serve
from sse_broadcast.cli.status import status
from sse_broadcast.cli.stdout import install
from sse_broadcast.cli.store import store
from sse_broadcast.cli.subscribe import subscribe
from sse_broadcast.cli.token import token
from sse_broadcast.errors import OutputError
from sse_broadcast.version import __version__


class Commands(StyledGroup):
    """The command group. An output that cannot be written ends every command alike, `--help` included."""

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as click has it
        """Run the command that is asked for."""
        # The interpreter collects at its end, which of all that was imported takes a fifth of a short run.
        gc.freeze()
        install()
        if wants_no_color():
            kwargs["color"] = False  # for the context, and so for those of all commands
        try:
            return super().main(*args, **kwargs)
        except OutputError as error:
            fail(error)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 the server refused or could not be reached; 2 bad usage or setting; "
    "3 cannot listen; 4 certificate; 5 stopped by a second signal; 6 output cannot be written; "
    "7 the store cannot be used; 8 a fault was found by bench or doctor; 130 Ctrl-C.",
)
@click.version_option(__version__, prog_name="sse-broadcast")
def main() -> None:
    """Push events to browsers: a Server-Sent-Events broadcast server.

    \b
    Three terminals to see it work:
      sse-broadcast serve
      sse-broadcast subscribe          (or: curl -N localhost:8000/events)
      sse-broadcast publish hello      (or: curl -d hello localhost:8000/send)
    """  # noqa: D301 - click reads the control character


for command in (
    serve,
    publish,
    subscribe,
    status,
    disconnect,
    reload,
    health,
    token,
    store,
    bench,
    doctor,
    completion,
):
    main.add_command(command)
