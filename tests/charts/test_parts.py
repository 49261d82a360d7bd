"""Database, registry, storage and trial Temporal, as helm renders them, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.charts.helm import CHARTS, HELMS, Helm, by_name, ci_values, pods, set_json

PARTS: Final = ("knit-db-postgres", "knit-image-registry", "knit-storage-nfs", "knit-temporal")
CASES: Final = [(chart, file) for chart in PARTS for file in ci_values(chart)]
# knit-temporal cannot be rendered without a database.
DATABASE: Final = {
    "service": "database",
    "port": 5432,
    "temporal": {"enabled": True, "credential": {"secret": "database-temporal-credential"}},
}


@pytest.fixture
def helm_3(tmp_path: Path) -> Helm:
    return Helm("helm-3", tmp_path)


def case_name(case: object) -> str:
    return case.name.removesuffix("-values.yaml") if isinstance(case, Path) else str(case)


@pytest.mark.parametrize(("chart", "values"), CASES, ids=case_name)
def test_every_pod_satisfies_the_restricted_standard(chart: str, values: Path, helm: Helm) -> None:
    for name, pod in pods(helm.render(chart, "--values", values)).items():
        if name == "Deployment/knit-storage-nfs":
            continue  # The kernel's NFS server needs a privileged pod: its test is below.
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in containers(pod):
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert rights["readOnlyRootFilesystem"] is True, name


@pytest.mark.parametrize(("chart", "values"), CASES, ids=case_name)
def test_helm_3_and_4_render_the_same(chart: str, values: Path, tmp_path: Path) -> None:
    rendered = [Helm(name, tmp_path / name).render(chart, "--values", values) for name in HELMS]
    three, four = (without_passwords(objects) for objects in rendered)
    assert three == four


REFUSED: Final = [
    ("knit-db-postgres", {"credential": {"password": "x"}}, "passwords are no values"),
    ("knit-db-postgres", {"appCredential": {"password": "x"}}, "appCredential.password"),
    ("knit-db-postgres", {"external": True}, "external: true also needs service"),
    (
        "knit-db-postgres",
        {"appCredential": {"secret": "database-credential"}},
        "need a Secret each",
    ),
    ("knit-db-postgres", {"credential": {"username": "postgres"}}, "/credential/username"),
    ("knit-db-postgres", {"port": 0}, "port"),
    ("knit-db-postgres", {"initialCapacity": "much"}, "initialCapacity"),
    ("knit-image-registry", {"certs": {"key": "eA=="}}, "private key"),
    ("knit-image-registry", {"certs": {"cakey": "eA=="}}, "certs.cakey"),
    ("knit-image-registry", {"external": True}, "external: true also needs server"),
    ("knit-image-registry", {"server": "r.example.com"}, "set external: true"),
    ("knit-image-registry", {"garbageCollection": {"dailyAt": "3 am"}}, "dailyAt"),
    ("knit-storage-nfs", {"nfs": {"external": True}}, "also needs nfs.server"),
    ("knit-storage-nfs", {"class": {"data": "a", "system": "a"}}, "are the same"),
    ("knit-temporal", {}, "hand over the values of knit-db-postgres"),
    ("knit-temporal", {"database": {"service": "d", "port": 1}}, "temporal.enabled=true"),
]


@pytest.mark.parametrize(("chart", "values", "words"), REFUSED)
def test_wrong_values_are_refused_in_words(
    chart: str, values: dict[str, Any], words: str, helm: Helm, tmp_path: Path
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    said = helm.refusal(chart, "--values", file)
    # helm 3 and 4 name the place of a value with dots and with slashes.
    assert words in said or words.strip("/").replace("/", ".") in said


def test_the_database_is_handed_over_without_a_password(helm: Helm) -> None:
    """All that the next charts get are the values; passwords are in the Secrets alone."""
    rendered = by_name(helm.render("knit-db-postgres"))
    owner, application = (
        rendered[f"Secret/database{middle}-credential"]["data"] for middle in ("", "-app")
    )
    assert owner["password"] != application["password"]
    values = yaml.safe_load((CHARTS / "knit-db-postgres" / "values.yaml").read_text())
    text = json.dumps(values)
    assert "password" not in text
    for secret in (owner, application):
        assert secret["password"] not in text


def test_two_databases_get_two_passwords(helm_3: Helm) -> None:
    first, second = (
        by_name(helm_3.render("knit-db-postgres"))["Secret/database-credential"]["data"]["password"]
        for _ in range(2)
    )
    assert first != second


@pytest.mark.parametrize(
    ("chart", "file"), [("knit-db-postgres", "external"), ("knit-image-registry", "external")]
)
def test_external_installs_nothing(chart: str, file: str, helm: Helm) -> None:
    values = CHARTS / chart / "ci" / f"{file}-values.yaml"
    assert helm.render(chart, "--values", values) == []


def test_what_holds_data_stays_when_a_release_goes(helm_3: Helm) -> None:
    keep = {"helm.sh/resource-policy": "keep"}
    for chart in ("knit-db-postgres", "knit-image-registry"):
        for name, one in by_name(helm_3.render(chart)).items():
            if one["kind"] in ("PersistentVolumeClaim", "Secret"):
                assert keep.items() <= one["metadata"]["annotations"].items(), name


def test_storage_is_taken_from_the_chart_before(helm: Helm) -> None:
    """The values go through as the guide hands them over: all of them, by `--set-json`."""
    storage = yaml.safe_load((CHARTS / "knit-storage-nfs" / "values.yaml").read_text())
    for chart in ("knit-db-postgres", "knit-image-registry"):
        rendered = helm.render(chart, *set_json("storage", storage))
        claims = [one for one in rendered if one["kind"] == "PersistentVolumeClaim"]
        assert [one["spec"]["storageClassName"] for one in claims] == ["knit-storage-system"]
        one_of_its_own = helm.render(
            chart, *set_json("storage", storage), "--set", "storageClass=mine"
        )
        (claim,) = [one for one in one_of_its_own if one["kind"] == "PersistentVolumeClaim"]
        assert claim["spec"]["storageClassName"] == "mine"


def test_without_a_class_the_cluster_decides(helm_3: Helm) -> None:
    """An empty name would forbid dynamic provisioning instead."""
    (claim,) = [
        one for one in helm_3.render("knit-db-postgres") if one["kind"] == "PersistentVolumeClaim"
    ]
    assert "storageClassName" not in claim["spec"]


def test_the_registry_has_the_certificate_that_is_handed_over(helm: Helm) -> None:
    certs: dict[str, object] = {"enabled": True, "secret": {"server": "certs"}, "key": ""}
    with_tls = by_name(helm.render("knit-image-registry", *set_json("certs", certs)))
    assert "listen 8443 ssl" in nginx(with_tls)
    off = by_name(
        helm.render("knit-image-registry", *set_json("certs", certs | {"enabled": False}))
    )
    assert "ssl" not in nginx(off)


def test_temporal_reads_the_database_it_is_given(helm: Helm) -> None:
    rendered = by_name(helm.render("knit-temporal", *set_json("database", DATABASE)))
    config = yaml.safe_load(
        rendered["ConfigMap/temporal-config"]["data"]["knit.yaml"]
        .replace("{{", "'{{")
        .replace("}}", "}}'")
    )
    stores = config["persistence"]["datastores"]
    assert {store["sql"]["connectAddr"] for store in stores.values()} == {"database:5432"}
    dynamic = yaml.safe_load(rendered["ConfigMap/temporal-dynamic-config"]["data"]["dynamic.yaml"])
    assert dynamic["history.transferProcessorMaxPollRPS"] == [{"value": 10000}]
    assert dynamic["system.enableActivityEagerExecution"] == [{"value": True}]


def test_temporals_image_need_not_know_the_user_it_runs_as(helm_3: Helm) -> None:
    """The server ends at once if neither its image's users nor $USER and $HOME say who it is."""
    rendered = helm_3.render(
        "knit-temporal", *set_json("database", DATABASE), "--set", "runAsUser=4711"
    )
    server, _ui = pods(rendered)["Deployment/temporal"]["containers"]
    environment = {one["name"]: one.get("value") for one in server["env"]}
    assert environment["USER"] == "temporal"
    assert environment["HOME"] == "/tmp"


def test_constraints_of_dynamic_configuration_pass_through(helm_3: Helm) -> None:
    values = CHARTS / "knit-temporal" / "ci" / "small-values.yaml"
    rendered = by_name(helm_3.render("knit-temporal", "--values", values))
    dynamic = yaml.safe_load(rendered["ConfigMap/temporal-dynamic-config"]["data"]["dynamic.yaml"])
    assert dynamic["frontend.namespaceRPS"][0]["constraints"] == {"namespace": "knit"}


def test_nfs_folders_are_told_apart_by_namespace_and_claim(helm: Helm) -> None:
    values = CHARTS / "knit-storage-nfs" / "ci" / "external-values.yaml"
    rendered = by_name(helm.render("knit-storage-nfs", "--values", values))
    data = rendered["StorageClass/knit-storage-data"]
    assert data["provisioner"] == "nfs.csi.k8s.io"
    assert data["mountOptions"] == ["nfsvers=4.2", "hard"]
    # Of one part: some releases of the driver delete all that is below the first one.
    assert data["parameters"]["subDir"] == (
        "knit-data_${pvc.metadata.namespace}_${pvc.metadata.name}.d"
    )
    assert data["parameters"]["server"] == "nfs.example.com"
    assert "Deployment/knit-storage-nfs" not in rendered


def test_only_the_nfs_server_for_trials_is_privileged(helm_3: Helm) -> None:
    rendered = by_name(helm_3.render("knit-storage-nfs"))
    (server,) = rendered["Deployment/knit-storage-nfs"]["spec"]["template"]["spec"]["containers"]
    assert server["securityContext"] == {"privileged": True}
    data = rendered["StorageClass/knit-storage-data"]
    assert data["parameters"]["server"] == "knit-nfs.default.svc"


def test_another_provisioner_gets_its_own_parameters_only(helm_3: Helm) -> None:
    values = CHARTS / "knit-storage-nfs" / "ci" / "other-provisioner-values.yaml"
    rendered = by_name(helm_3.render("knit-storage-nfs", "--values", values))
    classes = {"StorageClass/ceph-data", "StorageClass/ceph-system"}
    kept = {name for name in rendered if not name.split("/")[1].startswith("knit-storage-test")}
    assert kept == classes
    for name in classes:
        assert rendered[name]["parameters"] == {"fsName": "research"}
        assert "mountOptions" not in rendered[name]


def containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def nginx(rendered: dict[str, Any]) -> str:
    text: str = rendered["ConfigMap/image-registry-registry"]["data"]["nginx.conf"]
    return text


def without_passwords(objects: list[dict[str, Any]]) -> dict[str, Any]:
    named = by_name(objects)
    for one in named.values():
        if one["kind"] == "Secret":
            one.get("data", {}).pop("password", None)
    return named


def test_the_registry_has_the_time_to_end_that_it_is_given(helm_3: Helm) -> None:
    for seconds, drained in ((60, 55), (600, 595), (3, 1)):
        found = helm_3.render(
            "knit-image-registry", "--set", f"terminationGracePeriodSeconds={seconds}"
        )
        assert f"draintimeout: {drained}s" in str(found)
