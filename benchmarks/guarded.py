"""What credentials and limits cost: our server with all of them, beside itself with none.

    python -m benchmarks.guarded [--rounds 5] [--python PATH] [--work steady,connect] [--check]

Servers:
  open    no credentials, every limit off: what an address or a token does is not counted
  token   a static token, read by its digest, and every limit on, counted by the client's address that a
          trusted proxy gives
  jwt     the same with a JWT, signed with HS256, that ends: each stream has its own time to end

Work, as benchmarks/compare.py has it: "steady" is 1,000 subscribers and 50 events a second, "connect" 5,000
subscribers that come at once and stay. The servers take turns, and measured is the server's user and
system time; the median over the rounds counts.

With --check the exit status is 1 unless with credentials and limits a delivery costs at most 1.05 times what
it does without, and a connection at most 1.25 times.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jwt

from benchmarks.compare import connect, steady
from benchmarks.harness import (
    Check,
    Plan,
    Row,
    Server,
    add_check,
    add_python,
    at_most,
    command_line,
    exit_status,
    ours,
    positive,
    print_checks,
    running,
    some_of,
    stop_on_sigterm,
    told,
    workshop,
)

SECRET = "a-secret-of-thirty-two-characters"
CLIENT = "X-Forwarded-For: 192.0.2.1"

GUARDED = f"""
trusted_proxies = ["127.0.0.1"]
token = "{SECRET}"
max_connections_per_address = 100000
max_connections_per_token = 100000
subscribe_burst = 100000
"""

OPEN = (
    *("--publish-rate", "0"),
    *("--subscribe-rate", "0"),
    *("--max-connections-per-address", "0"),
    *("--max-connections-per-token", "0"),
)

WORK: dict[str, tuple[Callable[[Path, Server], Row], str, float]] = {
    "steady": (steady, "cpu_us_per_delivery", 1.05),
    "connect": (connect, "cpu_us_per_connection", 1.25),
}
"""The work, the measure that is compared, and its bound as a multiple of the open server's."""


def main() -> int:
    """Measure by turns, print the medians, and say whether the bounds hold."""
    chosen = arguments()
    stop_on_sigterm()
    found: list[Check] = []
    with workshop() as folder:
        for work in chosen.work:
            found += compare(folder, work, rounds=chosen.rounds, python=chosen.python)
    print_checks(found)
    return exit_status(found) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("guarded", __doc__)
    parser.add_argument("--rounds", type=positive, metavar="N", default=5, help="the median of so many")
    add_python(parser)
    parser.add_argument(
        "--work", type=some_of(WORK), default=list(WORK), help="a comma list: " + ",".join(WORK)
    )
    add_check(parser)
    return parser.parse_args()


def compare(folder: Path, work: str, *, rounds: int, python: str) -> Iterator[Check]:
    """Do a work with every server in turn, print the medians, and check them against the open one's."""
    do, measure, most = WORK[work]
    figures: dict[str, list[float]] = {}
    for turn in range(1, rounds + 1):
        for plan in plans(folder, python):
            with running(plan) as server:
                row = do(folder, server)
            figures.setdefault(plan.name, []).append(row[measure])
            print(f"{work}, round {turn}, {plan.name}: {told(row)}", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print(f"{work}: {measure}: {told(medians)}")
    for name in ("token", "jwt"):
        yield at_most(f"{work}: {name}, against open", medians[name] / medians["open"], most, " x")


def plans(folder: Path, python: str) -> list[Plan]:
    """Plan the servers, each on a port of its own."""
    config = folder / "guarded.toml"
    config.write_text(GUARDED)
    key = folder / "key"
    key.write_text(SECRET)
    guarded = ("--config", str(config), "--jwt-key-file", str(key))
    claims = {
        "sub": "reader",
        "exp": int(time.time()) + 3600,
        "grants": {"subscribe": ["*"], "publish": ["*"]},
    }
    signed = jwt.encode(claims, SECRET, algorithm="HS256")
    bearers = {"token": SECRET, "jwt": signed}
    return [
        replace(ours(*OPEN, python=python), name="open"),
        *(
            replace(
                ours(*guarded, python=python), name=name, headers=(f"Authorization: Bearer {bearer}", CLIENT)
            )
            for name, bearer in bearers.items()
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
