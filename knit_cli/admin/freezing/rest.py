"""Whether anything is under way: asked in a pod of its own, which outlives API and workers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.freezing.record import Part
from knit_cli.admin.job_pod import start_pod, waiting_pod
from knit_cli.errors import CliError

POD: Final = "knit-freeze"
_MODULE: Final = ("python3", "-m", "knit_workflows.operations.quiescence")
_NAMED: Final = 5


@dataclass(frozen=True)
class UnderWay:
    """How many Runs there are of each status, the ids of some, and how many were ended just now."""

    statuses: Mapping[str, int]
    runs: Sequence[str]
    stopped: int = 0

    def __bool__(self) -> bool:
        return bool(self.statuses)

    def __str__(self) -> str:
        if not self.statuses:
            return "no Run is under way"
        counted = ", ".join(f"{count:,} {status}" for status, count in self.statuses.items())
        more = " …" if sum(self.statuses.values()) > _NAMED else ""
        return f"Runs under way: {counted} ({', '.join(self.runs[:_NAMED])}{more})"


class Rest:
    """Asks for what is under way, and ends it; a context manager that keeps a pod for it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pod = waiting_pod(cluster, POD)

    def __enter__(self) -> Rest:
        self._pod.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._pod.__exit__(None, None, None)

    def look(self, *, failing_as: str | None = None) -> UnderWay:
        """Says what is under way, after Runs with a container were ended by `failing_as`.

        Raises:
            CliError: the database does not answer, or no pod can be started for it.
        """
        words = ("show",) if failing_as is None else ("fail", "--by", failing_as)
        try:
            return _asked(self._cluster, POD, *words)
        except ToolFailed:
            # After an hour the cluster ends the pod; a node may be gone, too.
            start_pod(self._cluster, POD)
            return _asked(self._cluster, POD, *words)


def look_through(cluster: Cluster, parts: Sequence[Part]) -> UnderWay | None:
    """Says what is under way, without a pod of its own; None: nothing of knit runs."""
    for part in parts:
        if part.replicas and part.component != "worker-expander":
            return _asked(cluster, part.workload, "show")
    return None


def _asked(cluster: Cluster, pod: str, *words: str) -> UnderWay:
    printed = cluster.kubectl("exec", pod, "--", *_MODULE, *words)
    try:
        found = json.loads(printed)
        return UnderWay(dict(found["statuses"]), list(found["runs"]), int(found["stopped"]))
    except (ValueError, KeyError, TypeError) as cause:
        raise CliError(
            "the pod says in another form what is under way",
            reason=printed.strip()[:200] or None,
            advice="upgrade the installation to the version of this knit, or use that one",
        ) from cause
