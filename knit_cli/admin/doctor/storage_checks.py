"""Tries the storage with real claims: small ones, removed again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from knit_cli.admin import charts
from knit_cli.admin.cluster import Cluster
from knit_cli.admin.doctor.findings import Finding, ok, problem, unknown, words
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm import releases
from knit_cli.admin.helm.values import value_at
from knit_cli.admin.secret_objects import namespace_is_there
from knit_cli.errors import CliError

LABEL: Final = "app.kubernetes.io/managed-by=knit-doctor"
_KEPT: Final = 63 - len("-knit-doctor")
_IMAGE: Final = "registry.k8s.io/pause:3.10"
"""It need not run, nor exist: a pod that is scheduled is enough for a claim to be bound."""


def check_storage(folder: SettingsFolder, cluster: Cluster, within: float) -> Iterator[Finding]:
    """Whether a claim as Runs make them is bound within some seconds: its class, its access mode.

    Before an installation, when the namespace need not be there, one for the trial is made and
    removed again. What a doctor that was killed left behind is removed as well.
    """
    try:
        name = _class_of_data(folder, cluster)
        with _place(cluster) as place:
            yield from _try(place, name, within)
    except CliError as error:
        yield unknown("storage", words(error), error.advice or "check the rights on claims")


@contextmanager
def _place(cluster: Cluster) -> Iterator[Cluster]:
    """Gives where to try: in the namespace, or in one of the doctor's own while it is missing.

    The namespace itself is not made: whoever installs meanwhile would have it removed under them.
    """
    if namespace_is_there(cluster):
        place, left = cluster, ["pods,persistentvolumeclaims", "--selector", LABEL]
    else:
        place = replace(cluster, namespace=f"{cluster.namespace[:_KEPT]}-knit-doctor")
        by_name = f"--field-selector=metadata.name={place.namespace}"
        left = ["namespaces", "--selector", LABEL, by_name]
    place.delete(*left)
    if place is not cluster:
        own = {"name": place.namespace, "labels": _labels()}
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": own}
        place.kubectl("create", "--filename", "-", given=json.dumps(made))
    try:
        yield place
    finally:
        place.delete(*left, "--wait=false")


def _try(cluster: Cluster, name: str | None, within: float) -> Iterator[Finding]:
    shown = f"StorageClass {name}" if name else "the cluster's default StorageClass"
    if name is not None and cluster.find("storageclass", name) is None:
        yield problem(
            "storage",
            f"{shown} does not exist",
            "kubectl get storageclass lists those there are; name one in storage.class.data",
        )
        return
    for one in _objects(name):
        cluster.apply(one)
    deadline = time.monotonic() + within
    began = time.monotonic()
    while True:
        claim = cluster.get("persistentvolumeclaim", "knit-doctor")
        if claim.get("status", {}).get("phase") == "Bound":
            spent = time.monotonic() - began
            yield ok("storage", f"{shown} gave a ReadWriteMany volume in {spent:.1f} s")
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    events = cluster.get(
        "events", "--field-selector", "involvedObject.name=knit-doctor", "--sort-by=.lastTimestamp"
    )
    reason = events[-1].get("message", "") if events else "its provisioner says nothing"
    yield problem(
        "storage",
        f"{shown} gave no ReadWriteMany volume within {within:.0f} s: {' '.join(reason.split())}",
        "choose a class whose provisioner makes ReadWriteMany volumes, and see that it runs",
    )


def _class_of_data(folder: SettingsFolder, cluster: Cluster) -> str | None:
    """Gives the StorageClass of Data, as knit-app hears of it; None: the cluster's default."""
    mine = value_at(folder, charts.APP, "storage", "class", "data")
    if mine or charts.STORAGE not in charts.chosen(folder):
        return str(mine) if mine else None
    if charts.STORAGE in releases.find_releases(cluster):
        name = (releases.values_of(cluster, charts.STORAGE).get("class") or {}).get("data")
    else:
        name = value_at(folder, charts.STORAGE, "class", "data")
    return str(name) if name else None


def _labels() -> dict[str, str]:
    return dict([LABEL.split("=")])


def _objects(storage_class: str | None) -> list[dict[str, Any]]:
    metadata = {"name": "knit-doctor", "labels": _labels()}
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "16Mi"}},
    }
    if storage_class is not None:
        claim["storageClassName"] = storage_class
    container = {
        "name": "wait",
        "image": _IMAGE,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"limits": {"cpu": "10m", "memory": "16Mi"}},
    }
    pod = {
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "knit-doctor"}}],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata,
            "spec": claim,
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod},
    ]
