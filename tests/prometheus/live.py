"""What a Prometheus saw that watched the suites of tests/cluster: all that is told of in dashboards and docs, no more.

No test of `make test`: tests/cluster/suite runs it, with the Prometheus' address in KERNELBOX_TEST_PROMETHEUS and the
API server's audit log in KERNELBOX_TEST_AUDIT.
"""

import json
import os
import re
import subprocess
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from api import Prometheus
from sources import JOBS, OF_SCRAPE, Metric, Panel, documented, panels, rules

METRICS = documented()
#: Labels whose values nobody lists are no more than this many in all.
FEW = 60
SESSION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

each_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda it: f"{it.program}-{it.name}")


@pytest.fixture(scope="module")
def prometheus() -> Prometheus:
    return Prometheus.that_has_seen_all(os.environ["KERNELBOX_TEST_PROMETHEUS"])


@pytest.fixture(scope="module")
def sandboxes() -> set[str]:
    """The names of all that there were, as the API server wrote down who wrote to it."""
    log = Path(os.environ["KERNELBOX_TEST_AUDIT"])
    names = set()
    for file in log.parent.glob(f"{log.stem}*{log.suffix}"):
        for line in file.read_text().splitlines():
            written = json.loads(line).get("objectRef", {})
            if written.get("resource") in ("sandboxes", "pods") and written.get("namespace") == "kernelbox-sandboxes":
                names.add(written.get("name", ""))
    return names - {""}


@pytest.mark.parametrize("panel", list(panels()), ids=str)
def test_each_panel_had_something_to_show(prometheus: Prometheus, panel: Panel) -> None:
    for query in panel.queries:
        lines = prometheus.asked(panel, query)
        assert any(line.figures for line in lines), f"{query.legend or panel.title}: {query.expression}"


@each_metric
def test_each_metric_was_there_with_the_labels_that_are_told_of(prometheus: Prometheus, metric: Metric) -> None:
    for name in metric.series():
        found = prometheus.series(f'{name}{{job="{JOBS[metric.program]}"}}')
        assert found, f"{name} never appeared"
        values = defaultdict(set)
        for series in found:
            own = set(series) - OF_SCRAPE - {"__name__", "le"}
            assert own == set(metric.labels)
            for label in own:
                values[label].add(series[label])
        for label, known in metric.labels.items():
            assert values[label] == known or known is None, label
    # Prometheus knows it of what was there in the end.
    told = prometheus.get("metadata", metric=metric.name).get(metric.name, [])
    assert {it["type"] for it in told} <= {metric.type}


def test_no_metric_is_untold(prometheus: Prometheus) -> None:
    for program, job in JOBS.items():
        told = {name for metric in METRICS if metric.program == program for name in metric.series()}
        found = {it["__name__"] for it in prometheus.series(f'{{job="{job}"}}')}
        assert {name for name in found - told if name.startswith(("kernelbox_", "process_"))} == set()


def test_labels_are_few_and_hold_no_names(prometheus: Prometheus, sandboxes: set[str]) -> None:
    assert len(sandboxes) > 200
    values = defaultdict(set)
    for series in prometheus.series('{__name__=~"(kernelbox|process)[_:].+"}'):
        for label in set(series) - OF_SCRAPE - {"__name__", "le"}:
            values[label].add(series[label])
    for label, known in values.items():
        assert len(known) < FEW, label
        assert not [it for it in known if SESSION.search(it)], label
        assert not [it for it in known if any(name in it for name in sandboxes)], label


@pytest.mark.parametrize("job", JOBS.values())
def test_promtool_finds_nothing_to_better(prometheus: Prometheus, job: str) -> None:
    address = next(it["scrapeUrl"] for it in prometheus.targets() if it["labels"]["job"] == job)
    with urllib.request.urlopen(address, timeout=10) as answer:
        said = answer.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=said, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_every_rule_was_evaluated_and_none_failed(prometheus: Prometheus) -> None:
    known = {rule.get("record", rule.get("alert")) for file in ("rules.yaml", "alerts.yaml") for rule in rules(file)}
    evaluated = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in evaluated} == known
    assert [rule for rule in evaluated if rule["health"] != "ok"] == []
    told = prometheus.text("metrics")
    failures = re.findall(r"^prometheus_rule_evaluation_failures_total\{.*\} (\S+)$", told, re.MULTILINE)
    assert failures
    assert {float(it) for it in failures} == {0}


@pytest.mark.parametrize("record", [rule["record"] for rule in rules("rules.yaml")])
def test_each_rule_recorded_something(prometheus: Prometheus, record: str) -> None:
    assert any(line.figures for line in prometheus.over_run(record))


def test_all_are_there_in_the_end(prometheus: Prometheus) -> None:
    jobs = sorted(it["labels"]["job"] for it in prometheus.targets() if it["health"] == "up")
    assert jobs == ["kernelbox-controller", "kernelbox-controller", "kernelbox-gateway-admin"]
