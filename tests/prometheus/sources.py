"""What the project says of its metrics: docs/metrics.md, the recorded rules, the dashboards and their queries."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
#: What a program's scrape job is called.
JOBS = {"controller": "kernelbox-controller", "gateway": "kernelbox-gateway-admin"}
#: What Prometheus says itself.
OF_PROMETHEUS = {"up", "ALERTS"}
#: Labels that come with the scrape.
OF_SCRAPE = {"job", "instance", "namespace", "pod"}


@dataclass(frozen=True)
class Metric:
    program: str
    name: str
    type: str
    #: With its values, where they are a closed set.
    labels: dict[str, frozenset[str] | None]

    def series(self) -> list[str]:
        """The names under which Prometheus has it."""
        parts = ("_bucket", "_sum", "_count") if self.type == "histogram" else ("",)
        return [self.name + part for part in parts]


def documented() -> list[Metric]:
    metrics, program = [], ""
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        if begin := re.match(r"<!-- (\w+): made", line):
            program = begin[1]
        elif row := re.match(r"\| `(\w+)` \| (\w+) \| (.*?) \|", line):
            labels = {}
            for label in filter(None, row[3].split("; ")):
                name, _, values = label.partition(": ")
                labels[name.strip("`")] = frozenset(values.split(", ")) if values else None
            metrics.append(Metric(program, row[1], row[2], labels))
    return metrics


def rules(name: str) -> list[dict[str, Any]]:
    """Of a file in deploy/prometheus."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str
    is_instant: bool

    def substituted(self, step: int, scrape: int, seconds: int, chosen: dict[str, str]) -> str:
        """As Grafana asks for a time that is so long. `chosen`: what stands for the dashboard's own variables."""
        expression = self.expression
        for name, value in {
            "__rate_interval": f"{max(step + scrape, 4 * scrape)}s",
            "__range": f"{seconds}s",
            **chosen,
        }.items():
            expression = re.sub(rf"\${name}\b", lambda _, value=value: value, expression)
        assert "$" not in expression, expression
        return expression


@dataclass(frozen=True)
class Panel:
    dashboard: str
    title: str
    whole: dict[str, Any]

    @property
    def queries(self) -> list[Query]:
        targets = self.whole.get("targets", [])
        return [Query(it["expr"], it.get("legendFormat", ""), it.get("instant", False)) for it in targets]

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.title}"


def variables(name: str) -> dict[str, str]:
    """What a dashboard is looked at by: labels, each with the metric that has it."""
    found = {}
    for variable in dashboards()[name]["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
            assert label == variable["name"]
            found[label] = metric
    return found


def dashboards() -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in sorted((ROOT / "deploy/grafana").glob("*.json"))}


def panels(name: str | None = None) -> Iterator[Panel]:
    """Those of all dashboards, or of one, without the rows' headings."""
    for file, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            if name in (None, file) and panel["type"] != "row":
                yield Panel(file, panel["title"], panel)
