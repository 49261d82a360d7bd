"""JSON Schemas of Kubernetes' objects for kubeconform, from the API's own description.

That description is a file of the Go module with which the test node is built, so that nothing is
fetched from elsewhere. The kinds of the Prometheus operator are in that operator's module.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from tests.charts.helm import KUBERNETES, ROOT

_MODULE: Final = "k8s.io/kubernetes"
_OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator"
_OPERATORS_KINDS: Final = ("podmonitors", "prometheusrules")
_PREFIX: Final = "#/definitions/"


def write_schemas(folder: Path) -> str:
    """Writes a strict schema per kind; gives kubeconform's `-schema-location`."""
    definitions = json.loads(_description().read_text())["definitions"]
    strict = {name: _strict(one) for name, one in definitions.items()}
    for name, one in strict.items():
        for about in one.get("x-kubernetes-group-version-kind", ()):
            group = about["group"].partition(".")[0]
            file = "-".join(filter(None, (about["kind"], group, about["version"]))).lower()
            parts = {part: strict[part] for part in _needed(name, strict)}
            text = json.dumps({"$ref": f"{_PREFIX}{name}", "definitions": parts})
            (folder / f"{file}.json").write_text(text)
    for definition in operator_kinds():
        about = yaml.safe_load(definition.read_text())["spec"]
        group = about["group"].partition(".")[0]
        for version in about["versions"]:
            file = f"{about['names']['kind']}-{group}-{version['name']}".lower()
            text = json.dumps(_strict_throughout(version["schema"]["openAPIV3Schema"]))
            (folder / f"{file}.json").write_text(text)
    return f"{folder}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"


def operator_kinds() -> list[Path]:
    """The custom resource definitions of the Prometheus operator that our charts use."""
    folder = _fetched(_OPERATOR, ROOT / "tests" / "charts" / "programs" / "prometheus-operator")
    folder = folder / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in _OPERATORS_KINDS]


def _fetched(name: str, module: Path) -> Path:
    """The folder of a Go module, in the version that `module` requires."""
    subprocess.run(["go", "mod", "download", name], cwd=module, check=True, capture_output=True)
    command = ["go", "list", "-m", "-f", "{{.Dir}}", name]
    found = subprocess.run(command, cwd=module, check=True, capture_output=True, text=True)
    return Path(found.stdout.strip())


def _description() -> Path:
    folder = _fetched(_MODULE, ROOT / "tests" / "cluster" / "kubernetes")
    assert folder.name.endswith(f"@v{KUBERNETES}")
    return folder / "api" / "openapi-spec" / "swagger.json"


def _strict(definition: dict[str, Any]) -> dict[str, Any]:
    """Unknown fields are errors; what may be text or number is said in words of its own there."""
    if definition.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    if definition.get("description", "").startswith("Quantity is a fixed-point"):
        return {"type": ["string", "number"]}
    if "properties" in definition:
        return {"additionalProperties": False, **definition}
    return definition


def _strict_throughout(part: Any) -> Any:
    """The same for a schema that has all of its parts inside."""
    if isinstance(part, list):
        return [_strict_throughout(one) for one in part]
    if not isinstance(part, dict):
        return part
    whole = {key: _strict_throughout(value) for key, value in part.items()}
    if isinstance(part.get("properties"), dict) and part.get("type") == "object":
        # `metadata` is described as an object, and no more.
        return {"additionalProperties": False, **whole}
    return whole


def _needed(name: str, definitions: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += _references(definitions[one])
    return found


def _references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix(_PREFIX)
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)
