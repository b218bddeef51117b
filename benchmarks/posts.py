"""What a publish costs beside the least that aiohttp can do: read a body, and answer the same bytes.

    python -m benchmarks.posts [--rounds 5] [--python PATH] [--check]

Servers:
  ours  `sse-broadcast serve` without limits by address or token
  bare  an aiohttp application with one handler, on uvloop, without an access log

16 publishers send single events to no subscriber, as fast as they are answered. The servers take turns, and
measured is the server's user and system time for each request; the median over the rounds counts.

With --check the exit status is 1 unless a publish costs at most 1.8 times what the bare handler does.
"""

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.compare import ingest
from benchmarks.harness import (
    Plan,
    add_check,
    add_python,
    at_most,
    command_line,
    exit_status,
    free_port,
    ours,
    positive,
    print_checks,
    running,
    stop_on_sigterm,
    told,
    workshop,
)

LIMIT = 1.8
"""Times the CPU of the bare handler that a publish may take."""

BARE = """
import gc, sys
import uvloop
from aiohttp import web

ANSWER = (
    b'{"status":"sent","clients":0,"message":"' + b"x" * 100
    + b'","id":"f37edbbf-1","channel":"default","channels":["default"]}\\n'
)

async def send(request):
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")

app = web.Application()
app.router.add_post("/send", send)
gc.freeze()
gc.set_threshold(100_000, 50, 100)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None,
            loop=uvloop.new_event_loop())
"""


def main() -> int:
    """Measure by turns, print the medians and their ratio, and say whether the bound holds."""
    chosen = arguments()
    stop_on_sigterm()
    figures: dict[str, list[float]] = {}
    with workshop() as folder:
        for turn in range(1, chosen.rounds + 1):
            for plan in plans(folder, chosen.python):
                with running(plan) as server:
                    row = ingest(folder, server)
                figures.setdefault(plan.name, []).append(row["cpu_us_per_publish"])
                print(f"round {turn}, {plan.name}: {told(row)}", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print(f"us of CPU per publish: {told(medians)}")
    checks = [at_most("publish, against a bare handler", medians["ours"] / medians["bare"], LIMIT, " x")]
    print_checks(checks)
    return exit_status(checks) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("posts", __doc__)
    parser.add_argument("--rounds", type=positive, metavar="N", default=5, help="the median of so many")
    add_python(parser)
    add_check(parser)
    return parser.parse_args()


def plans(folder: Path, python: str) -> list[Plan]:
    """Plan the servers, each on a port of its own."""
    script = folder / "bare.py"
    script.write_text(BARE)
    port = free_port()
    return [
        ours("--publish-rate", "0", "--max-connections-per-address", "0", python=python),
        Plan("bare", [python, str(script), str(port)], port, "json"),
    ]


if __name__ == "__main__":
    sys.exit(main())
