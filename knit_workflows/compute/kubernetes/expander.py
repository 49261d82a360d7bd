"""Expands claims that run full while pods of knit write to them.

The kubelet of each node with such pods is asked how full its volumes are, through the API server
(`nodes/NAME/proxy/metrics`); a claim with less than the margin left requests the delta more. That
needs a StorageClass with `allowVolumeExpansion`, and rights of its own: see the guide.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from knit_workflows import names
from knit_workflows.compute.kubernetes.api.objects import JsonObject, being_deleted
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.domain.quantities import parse_quantity
from knit_workflows.settings import KubernetesSettings

log = logging.getLogger(__name__)

MANAGED: Final = "vex.knitfab/managed"
"""Annotation of a claim, as Knitfab has it: `"false"` leaves the claim as it is."""
_CLAIM: Final = "PersistentVolumeClaim"
_OURS: Final = "app.kubernetes.io/part-of=knit"
_ROUND: Final = 10**9
_USED: Final = re.compile(
    r"^kubelet_volume_stats_used_bytes\{([^}]*)\} ([0-9.eE+]+)(?: [0-9]+)?$", re.MULTILINE
)
_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Growth:
    """When a claim is expanded and by how much, in bytes; `most` None: without an end."""

    margin: int
    delta: int
    most: int | None = None

    @classmethod
    def of(cls, settings: KubernetesSettings) -> Growth:
        """Reads it from the settings."""
        most = settings.expander_most
        return cls(
            int(parse_quantity(settings.expander_margin)),
            int(parse_quantity(settings.expander_delta)),
            None if most is None else int(parse_quantity(most)),
        )


def wanted_bytes(used: int, capacity: int, growth: Growth) -> int | None:
    """Gives what a claim should request, in whole 10⁹ bytes; None: it has enough, or the most."""
    if used + growth.margin < capacity:
        return None
    wanted = -(-(max(capacity, used) + growth.delta) // _ROUND) * _ROUND
    if growth.most is not None:
        wanted = min(wanted, growth.most)
    return wanted if wanted > capacity else None


def capacity_of(claim: JsonObject) -> int:
    """Gives what a claim has or has requested, whichever is more: a request may be under way."""
    requested = claim["spec"].get("resources", {}).get("requests", {}).get("storage", "0")
    present = (claim.get("status") or {}).get("capacity", {}).get("storage", "0")
    return int(max(parse_quantity(requested), parse_quantity(present)))


def used_bytes(metrics: str, namespace: str) -> dict[str, int]:
    """Reads a kubelet's metrics: how many bytes are used in each claim of the namespace."""
    found = {}
    for labels, value in _USED.findall(metrics):
        named = dict(_LABEL.findall(labels))
        if named.get("namespace") == namespace and "persistentvolumeclaim" in named:
            found[named["persistentvolumeclaim"]] = int(Decimal(value))
    return found


def written_claims(pods: Iterable[JsonObject]) -> dict[str, set[str]]:
    """Gives the claims of knit's own that pods write to, by the node that they are on."""
    found: dict[str, set[str]] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and pod.get("status", {}).get("phase") in ("Pending", "Running"):
            found.setdefault(node, set()).update(_written(pod["spec"]))
    return {node: claims for node, claims in found.items() if claims}


def _written(spec: JsonObject) -> Iterator[str]:
    claims = {
        one["name"]: one["persistentVolumeClaim"]["claimName"]
        for one in spec.get("volumes", ())
        if "persistentVolumeClaim" in one
    }
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        for mount in container.get("volumeMounts", ()):
            claim = claims.get(mount["name"], "")
            if names.is_own_volume(claim) and not mount.get("readOnly"):
                yield claim


class Expander:
    """Looks at the claims of one namespace again and again."""

    def __init__(self, server: ApiServer, settings: KubernetesSettings) -> None:
        self._server = server
        self._settings = settings
        self._growth = Growth.of(settings)
        self._refused: dict[str, int] = {}
        """What was refused to claims in the last round, so that it is told once."""
        self._problem = "it has not looked yet"

    async def answers(self) -> None:
        """Raises BackendUnavailable if the last round failed, and says why."""
        if self._problem:
            raise BackendUnavailable(self._problem)

    async def run(self) -> None:
        """Looks until it is cancelled; what fails is told when it changes."""
        while True:
            problem = ""
            try:
                await self.look()
            except (BackendUnavailable, BackendRejected) as error:
                problem = error.reason
            if problem and problem != self._problem:
                log.warning("claims are not looked at: %s", problem, extra={"action": "vex_failed"})
            self._problem = problem
            await asyncio.sleep(self._settings.expander_interval.total_seconds())

    async def look(self) -> list[str]:
        """Looks once at all claims that are written to; gives those that it has expanded.

        Raises the first problem of a node or claim, once all others have been looked at.
        """
        pods, _ = await self._server.list("Pod", {"labelSelector": _OURS})
        written = written_claims(pods)
        mounted = set().union(*written.values())
        self._refused = {name: most for name, most in self._refused.items() if name in mounted}
        expanded: list[str] = []
        problems: list[BackendUnavailable | BackendRejected] = []
        for node, claims in sorted(written.items()):
            try:
                expanded += await self._expand_on(node, claims)
            except (BackendUnavailable, BackendRejected) as problem:
                problems.append(problem)
        if problems:
            raise problems[0]
        return expanded

    async def _expand_on(self, node: str, claims: set[str]) -> list[str]:
        used = used_bytes(await self._server.node_metrics(node), self._settings.kube_namespace)
        near = sorted(claims & used.keys())
        return [claim for claim in near if await self.expand(claim, used[claim])]

    async def expand(self, name: str, used: int) -> bool:
        """Has a claim request more if it is short of room; says whether it did."""
        claim = await self._server.get(_CLAIM, name)
        if claim is None or being_deleted(claim):
            return False
        if (claim["metadata"].get("annotations") or {}).get(MANAGED) == "false":
            return False
        wanted = wanted_bytes(used, capacity_of(claim), self._growth)
        if wanted is None:
            return False
        about = {"claim": name, "used": used, "wanted": wanted}
        try:
            requests = {"storage": str(wanted)}
            patch = {"spec": {"resources": {"requests": requests}}}
            await self._server.patch(_CLAIM, name, patch)
        except BackendRejected as error:  # of a quota, say, which may have room in the next round
            if self._refused.get(name) != wanted:
                self._refused[name] = wanted
                extra = {"action": "claim_not_expanded", **about}
                log.warning("claim %s cannot be expanded: %s", name, error.reason, extra=extra)
            return False
        self._refused.pop(name, None)
        log.info("claim %s is expanded", name, extra={"action": "claim_expanded", **about})
        return True
