"""What is remembered of a freeze, in the cluster, so that any machine can thaw: a ConfigMap.

It is written before anything is changed, and removed when everything is as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self

from knit_cli.admin import charts
from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.workloads import release_of
from knit_cli.errors import CliError

RECORD: Final = "knit-frozen"
"""Name of the ConfigMap."""
HOLD: Final = "KNIT_ENGINE__HOLD"
"""The setting of workers with the role engine that keeps Runs from being admitted."""
_COMPONENT: Final = "app.kubernetes.io/component"
_LABELS: Final = {
    "app.kubernetes.io/part-of": "knit",
    "app.kubernetes.io/managed-by": "knit-admin",
}


@dataclass(frozen=True)
class Part:
    """A Deployment that a freeze scales. `component`: `api`, `worker-…`, or `registry`."""

    name: str
    component: str
    replicas: int
    selector: str
    held: bool
    """Whether its workers admit no Runs."""

    @property
    def workload(self) -> str:
        """How kubectl calls it."""
        return f"deployment/{self.name}"


@dataclass(frozen=True)
class Parts:
    """The Deployments of knit-app and of the registry, in the order in which a thaw starts them."""

    registry: tuple[Part, ...]
    workers: tuple[Part, ...]
    api: tuple[Part, ...]

    @classmethod
    def find(cls, cluster: Cluster) -> Self:
        """Finds them.

        Raises:
            CliError: knit is not installed there.
        """
        found = [
            _part(one)
            for one in cluster.get("deployments")
            if release_of(one) in (charts.APP, charts.REGISTRY)
        ]
        found.sort(key=lambda one: one.name)
        workers = tuple(one for one in found if one.component.startswith("worker-"))
        api = tuple(one for one in found if one.component == "api")
        if not workers or not api:
            raise CliError(
                f"knit is not installed in namespace {cluster.namespace}",
                reason="there is no Deployment of an API, or none of workers",
                advice="name the namespace (--namespace), or run `knit admin install`",
            )
        return cls(tuple(one for one in found if one.component == "registry"), workers, api)

    def __iter__(self) -> Any:
        return iter((*self.registry, *self.workers, *self.api))

    @property
    def engine(self) -> Part:
        """The one whose workers admit Runs: of their own, or with all roles together."""
        named = {one.component: one for one in self.workers}
        return named.get("worker-engine") or named.get("worker-compute") or self.workers[0]


@dataclass(frozen=True)
class Record:
    """A freeze. `replicas`: of each Deployment before it; `at_rest`: whether nothing is under way.

    `by`: who has begun it, `since` when. `thawing`: a thaw has begun, and not ended yet.
    """

    since: datetime
    by: str
    replicas: Mapping[str, int]
    at_rest: bool = False
    thawing: bool = False

    @classmethod
    def find(cls, cluster: Cluster) -> Self | None:
        """Reads it; None: the installation is not frozen.

        Raises:
            CliError: it is there, and cannot be understood.
        """
        found = cluster.find("configmap", RECORD)
        if found is None:
            return None
        try:
            content = found["data"]
            counts = json.loads(content["replicas"])
            return cls(
                since=datetime.fromisoformat(content["since"]),
                by=str(content["by"]),
                replicas={str(name): int(count) for name, count in counts.items()},
                at_rest=content.get("atRest") == "true",
                thawing=content.get("thawing") == "true",
            )
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise CliError(
                f"the ConfigMap {RECORD} cannot be understood",
                reason="somebody has changed it, or another version of knit has written it",
                advice="scale the Deployments by hand, then delete it",
            ) from cause

    def begin(self, cluster: Cluster) -> Record:
        """Writes it, unless another machine has just done so: then gives what that has written."""
        try:
            cluster.kubectl("create", "--filename", "-", given=json.dumps(self._manifest()))
        except ToolFailed as failed:
            there = self.find(cluster) if "exists" in failed.stderr.lower() else None
            if there is None:
                raise
            return there
        return self

    def completed(self, cluster: Cluster, parts: Parts) -> Record:
        """Adds Deployments that have come since, and takes a thaw back that was cut.

        It says so in the cluster, and gives the whole.
        """
        new = {one.name: one.replicas for one in parts if one.name not in self.replicas}
        if not new and not self.thawing:
            return self
        whole = replace(self, replicas={**self.replicas, **new}, thawing=False)
        whole.save(cluster)
        return whole

    def check_in_force(self, cluster: Cluster) -> None:
        """Refuses to go on with a freeze that somebody has undone, or is undoing.

        Raises:
            CliError: it was thawed meanwhile, or is being thawed.
        """
        there = Record.find(cluster)
        if there is not None and there.since == self.since and not there.thawing:
            return
        if there is not None and there.since != self.since:
            reason = f"since then {there.by} has begun to freeze it again"
        else:
            reason = "somebody has run `knit admin thaw`, or the script that thaws"
        raise CliError(
            f"the knit in namespace {cluster.namespace} was thawed meanwhile: it is not frozen",
            reason=reason,
            advice="see `knit admin status`; to freeze it all the same, repeat the command",
        )

    def save(self, cluster: Cluster) -> None:
        """Writes it over what is there."""
        cluster.apply(self._manifest())

    def _manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": RECORD, "labels": _LABELS},
            "data": {
                "since": self.since.isoformat(),
                "by": self.by,
                "replicas": json.dumps(dict(sorted(self.replicas.items()))),
                # All of them at any time: what another one has set would outlive being left out.
                "atRest": "true" if self.at_rest else "false",
                "thawing": "true" if self.thawing else "false",
            },
        }


def check_not_frozen(cluster: Cluster) -> None:
    """Refuses to go on with a frozen installation: helm would thaw half of it.

    Raises:
        CliError: it is frozen.
    """
    if (record := Record.find(cluster)) is not None:
        raise CliError(
            f"the knit in namespace {cluster.namespace} is frozen",
            reason=f"{record.by} has begun to freeze it at {record.since.isoformat()}",
            advice="thaw it first: knit admin thaw; if that fails because a part does not become "
            f"ready, {forgetting(cluster)}, then repeat",
        )


def forgetting(cluster: Cluster) -> str:
    """Says how an administrator forgets a freeze; goes on with what is done after that."""
    return f"forget the freeze (kubectl -n {cluster.namespace} delete configmap {RECORD})"


def _part(item: Any) -> Part:
    metadata, spec = item["metadata"], item["spec"]
    own = release_of(item) == charts.REGISTRY
    labels = spec["selector"].get("matchLabels", {})
    variables = spec["template"]["spec"]["containers"][0].get("env", ())
    return Part(
        name=metadata["name"],
        component="registry" if own else str(labels.get(_COMPONENT, "")),
        replicas=int(spec.get("replicas", 1)),
        selector=",".join(f"{key}={value}" for key, value in labels.items()),
        held=any(one["name"] == HOLD for one in variables),
    )
