"""What runs in the namespace: Deployments and StatefulSets, and why some are not ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from knit_cli.admin.cluster import Cluster

_RELEASE = "meta.helm.sh/release-name"


@dataclass(frozen=True)
class Workload:
    """A Deployment or StatefulSet. `trouble`: why it is not ready, if its pods say so."""

    kind: str
    name: str
    release: str
    ready: int
    wanted: int
    images: tuple[str, ...]
    trouble: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether all its pods are ready, and of the newest form."""
        return self.ready >= self.wanted


def find_workloads(cluster: Cluster, releases: Sequence[str]) -> list[Workload]:
    """Gives the workloads of these releases, by release and name, with the troubles of each."""
    items = cluster.get("deployments,statefulsets")
    mine = [one for one in items if release_of(one) in releases]
    if not mine:
        return []
    pods = cluster.get("pods") if any(not _counts(one).is_ready for one in mine) else []
    return sorted(
        (_counts(one, next(_troubles(one, pods), None)) for one in mine),
        key=lambda one: (releases.index(one.release), one.name),
    )


def workloads_with_variable(cluster: Cluster, secrets: Sequence[str]) -> list[str]:
    """Gives the workloads with one of these Secrets in their environment, as `kind/name`.

    They notice a change only when they are restarted.
    """
    if not secrets:
        return []
    return sorted(
        f"{one['kind'].lower()}/{one['metadata']['name']}"
        for one in cluster.get("deployments,statefulsets")
        if set(secrets) & set(_in_environment(one["spec"]["template"]["spec"]))
    )


def pods_with_secret(cluster: Cluster, secret: str) -> list[str]:
    """Gives the pods that mount a Secret, as `pod/name`."""
    return sorted(
        f"pod/{one['metadata']['name']}"
        for one in cluster.get("pods")
        if secret in _mounted(one["spec"])
    )


def restart(cluster: Cluster, workloads: Sequence[str], *, timeout: str) -> None:
    """Replaces the pods of workloads, one after the other, and waits until the new ones are ready.

    Raises:
        ToolFailed: they did not become ready in time.
    """
    if not workloads:
        return
    cluster.kubectl("rollout", "restart", *workloads)
    for one in workloads:
        cluster.kubectl("rollout", "status", one, "--timeout", timeout)


def release_of(item: Any) -> str:
    """Gives the release that an object belongs to; empty: none."""
    return str(item["metadata"].get("annotations", {}).get(_RELEASE, ""))


def _counts(item: Any, trouble: str | None = None) -> Workload:
    status, spec = item.get("status", {}), item["spec"]
    current = status.get("observedGeneration") == item["metadata"].get("generation")
    updated = status.get("updatedReplicas", 0) if current else 0
    containers = spec["template"]["spec"]["containers"]
    return Workload(
        kind=item["kind"],
        name=item["metadata"]["name"],
        release=release_of(item),
        ready=min(status.get("readyReplicas", 0), updated),
        wanted=spec.get("replicas", 1),
        images=tuple(one["image"] for one in containers),
        trouble=trouble,
    )


def _troubles(workload: Any, pods: Sequence[Any]) -> Iterator[str]:
    wanted = workload["spec"]["selector"].get("matchLabels", {}).items()
    for pod in pods:
        if not wanted <= pod["metadata"].get("labels", {}).items():
            continue
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            waiting = one.get("state", {}).get("waiting")
            if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
                yield f"{name}: {waiting.get('reason')} {waiting.get('message', '')}".strip()
            ended = one.get("state", {}).get("terminated") or one.get("lastState", {}).get(
                "terminated"
            )
            if ended and ended.get("exitCode"):
                yield f"{name}: {one['name']} ended with exit code {ended['exitCode']}"
        for condition in status.get("conditions", ()):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                yield f"{name}: {condition.get('message', 'not scheduled')}"


def _mounted(pod: Any) -> Iterator[str]:
    for volume in pod.get("volumes", ()):
        yield volume.get("secret", {}).get("secretName", "")
        for source in volume.get("projected", {}).get("sources", ()):
            yield source.get("secret", {}).get("name", "")


def _in_environment(pod: Any) -> Iterator[str]:
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        for one in container.get("env", ()):
            yield one.get("valueFrom", {}).get("secretKeyRef", {}).get("name", "")
        for one in container.get("envFrom", ()):
            yield one.get("secretRef", {}).get("name", "")
