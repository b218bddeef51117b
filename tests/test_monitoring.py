"""Documents about metrics: table, dashboard and alert rules."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Config
from sse_broadcast.metrics import Metrics
from sse_broadcast.server.endpoints.metrics import PREFIX, Exposition
from sse_broadcast.server.transport.counts import ConnectionCounts
from tests.conftest import Program

DOCS = Path(__file__).parent.parent / "docs"
ALERTS = (DOCS / "alerts.yaml").read_text()
ALERTS_TEST = (DOCS / "alerts.test.yaml").read_text()

SUFFIXES = {
    "counter": ("_total",),
    "info": ("_info",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "gaugehistogram": ("_bucket", "_gcount", "_gsum"),
}
"""Suffixes of the samples of a metric, by its type."""

NAME = re.compile(r"\b(?:sse_broadcast|process|python)_\w+")


async def families() -> list[Metric]:
    """Return all exposed metric families."""
    config = Config(metrics_channels=("news",), backend="sqlite:///nowhere/history.db")
    exposition = Exposition(Broadcaster(config))
    exposition.connection_counts = ConnectionCounts(Metrics())
    return list((await exposition.scrape()).collect())


async def samples() -> set[str]:
    """Return the names of all possible samples."""
    return {family.name + suffix for family in await families() for suffix in SUFFIXES[family.type]}


def row(family: Metric) -> str:
    name = family.name + (SUFFIXES[family.type][0] if family.type in {"counter", "info"} else "")
    kind = {"gaugehistogram": "histogram of now", "info": "gauge"}.get(family.type, family.type)
    labels = () if family.type == "info" else getattr(family, "_labelnames", ())
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |\n"


async def test_the_table_has_every_metric() -> None:
    rows = "".join(row(family) for family in await families() if family.name.startswith(PREFIX))
    head = "| metric | type | labels | what it is |\n|---|---|---|---|\n"
    assert f"\n\n{head}{rows}\n" in (DOCS / "metrics.md").read_text()


def expressions() -> Iterator[str]:
    dashboard: Any = json.loads((DOCS / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


async def test_every_used_metric_exists() -> None:
    known = await samples()
    asked = [*expressions(), ALERTS]
    assert {name for text in asked for name in NAME.findall(text)} - known == set()


async def test_the_dashboard_has_every_metric() -> None:
    """A metric without a panel would be of no use."""
    shown = {name for text in expressions() for name in NAME.findall(text)}
    for family in await families():
        if family.name.startswith(PREFIX):
            assert shown & {family.name + suffix for suffix in SUFFIXES[family.type]}, family.name


def test_the_expressions_of_the_dashboard_are_promql(program: Program, tmp_path: Path) -> None:
    """Prometheus parses them after Grafana's variables are replaced."""
    rules = tmp_path / "rules.json"
    filled = [
        each.replace("$__rate_interval", "5m").replace("$job", "j").replace("$instance", ".*")
        for each in expressions()
    ]
    records = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(filled)]
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": records}]}))
    promtool(program, "check", "rules", rules)


def promtool(program: Program, *arguments: str | Path) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid(program: Program) -> None:
    promtool(program, "check", "rules", DOCS / "alerts.yaml")


def test_every_alert_fires_for_its_cause_only(program: Program) -> None:
    promtool(program, "test", "rules", DOCS / "alerts.test.yaml")
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert len(alerts) > 10
    names = re.findall(r"- name: '(.+)'", ALERTS_TEST)
    assert names == [f"{alert}: {when}" for alert in alerts for when in ("for its cause", "not without")]
    fires = re.findall(r"exp_alerts:( \[\])?\n", ALERTS_TEST)
    assert fires == ["", " []"] * len(alerts)


@pytest.mark.parametrize("alert", re.findall(r"- alert: (\w+)", ALERTS))
def test_every_alert_has_instructions(alert: str) -> None:
    """It names the instance, the problem and the remedy."""
    rule = ALERTS.partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]
    assert re.search(r"severity: (page|warn)\b", rule)
    assert "summary: " in rule
    assert "action: " in rule
    assert "{{ $labels.instance }}" in rule
