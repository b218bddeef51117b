"""`sse-broadcast completion`."""

import click
from click.shell_completion import get_completion_class

from sse_broadcast.cli.help import StyledCommand

COMPLETED_PROGRAM = "sse-broadcast"

VARIABLE = "_SSE_BROADCAST_COMPLETE"
"""The variable by which a shell asks for completions; click derives it from the program's name."""


@click.command(
    cls=StyledCommand,
    epilog="""\b
Examples:
  sse-broadcast completion bash > ~/.local/share/bash-completion/completions/sse-broadcast
  sse-broadcast completion zsh > "${fpath[1]}/_sse-broadcast"
  sse-broadcast completion fish > ~/.config/fish/completions/sse-broadcast.fish
  source <(sse-broadcast completion bash)     (for this session only)

Open a new shell afterwards. Commands, options and the values of options are completed.

Exit codes: 0 printed; 2 bad usage; 6 output cannot be written.""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands and options in a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, COMPLETED_PROGRAM, VARIABLE).source(), nl=False)
