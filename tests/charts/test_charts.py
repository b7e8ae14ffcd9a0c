"""The chart with its defaults and deploy/base are the same Kernelbox; what its files say of one another is true."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/kernelbox"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "deploy/overlays").iterdir())
#: What the restricted Pod Security Standard lets volumes be.
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

Resource = dict[str, Any]


def output(*command: str | Path) -> list[Resource]:
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, cwd=ROOT)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def chart(*options: str | Path) -> list[Resource]:
    return output("helm", "template", "kernelbox", CHART, "--namespace", "kernelbox", *options)


def kustomized(folder: str | Path) -> list[Resource]:
    return output("kustomize", "build", folder)


@pytest.fixture(scope="module")
def ours() -> list[Resource]:
    return chart()


@pytest.fixture(scope="module")
def base() -> list[Resource]:
    return kustomized("deploy/base")


def name(resource: Resource) -> tuple[str, str, str]:
    # In the chart, what is of the whole cluster has the release's namespace in its name: two releases do not meet.
    found = resource["metadata"]["name"].removesuffix("-kernelbox")
    return resource["kind"], resource["metadata"].get("namespace", ""), found


def matters(resource: Resource) -> Any:
    """What has to be the same."""
    kind = resource["kind"]
    if kind in ("Role", "ClusterRole"):
        return resource["rules"]
    if kind in ("RoleBinding", "ClusterRoleBinding"):
        reference = resource["roleRef"]
        return {**reference, "name": reference["name"].removesuffix("-kernelbox")}, resource["subjects"]
    if kind == "ServiceAccount":
        return resource.get("automountServiceAccountToken")
    if kind == "Namespace":
        return {key: value for key, value in resource["metadata"]["labels"].items() if "pod-security" in key}
    spec = json.loads(json.dumps(resource["spec"]))
    if kind == "Deployment":
        # Labels may be more than the selector needs.
        wanted = spec["selector"]["matchLabels"]
        labels = spec["template"].pop("metadata")["labels"]
        assert {key: labels.get(key) for key in wanted} == wanted
        for container in spec["template"]["spec"]["containers"]:
            container["env"] = {variable.pop("name"): variable for variable in container["env"]}
            # The chart says what is the default.
            assert container.pop("imagePullPolicy", "IfNotPresent") == "IfNotPresent"
    if kind == "Service":
        assert spec.pop("type", "ClusterIP") == "ClusterIP"
    return spec


def test_the_chart_and_the_base_are_the_same(ours: list[Resource], base: list[Resource]) -> None:
    in_chart = {name(resource): resource for resource in ours}
    in_base = {name(resource): resource for resource in base}
    for key, resource in in_base.items():
        # Helm makes the release's own namespace, or it is there.
        if key != ("Namespace", "", "kernelbox"):
            assert key in in_chart, f"the chart has no {key}"
            assert matters(in_chart[key]) == matters(resource), key
    more = {key for key in in_chart if key not in in_base}
    assert more == {
        ("Lease", "kernelbox", "kernelbox-controller"),
        ("Secret", "kernelbox", "kernelbox-api-key"),
        ("Secret", "kernelbox", "kernelbox-keys"),
        ("Secret", "kernelbox", "kernelbox-signing-keys"),
        ("Pod", "kernelbox", "kernelbox-test"),
    }


def test_the_control_planes_policies_are_the_same() -> None:
    def policies(resources: list[Resource]) -> dict[Any, Any]:
        return {name(it): it["spec"] for it in resources if it["kind"] == "NetworkPolicy"}

    ours = policies(chart("--set", "networkPolicy.enabled=true"))
    assert len(ours) == 3
    assert ours == policies(kustomized("deploy/overlays/production"))


def test_rules_and_dashboards_are_those_of_the_project(tmp_path: Path) -> None:
    prefix = "https://git.example.com/kernelbox/"
    on = ("--set", f"prometheusRule.enabled=true,prometheusRule.runbookPrefix={prefix},dashboards.enabled=true")
    made = {name(it)[::2]: it for it in chart(*on)}

    rules = made["PrometheusRule", "kernelbox"]["spec"]
    own = [yaml.safe_load((ROOT / "deploy/prometheus" / it).read_text()) for it in ("rules.yaml", "alerts.yaml")]
    for group in own[1]["groups"]:
        for rule in group["rules"]:
            rule["annotations"]["runbook_url"] = prefix + rule["annotations"]["runbook_url"]
    assert rules["groups"] == own[0]["groups"] + own[1]["groups"]
    # Its names are each there once, too.
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rules))
    subprocess.run(["promtool", "check", "rules", file], check=True)

    files = sorted((ROOT / "deploy/grafana").glob("*.json"))
    assert len(files) == 5
    for file in files:
        data = made["ConfigMap", f"kernelbox-dashboard-{file.stem}"]["data"]
        assert data == {f"kernelbox-{file.name}": file.read_text()}


def pods(resources: list[Resource]) -> Iterator[tuple[Any, Resource]]:
    for resource in resources:
        if resource["kind"] == "Deployment":
            yield name(resource), resource["spec"]["template"]["spec"]
        elif resource["kind"] == "Pod":
            yield name(resource), resource["spec"]


def unsafe(pod: Resource) -> Iterator[str]:
    """What of the restricted Pod Security Standard, and of our own rules, is not kept."""
    security = pod.get("securityContext", {})
    if not (security.get("runAsNonRoot") and security.get("runAsUser")):
        yield "runs as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "is part of its node"
    for container in pod["containers"] + pod.get("initContainers", []):
        own = container.get("securityContext")
        if own != {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }:
            yield f"container {container['name']} is not confined"
        if "memory" not in container["resources"]["limits"]:
            yield f"container {container['name']} may take all memory"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"container {container['name']} listens on its node"
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed"


@pytest.mark.parametrize("values", [None, *EXAMPLES], ids=lambda it: it.stem if it else "defaults")
def test_the_charts_pods_are_confined(values: Path | None) -> None:
    found = list(pods(chart(*(["--values", values] if values else []))))
    assert len(found) >= 3
    assert [(pod, problem) for pod, spec in found for problem in unsafe(spec)] == []


@pytest.mark.parametrize("folder", [ROOT / "deploy/base", *OVERLAYS], ids=lambda it: it.name)
def test_the_manifests_pods_are_confined(folder: Path) -> None:
    found = list(pods(kustomized(folder)))
    assert len(found) == 2
    assert [(pod, problem) for pod, spec in found for problem in unsafe(spec)] == []


def test_the_charts_definitions_are_those_of_the_controller_and_stay() -> None:
    ours = output("helm", "template", "kernelbox-crds", "charts/kernelbox-crds")
    for definition in ours:
        assert definition["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert ours == [it for it in yaml.safe_load_all((ROOT / "deploy/crds/kernelbox.dev.yaml").read_text()) if it]


def test_every_value_has_a_description() -> None:
    rows = [row.split("|") for row in (CHART / "README.md").read_text().splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 80
    assert [row[1].strip() for row in rows if not row[-2].strip()] == []


def test_the_schema_has_no_value_that_there_is_not() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def unknown(schema: Resource, values: Any, path: str) -> Iterator[str]:
        for key, part in schema.get("properties", {}).items():
            if not isinstance(values, dict) or key not in values:
                yield f"{path}{key}"
            else:
                yield from unknown(part, values[key], f"{path}{key}.")

    # Of Helm's own.
    assert list(unknown(schema, values, "")) == ["global"]
