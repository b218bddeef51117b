"""`sse-broadcast bench`."""

import asyncio
import contextlib
import secrets
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from sse_broadcast.bench import histogram, plot
from sse_broadcast.bench.local_server import OwnServer
from sse_broadcast.bench.plan import Plan
from sse_broadcast.bench.report import as_lines, as_object
from sse_broadcast.bench.run import Measured, Progress, run_bench
from sse_broadcast.bench.target import MESSAGE, Target
from sse_broadcast.bench.verdict import judge
from sse_broadcast.cli.common import Exit, fail, run_client, token_option
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.cli.server_options import ca_option, header_option, parse_headers
from sse_broadcast.cli.visible import errors_are_read, say
from sse_broadcast.errors import BroadcastError, ConfigError

WIDEST_RATE = 10_000_000.0


class SubscriberShare(click.ParamType[tuple[float, bool]]):
    """A number of subscribers, or a part of them such as `1%`."""

    name = "share"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - as click has it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[float, bool]:
        """Return the number, and whether it is a percentage."""
        if isinstance(value, tuple):
            return value
        text = str(value)
        try:
            number = float(text.removesuffix("%")) if text.endswith("%") else int(text)
        except ValueError:
            number = -1
        if number < 0 or (text.endswith("%") and not number <= 100):
            self.fail(f"{text!r} is neither a number of subscribers nor a percentage such as 1%", param, ctx)
        return number, text.endswith("%")


@click.command(
    cls=StyledCommand,
    epilog="""\b
Examples:
  sse-broadcast bench
  sse-broadcast bench --subscribers 5000 --rate 10 --duration 30 --frozen 1%
  sse-broadcast bench https://push.example.com --json result.json --plot result.png
\b
  sse-broadcast bench 'http://localhost/.well-known/mercure?topic={channel}' \\
    --publish-url http://localhost/.well-known/mercure \\
    --publish-header 'Content-Type: application/x-www-form-urlencoded' \\
    --publish-header "Authorization: Bearer $JWT" \\
    --publish-body 'topic={channel}&data={message}'
  sse-broadcast bench 'http://localhost/sub/{channel}' --publish-url 'http://localhost/pub/{channel}'

Without URL it starts a server of its own on a free port, with the default settings. With --publish-url
the URL is what a subscriber asks for, of any server that speaks SSE; {channel} and {message} are replaced
in it, in the publish URL and in the body.

Events are sent by the clock, whether or not the server keeps up (open loop), and latency counts from when
an event was due: a server that stalls cannot hide it. A publisher has one connection and sends its events
in order, so the server alone can put them out of order. All channels have a name that no other run has.

Where the server is on this machine its process is measured too: CPU a delivery, memory a connection. The
last line says whether the load generator or the server was the limit.

Exit codes: 0 done, nothing lost, repeated or out of order; 1 the server refused or could not be reached;
2 bad usage, or an extra that is not installed; 6 the report cannot be printed; 8 events were lost, repeated
or out of order; 130 Ctrl-C.""",
)
@click.argument("url", required=False)
@click.option("--subscribers", type=click.IntRange(1, 1_000_000), default=100, show_default=True, metavar="N")
@click.option(
    "--rate",
    type=click.FloatRange(0, WIDEST_RATE, min_open=True),
    default=10.0,
    show_default=True,
    metavar="EVENTS",
    help="Events a second, of all publishers together.",
)
@click.option("--publishers", type=click.IntRange(1, 10_000), default=1, show_default=True, metavar="N")
@click.option(
    "--size",
    type=click.IntRange(0, 10_000_000),
    default=100,
    show_default=True,
    metavar="BYTES",
    help="Of each event's data; 70 at least.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long events are published.",
)
@click.option(
    "--frozen",
    type=SubscriberShare(),
    default="0",
    show_default=True,
    metavar="N|PERCENT",
    help="Subscribers that stop reading once they are connected.",
)
@click.option(
    "--channels",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    metavar="N",
    help="Channels that events and subscribers are spread over.",
)
@click.option(
    "--ramp",
    type=click.FloatRange(0, 86_400),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Time over which subscribers connect.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0, 3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Silence after which what has not arrived is lost.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write the report as JSON; - is standard output.",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw latency and deliveries (.png, .svg, .pdf).",
)
@click.option("--publish-url", default="", metavar="URL", help="Where another server is published to.")
@click.option(
    "--publish-body",
    default=MESSAGE,
    show_default=True,
    metavar="TEXT",
    help="Body of each publish to another server.",
)
@click.option(
    "--publish-header",
    "publish_headers",
    multiple=True,
    callback=parse_headers,
    metavar="HEADER",
    help="A header of a publish alone; may be repeated.",
)
@header_option
@ca_option
@token_option
def bench(  # noqa: PLR0913 - an option each
    *,
    url: str | None,
    frozen: tuple[float, bool],
    json_file: Path | None,
    plot_file: Path | None,
    publish_url: str,
    publish_body: str,
    publish_headers: dict[str, str],
    headers: dict[str, str],
    token: str | None,
    ca: Callable[[], ssl.SSLContext] | None,
    **numbers: Any,  # noqa: ANN401 - the plan's
) -> None:
    """Measure a server under load: latency, losses, cost."""
    number, percent = frozen
    count = round(numbers["subscribers"] * number / 100) if percent else int(number)
    if count > numbers["subscribers"]:
        raise click.UsageError("--frozen: more than --subscribers")
    if publish_url and url is None:
        raise click.UsageError("--publish-url: needs the URL that subscribers ask for")
    for file in (json_file, plot_file):
        if file is not None and not file.parent.is_dir():  # before the run, and not after it
            fail(ConfigError(f"{file}: {file.parent} is no folder"))
    plan = Plan(frozen=count, **numbers)
    if token is not None:
        headers = {"Authorization": f"Bearer {token}", **headers}
    request = BenchTarget(url, secrets.token_hex(6), ca, publish_url, publish_body, headers, publish_headers)
    measured = run_client(
        lambda: _bench(plan, request, drawn=plot_file is not None), loop_factory=fastest_loop()
    )
    try:
        show(measured, json_file, plot_file)
    except BroadcastError as error:
        fail(error)
    if judge(measured).faults:
        raise SystemExit(Exit.FAULT)


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """What the command line says of the target."""

    url: str | None
    run: str
    ca: Callable[[], ssl.SSLContext] | None
    publish_url: str
    publish_body: str
    headers: dict[str, str]
    publish_headers: dict[str, str]

    def target(self, url: str) -> Target:
        """Return the target at a URL."""
        return Target(url, self.run, self.publish_url, self.publish_body, self.headers, self.publish_headers)


async def _bench(plan: Plan, request: BenchTarget, *, drawn: bool) -> Measured:
    histogram.new_hdr()
    if drawn:
        plot.require_matplotlib()
    with _progress() as progress:
        if request.url is not None:
            tls = request.ca() if request.ca is not None else None
            target = request.target(request.url.rstrip("/"))
            return await run_bench(plan, target, tls=tls, progress=progress)
        async with OwnServer() as server:
            return await run_bench(plan, request.target(server.url), server=server.process, progress=progress)


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loop, where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Show a bar for each phase on a terminal, on standard error."""
    bars: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:

        def tell(phase: str, done: int, whole: int) -> None:
            if phase not in bars:
                stack.close()
                bar = click.progressbar(
                    length=whole, label=phase, file=sys.stderr, hidden=not errors_are_read()
                )
                bars[phase] = stack.enter_context(bar)
            bar = bars[phase]
            bar.update(done - bar.pos)

        yield tell


def show(measured: Measured, json_file: Path | None, plot_file: Path | None) -> None:
    """Print the report, and write the files. Raises `ConfigError`."""
    if json_file is None or str(json_file) != "-":
        for line in as_lines(measured):
            say(line)
    if json_file is not None:
        text = msgspec.json.format(msgspec.json.encode(as_object(measured))).decode() + "\n"
        if str(json_file) == "-":
            click.echo(text, nl=False)
        else:
            try:
                json_file.write_text(text)
            except OSError as error:
                raise ConfigError(f"--json: {json_file}: cannot be written: {error.strerror}") from None
    if plot_file is not None:
        plot.plot(measured, plot_file)
