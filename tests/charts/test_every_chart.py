"""What holds for every chart in every shape that its `ci` values show, with helm 3 and helm 4."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from knit_cli.admin.helm.foreign_releases import is_of_knit
from tests.charts.helm import CHARTS, KUBERNETES, Helm, by_name, ci_values, objects, pods, program
from tests.charts.schemas import write_schemas

NAMES = sorted(folder.name for folder in CHARTS.iterdir() if (folder / "Chart.yaml").exists())
SHAPES = [
    pytest.param(name, file, id=f"{name}-{file.stem}") for name in NAMES for file in ci_values(name)
]
SNAPSHOTS = Path(__file__).parent / "snapshots"
RANDOM = re.compile(r"(?<=: )[A-Za-z0-9+/=]{40,}$|(?<=ca=)[0-9a-f]{16}", re.MULTILINE)


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_schemas(tmp_path_factory.mktemp("schemas"))


@pytest.mark.parametrize(("chart", "values"), SHAPES)
def test_lint_finds_nothing(helm: Helm, chart: str, values: Path) -> None:
    said = helm.run("lint", CHARTS / chart, "--strict", "--values", values).stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in said


@pytest.mark.parametrize(("chart", "values"), SHAPES)
def test_objects_are_valid_and_labelled(
    helm: Helm, schemas: str, tmp_path: Path, chart: str, values: Path
) -> None:
    """Every object satisfies Kubernetes' own schema, strictly, and says what it belongs to."""
    found = helm.render(chart, "--values", values)
    stream = tmp_path / "objects.yaml"
    stream.write_text(yaml.safe_dump_all(found))
    command = [program("kubeconform"), "-strict", "-summary", "-output", "json"]
    command += ["-kubernetes-version", KUBERNETES, "-schema-location", schemas, stream]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["summary"]["skipped"] == 0
    for name, one in by_name(found).items():
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "Helm", name
        assert labels["app.kubernetes.io/instance"] == chart, name
        assert all(len(label) <= 63 for label in labels.values()), name


@pytest.mark.parametrize(("chart", "values"), SHAPES)
def test_its_release_is_not_taken_for_another_programs(
    helm: Helm, chart: str, values: Path
) -> None:
    """By what helm records of it, from which hooks are left out."""
    words = ("--values", values, "--kube-version", KUBERNETES, "--no-hooks")
    assert is_of_knit(helm.run("template", chart, CHARTS / chart, *words).stdout)


@pytest.mark.parametrize(("chart", "values"), SHAPES)
def test_every_container_has_requests_and_probes(helm: Helm, chart: str, values: Path) -> None:
    for name, spec in pods(helm.render(chart, "--values", values)).items():
        for container in spec["containers"]:
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert container["resources"]["limits"].keys() >= {"memory"}, name
            if name.startswith(("Deployment/", "StatefulSet/")):
                probes = {"livenessProbe", "readinessProbe", "startupProbe"}
                assert container.keys() & probes, name


@pytest.mark.parametrize("chart", NAMES)
def test_an_unknown_value_is_refused_by_name(helm: Helm, chart: str) -> None:
    values = ci_values(chart)[0]
    said = helm.refusal(chart, "--values", values, "--set", "nonsense=1")
    assert re.search("additional properties? '?nonsense'? (is|are)? ?not allowed", said, re.I), said


@pytest.mark.parametrize("chart", NAMES)
def test_it_may_be_a_part_of_another_chart(helm: Helm, chart: str, tmp_path: Path) -> None:
    """With globals of its parent, and under the parent's release."""
    parent = tmp_path / "parent"
    (parent / "templates").mkdir(parents=True)
    about = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
    part = {"name": chart, "version": "0.1.0", "repository": f"file://{CHARTS / chart}"}
    (parent / "Chart.yaml").write_text(json.dumps(about | {"dependencies": [part]}))
    own = yaml.safe_load(ci_values(chart)[0].read_text()) or {}
    (parent / "values.yaml").write_text(json.dumps({"global": {"team": "ml"}, chart: own}))
    helm.run("dependency", "build", parent)
    alone = by_name(helm.render(chart, "--values", ci_values(chart)[0]))
    assert by_name(helm.render(parent)).keys() == alone.keys()
    helm.run("lint", parent, "--strict")


@pytest.mark.parametrize("chart", NAMES)
def test_values_that_are_null_are_as_good_as_missing(helm: Helm, chart: str) -> None:
    """helm 3 passes a null on, helm 4 drops the key."""
    values = ci_values(chart)[0]
    given = yaml.safe_load(values.read_text()) or {}
    defaults = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    empty = [key for key, value in defaults.items() if value in ("", [], {}) and key not in given]
    nulls = [word for key in empty for word in ("--set-json", f"{key}=null")]
    assert normal(helm.render(chart, "--values", values, *nulls)) == normal(
        helm.render(chart, "--values", values)
    )


@pytest.mark.parametrize("chart", [name for name in NAMES if (SNAPSHOTS / f"{name}.yaml").exists()])
def test_it_renders_what_was_reviewed(helm: Helm, chart: str) -> None:
    """If the change is meant: `python -m tests.charts.snapshots`."""
    committed = (SNAPSHOTS / f"{chart}.yaml").read_text()
    assert normal(helm.render(chart, "--values", ci_values(chart)[0])) == normal(objects(committed))


def normal(found: list[dict[str, Any]]) -> str:
    """Objects in an order of their own, without what is different each time."""
    text = yaml.safe_dump_all([one for _, one in sorted(by_name(found).items())], width=1000)
    return RANDOM.sub("RANDOM", text)
