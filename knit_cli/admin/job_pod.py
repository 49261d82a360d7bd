"""A pod that waits, with what the migration has: the owner's credential, and the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from knit_cli.admin import charts
from knit_cli.admin.cluster import Cluster
from knit_cli.errors import CliError

_OF_JOBS: Final = ("controller-uid", "job-name")
LIFE: Final = 3600
"""Seconds after which such a pod is ended by the cluster, unless another life is asked for."""


@contextmanager
def waiting_pod(cluster: Cluster, name: str) -> Iterator[None]:
    """Makes the pod, and removes it at the end, as well as one of a command that was killed.

    Raises:
        CliError: knit is not installed, or the pod does not start.
    """
    start_pod(cluster, name)
    try:
        yield
    finally:
        with suppress(CliError):
            cluster.delete("pod", name, "--grace-period=0", "--wait=false")


def start_pod(cluster: Cluster, name: str) -> None:
    """Makes the pod anew, and waits until it is ready; raises as `waiting_pod` does."""
    pod = pod_like(migration_of(cluster), name)
    cluster.delete("pod", name, "--grace-period=0")
    cluster.apply(pod)
    cluster.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=2m")


def pod_like(job: Mapping[str, Any], name: str, *, life: int = LIFE) -> dict[str, Any]:
    """Gives a pod that waits, with the environment, rights and labels of a Job's."""
    template = job["spec"]["template"]
    spec = {**template["spec"], "restartPolicy": "Never", "activeDeadlineSeconds": life}
    [container] = template["spec"]["containers"]
    spec["containers"] = [{**container, "command": ["sleep", str(life)]}]
    spec["terminationGracePeriodSeconds"] = 0
    labels = {
        key: value
        for key, value in template["metadata"].get("labels", {}).items()
        if key.rpartition("/")[2] not in _OF_JOBS
    }
    # Not of the release: neither a Service nor a look at its crashes shall meet it.
    labels.pop("app.kubernetes.io/instance", None)
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def migration_of(cluster: Cluster) -> Any:
    """Gives the Job that has migrated the database, the last one; raises CliError without any."""
    selector = f"app.kubernetes.io/instance={charts.APP},app.kubernetes.io/component=migrate"
    jobs = cluster.get("jobs", "--selector", selector)
    if not jobs:
        raise CliError(
            f"knit is not installed in namespace {cluster.namespace}",
            reason="its migration, whose access to the database is used, is not there",
            advice="name the namespace (--namespace), or repeat `knit admin install`",
        )
    return max(jobs, key=lambda one: str(one["metadata"].get("creationTimestamp", "")))
