"""helm 3, helm 4 and kubeconform, built from their Go modules, and what they make of our charts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from knit_workflows.provision.cache import SetUpError
from knit_workflows.provision.go_build import GoPrograms, build_if_needed

ROOT: Final = Path(__file__).parents[2]
CHARTS: Final = ROOT / "charts"
KUBERNETES: Final = "1.34.4"
_MODULES: Final = Path(__file__).parent / "programs"
_HELM_3: Final = "helm.sh/helm/v3"
_HELM_4: Final = "helm.sh/helm/v4"

PROGRAMS: Final = {
    "helm-3": GoPrograms(
        name="helm-3.22.0",
        module=_MODULES / "helm-3",
        packages=(f"{_HELM_3}/cmd/helm",),
        # Without these helm believes in Kubernetes 1.20 where it renders without a cluster.
        ldflags=f"-s -w -X {_HELM_3}/internal/version.version=v3.22.0"
        f" -X {_HELM_3}/pkg/chartutil.k8sVersionMajor=1"
        f" -X {_HELM_3}/pkg/chartutil.k8sVersionMinor=34"
        f" -X {_HELM_3}/pkg/lint/rules.k8sVersionMajor=1"
        f" -X {_HELM_3}/pkg/lint/rules.k8sVersionMinor=34",
        takes="one to three minutes, once",
    ),
    "helm-4": GoPrograms(
        name="helm-4.3.2",
        module=_MODULES / "helm-4",
        packages=(f"{_HELM_4}/cmd/helm",),
        ldflags=f"-s -w -X {_HELM_4}/internal/version.version=v4.3.2",
        takes="one to three minutes, once",
    ),
    "kubeconform": GoPrograms(
        name="kubeconform-0.7.0",
        module=_MODULES / "kubeconform",
        packages=("github.com/yannh/kubeconform/cmd/kubeconform",),
        takes="some seconds, once",
    ),
}
HELMS: Final = ("helm-3", "helm-4")


@cache
def program(name: str) -> Path:
    """The path of one of the programs; the first call builds it."""
    return build_if_needed(PROGRAMS[name]) / name.partition("-")[0]


def main() -> None:
    """Builds all of them, so that no test has to wait for it."""
    for name in PROGRAMS:
        try:
            print(program(name))
        except SetUpError as error:
            sys.exit(f"helm: {error}")


@dataclass(frozen=True)
class Helm:
    """One helm, with folders of its own, and the cluster that it speaks to, if any."""

    name: str
    home: Path
    kubeconfig: Path | None = None
    namespace: str = "default"
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, *arguments: str | Path, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Runs it; what it says on failure is in the failure of the test."""
        folders = {
            f"HELM_{kind}_HOME": str(self.home / kind) for kind in ("CACHE", "CONFIG", "DATA")
        }
        environment = {**os.environ, **folders, **self.environment}
        environment["KUBECONFIG"] = str(self.kubeconfig or os.devnull)
        done = subprocess.run(
            [program(self.name), *map(str, arguments), "--namespace", self.namespace],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def render(
        self, chart: str | Path, *arguments: str | Path, release: str = ""
    ) -> list[dict[str, Any]]:
        """The objects of a chart, without a cluster."""
        folder = CHARTS / chart
        command = ["template", release or folder.name, folder, *arguments]
        return objects(self.run(*command, "--kube-version", KUBERNETES).stdout)

    def refusal(self, chart: str | Path, *arguments: str | Path) -> str:
        """What it says when it refuses to render a chart."""
        folder = CHARTS / chart
        done = self.run("template", folder.name, folder, *arguments, check=False)
        assert done.returncode != 0, done.stdout
        return " ".join(done.stderr.split())


def objects(text: str) -> list[dict[str, Any]]:
    """The objects in a stream of YAML documents, empty ones left out."""
    return [one for one in yaml.safe_load_all(text) if one]


def by_name(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Objects by `Kind/name`; no two have the same."""
    named = {f"{one['kind']}/{one['metadata']['name']}": one for one in found}
    assert len(named) == len(found), "two objects have the same name"
    return named


def ci_values(chart: str) -> list[Path]:
    """The files of values that every chart has for its tests, one per supported shape."""
    return sorted((CHARTS / chart / "ci").glob("*-values.yaml"))


def pods(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pod specs that are in these objects, by `Kind/name`."""
    specs = {}
    for name, one in by_name(found).items():
        match one["kind"]:
            case "Deployment" | "Job" | "StatefulSet" | "DaemonSet":
                specs[name] = one["spec"]["template"]["spec"]
            case "Pod":
                specs[name] = one["spec"]
    return specs


def set_json(key: str, value: object) -> tuple[str, str]:
    """The arguments that set a value as helm's guide hands values over."""
    return "--set-json", f"{key}={json.dumps(value)}"
