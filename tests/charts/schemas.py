"""Makes JSON schemas for kubeconform: schemas.py FOLDER SOURCE...

A source is an OpenAPI v3 document of a Kubernetes API group (.json), or CustomResourceDefinitions (.yaml).
Fields that a schema does not know are wrong.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

REFERENCE = "#/components/schemas/"
TEXT = {"type": "string"}


def converted(schema: Any) -> Any:
    """The schema as JSON schema says it, and strict."""
    if isinstance(schema, list):
        return [converted(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            # Their names are no keywords, whatever they are.
            made[key] = {name: converted(field) for name, field in value.items()}
        elif key == "$ref":
            made[key] = value.replace(REFERENCE, "#/definitions/")
        elif not key.startswith("x-") and key not in ("nullable", "default", "example"):
            made[key] = converted(value)
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    loose = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
    if "properties" in schema and not loose:
        made.setdefault("additionalProperties", False)
    if schema.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def references(schema: Any) -> set[str]:
    return set(re.findall(r'"\$ref": "#/definitions/([^"]+)"', json.dumps(schema)))


def with_definitions(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """With all that it refers to, and no more."""
    found: set[str] = set()
    todo = references(schema)
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= references(known[name]) - found
    return {**schema, "definitions": {name: known[name] for name in sorted(found)}}


def of_openapi(source: Path) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Group, version, kind and schema of each resource."""
    components = json.loads(source.read_text()).get("components", {}).get("schemas", {})
    known = {name: converted(schema) for name, schema in components.items()}
    made = []
    for name, schema in components.items():
        kinds = schema.get("x-kubernetes-group-version-kind", [])
        # Options of calls are of every group.
        if len(kinds) == 1:
            kind = kinds[0]
            made.append((kind["group"], kind["version"], kind["kind"], with_definitions(known[name], known)))
    return made


def of_definitions(source: Path) -> list[tuple[str, str, str, dict[str, Any]]]:
    made = []
    for definition in yaml.safe_load_all(source.read_text()):
        if definition:
            spec = definition["spec"]
            for version in spec["versions"]:
                schema = converted(version["schema"]["openAPIV3Schema"])
                # Kubernetes knows these of every resource, whatever the definition says.
                schema["properties"] |= {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                }
                made.append((spec["group"], version["name"], spec["names"]["kind"], schema))
    return made


def main(folder: Path, sources: list[Path]) -> None:
    for source in sources:
        for group, version, kind, schema in (of_openapi if source.suffix == ".json" else of_definitions)(source):
            # kubeconform looks for the core's, which have no group, below their version.
            file = folder / (group or version) / f"{kind.lower()}_{version}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(schema))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
