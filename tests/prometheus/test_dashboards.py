"""What the dashboards say of themselves is true: each panel explains itself, and asks for what there is."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from sources import OF_PROMETHEUS, OF_SCRAPE, Metric, Panel, dashboards, documented, panels, rules, variables

DASHBOARDS = ["agent", "gpu", "internals", "overview", "sandboxes"]
ALERTS = {rule["alert"] for rule in rules("alerts.yaml")}
RECORDED = {rule["record"] for rule in rules("rules.yaml")}
METRICS = {metric.name: metric for metric in documented()}

each_panel = pytest.mark.parametrize("panel", list(panels()), ids=str)


def test_each_dashboard_is_found_again_and_asks_the_prometheus_that_is_chosen() -> None:
    made = dashboards()
    assert list(made) == DASHBOARDS
    for name, dashboard in made.items():
        assert dashboard["uid"] == f"kernelbox-{name}"
        assert dashboard["templating"]["list"][0]["name"] == "datasource"
        titles = [panel["title"] for panel in dashboard["panels"] if panel["type"] != "row"]
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(titles)) == len(titles)
        assert len(set(ids)) == len(ids)
        ends = [panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in dashboard["panels"]]
        assert max(ends) == 24


@each_panel
def test_each_panel_tells_what_it_is_for(panel: Panel) -> None:
    assert len(panel.whole["description"]) > 20
    assert panel.whole["fieldConfig"]["defaults"]["unit"]
    for asked in [panel.whole, *panel.whole["targets"]]:
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert set(re.findall(r"\bKernelbox[A-Z]\w+", panel.whole["description"])) <= ALERTS


def test_each_alert_has_a_panel_that_speaks_of_it() -> None:
    told = " ".join(panel.whole["description"] for panel in panels())
    assert {alert for alert in ALERTS if not re.search(rf"\b{alert}\b", told)} == set()


@each_panel
def test_each_panel_asks_for_what_there_is(panel: Panel) -> None:
    for query in panel.queries:
        assert query.legend or query.is_instant
        unquoted = re.sub(r'"[^"]*"', '""', query.expression)
        named = set(re.findall(r"\b(?:kernelbox|process)[_:][\w:]+|\bup\b|\bALERTS\b", unquoted))
        assert named
        for name in named - RECORDED - OF_PROMETHEUS:
            assert of(name), f"{name} is not documented"
        for name, selector in re.findall(r"\b((?:kernelbox|process)_\w+)\{([^}]*)\}", query.expression):
            check_selector(of(name), selector)
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", unquoted):
            for label in labels.split(", "):
                known = {"le", "alertname", "alertstate"} | OF_SCRAPE
                assert label in known or any(label in METRICS[it].labels for it in METRICS if it in unquoted), label


def of(name: str) -> Metric | None:
    """The metric that a series of this name is of."""
    return METRICS.get(name) or METRICS.get(re.sub(r"_(bucket|sum|count)$", "", name))


def check_selector(metric: Metric | None, selector: str) -> None:
    assert metric
    for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
        if label == "le":
            assert metric.type == "histogram"
        elif label not in OF_SCRAPE:
            assert label in metric.labels, f"{metric.name} has no {label}"
            known = metric.labels[label]
            if known:
                values = set(value.split("|")) if operator.endswith("~") else {value}
                assert values <= known, f"{label} of {metric.name}"


@each_panel
def test_rates_are_over_what_fits_the_scrapes(panel: Panel) -> None:
    # A tile may look back as far as its alert does.
    windows = ["$__rate_interval", "$__range:30s", *(["5m", "10m"] if panel.whole["type"] == "stat" else [])]
    for query in panel.queries:
        assert set(re.findall(r"\[([^\]]*)\]", query.expression)) <= set(windows)


def all_of(panel: Panel) -> dict[str, str]:
    return dict.fromkeys(variables(panel.dashboard), "(one|two)")


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_are_labels_that_there_are(name: str) -> None:
    for label, metric in variables(name).items():
        assert label in METRICS[metric].labels


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    asked = [query.substituted(15, 15, 3600, all_of(panel)) for panel in panels() for query in panel.queries]
    read = [{"record": "asked", "expr": query, "labels": {"number": str(number)}} for number, query in enumerate(asked)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": read}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
