"""What the alerts say of one another is true: each is told of and tested, and asks for metrics that there are."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"

Rule = dict[str, Any]


def rules(name: str) -> list[Rule]:
    return [rule for group in yaml.safe_load((FOLDER / name).read_text())["groups"] for rule in group["rules"]]


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    alerts = rules("alerts.yaml")
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts)
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_each_alert_is_shown_to_fire_and_to_stay_quiet() -> None:
    shown: dict[str, set[bool]] = {}
    for file in FOLDER.glob("tests/*.yaml"):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                shown.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert shown == {rule["alert"]: {True, False} for rule in rules("alerts.yaml")}


def test_what_is_asked_for_is_documented() -> None:
    documented = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    recorded = {rule["record"] for rule in rules("rules.yaml")}
    for rule in rules("rules.yaml") + rules("alerts.yaml"):
        names = set(re.findall(r"\bkernelbox[_:][\w:]+", re.sub(r'"[^"]*"', "", rule["expr"])))
        of_histograms = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names - documented - recorded}
        assert of_histograms <= documented, rule


def test_runbooks_ask_for_what_there_is() -> None:
    documented = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    recorded = {rule["record"] for rule in rules("rules.yaml")}
    quoted = " ".join(re.findall(r"`[^`]*`", (ROOT / "docs/runbooks.md").read_text()))
    names = set(re.findall(r"\bkernelbox[_:][\w:]+", quoted)) - recorded
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in names} <= documented
