"""Scales the parts of an installation, and waits for what that means."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.freezing.record import HOLD, Part, forgetting
from knit_cli.errors import CliError

HELD: Final = "an administrator has frozen this knit: Runs start again after the thaw"
"""What users read of Runs that wait meanwhile."""
_GONE_WITHIN: Final = 180.0
"""Seconds that pods may take to end: a worker has 30 by itself."""
_PAUSE: Final = 1.0
_NOT_ENDED: Final = "status.phase!=Failed,status.phase!=Succeeded"
"""Pods that were evicted, or whose node was shut down, stay as Failed and run no more."""


def scale(cluster: Cluster, parts: Iterable[Part], counts: Mapping[str, int]) -> None:
    """Scales Deployments, those of the same number with one call."""
    wanted: dict[int, list[str]] = {}
    for part in parts:
        if part.name in counts:
            wanted.setdefault(counts[part.name], []).append(part.workload)
    for count, names in sorted(wanted.items()):
        cluster.kubectl("scale", *names, f"--replicas={count}")


def stop(cluster: Cluster, parts: Sequence[Part]) -> None:
    """Scales Deployments to 0, and waits until their pods are gone, or have ended.

    Raises:
        CliError: some are still there.
    """
    if not parts:
        return
    scale(cluster, parts, dict.fromkeys((one.name for one in parts), 0))
    deadline = time.monotonic() + _GONE_WITHIN
    left = list(parts)
    while left := [one for one in left if _pods(cluster, one)]:
        if time.monotonic() > deadline:
            names = ", ".join(one.name for one in left)
            raise CliError(
                f"pods of {names} do not end",
                reason="they were told to, minutes ago; is their node lost?",
                advice=f"see kubectl -n {cluster.namespace} get pods -o wide; then repeat",
            )
        time.sleep(_PAUSE)


def _pods(cluster: Cluster, part: Part) -> list[Any]:
    """Gives the pods of a Deployment that may still be at work."""
    selected = ("--selector", part.selector, "--field-selector", _NOT_ENDED)
    found: list[Any] = cluster.get("pods", *selected)
    return found


def hold(cluster: Cluster, part: Part) -> None:
    """Has the workers of a Deployment, which is at 0, admit no Run from their next start on."""
    cluster.kubectl("set", "env", part.workload, f"{HOLD}={HELD}")


def release(cluster: Cluster, part: Part) -> None:
    """Has them admit Runs again."""
    cluster.kubectl("set", "env", part.workload, f"{HOLD}-")


def wait_until_ready(cluster: Cluster, parts: Iterable[Part], *, timeout: str) -> None:
    """Waits for the pods of Deployments.

    Raises:
        CliError: they are not ready in time.
    """
    for part in parts:
        try:
            cluster.kubectl("rollout", "status", part.workload, "--timeout", timeout)
        except ToolFailed as failed:
            if failed.advice is not None:  # the cluster does not answer, or refuses
                raise
            raise CliError(
                f"{part.name} does not become ready",
                reason=failed.reason,
                advice=f"see `knit admin status` and kubectl -n {cluster.namespace} logs "
                f"{part.workload}; mend it and repeat, or, if it needs another installation "
                f"(a database that has moved), {forgetting(cluster)}, then run "
                "`knit admin install`",
            ) from failed
