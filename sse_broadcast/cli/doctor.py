"""`sse-broadcast doctor`."""

import ssl
import textwrap
from collections.abc import Callable, Iterator

import click
import msgspec

from sse_broadcast.cli.common import Exit, run_client, token_option
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.cli.server_options import ca_option, header_option
from sse_broadcast.cli.visible import errors_are_read, say
from sse_broadcast.doctor.examination import ExaminationRequest, Report, examine
from sse_broadcast.doctor.findings import Finding, Level, has_fault
from sse_broadcast.quantity import Quantity


@click.command(
    cls=StyledCommand,
    epilog="""\b
Examples:
  sse-broadcast doctor https://push.example.com
  sse-broadcast doctor https://push.example.com --origin https://app.example.com
  sse-broadcast doctor https://push.example.com --long --json > doctor.json

URL is the address that browsers use. The doctor opens streams there. It publishes on channels of its own,
whose names begin with doctor- and end at random; no other channel is touched. Where the server wants a
token, give one that may subscribe and publish there.

It examines the certificate, the HTTP version, redirects, the headers of a stream, the HTTP version behind
the proxy, clocks, buffering, compression, idle timeouts, resuming, caches, subscribers that leave,
publishing line by line, and CORS for a given origin. Each probe is one line. Below a fault stand what it
means, and the cure for the proxies that were recognised: nginx, Caddy, HAProxy, Apache, Traefik, ALB,
Cloudflare, Varnish.

--long lets a stream be silent for 200 seconds instead of 10, and publishes up to 24 MB to see whether a
subscriber that does not read is ended.

Exit codes: 0 no fault; 1 nothing answers there; 2 bad usage; 6 the findings cannot be printed; 8 a fault was
found; 130 Ctrl-C.""",
)
@click.argument("url")
@click.option("--origin", metavar="ORIGIN", help="Examine CORS for the pages of this origin.")
@click.option(
    "--long", is_flag=True, help="Take four minutes: long silence, and a subscriber that does not read."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@header_option
@ca_option
@token_option
def doctor(  # noqa: PLR0913 - an option each
    *,
    url: str,
    origin: str | None,
    long: bool,
    as_json: bool,
    headers: dict[str, str],
    token: str | None,
    ca: Callable[[], ssl.SSLContext] | None,
) -> None:
    """Find what keeps events from browsers, and how to mend it."""
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is no http:// or https:// address", param_hint="URL")
    if token is not None:
        headers = {"Authorization": f"Bearer {token}", **headers}
    request = ExaminationRequest(url, headers, tls=ca, origin=origin, long=long)
    shows = errors_are_read()
    report = run_client(lambda: examine(request, _tell_progress if shows else lambda _: None))
    if shows:
        click.echo("\r\x1b[K", nl=False, err=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report_object(report))).decode())
    else:
        for line in report_lines(report):
            say(line)
    if has_fault(report.findings):
        raise SystemExit(Exit.FAULT)


def _tell_progress(finding: Finding) -> None:
    click.echo(f"\r\x1b[Kexamined: {finding.probe}", nl=False, err=True)


def report_object(report: Report) -> dict[str, object]:
    """Return a report for programs."""
    return {
        "url": report.url,
        "proxies": [proxy.value for proxy in report.proxies],
        "faults": [each.fault.value for each in report.findings if each.fault is not None],
        "findings": [finding.as_object() for finding in report.findings],
    }


def report_lines(report: Report) -> Iterator[str]:
    """Yield a report for people: a line for each probe, and below a fault what to do."""
    width = max(len(finding.probe) for finding in report.findings)
    for finding in report.findings:
        yield f"{finding.level.value:<7}  {finding.probe:<{width}}  {finding.seen}"
        for name, text in (("means", finding.meaning), ("cure", finding.cure)):
            if text:
                yield textwrap.fill(f"{name}: {text}", 100, initial_indent=" " * 9, subsequent_indent=" " * 9)
    count = sum(finding.level is Level.FAULT for finding in report.findings)
    yield f"{Quantity(count, 'fault')} found at {report.url}"
